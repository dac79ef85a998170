"""The stand-in for Stripe within this process: no sockets, each delivery by the test's hand."""

import itertools
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest import mock

from django.conf import settings
from django.test import Client, override_settings
from stripe import APIConnectionError, HTTPClient

from billing.localstripe import control, delivery
from billing.localstripe.api import Api
from billing.localstripe.delivery import Post
from billing.localstripe.errors import ApiError
from billing.localstripe.faults import Faults
from billing.localstripe.resources.webhooks import listen
from billing.localstripe.store import Store
from billing.localstripe.world import World

SECRET = "whsec_a_secret_of_tests"
WEBHOOK = "/stripe/webhook/"
_bases = (f"http://127.0.0.1:{port}" for port in itertools.count(20_000))


class Direct(HTTPClient):
    """stripe-python's way to a world in this process. A lost answer is a connection that broke."""

    name = "direct"

    def __init__(self, world: World) -> None:
        super().__init__()
        self.api = Api(world)
        self.calls: list[tuple[str, str, str]] = []  # method, path, idempotency key

    def request(
        self, method: str, url: str, headers: Mapping[str, str], post_data: str | None = None
    ) -> tuple[str, int, Mapping[str, str]]:
        target = url[url.index("/", len("https://")) :]
        lower = {name.lower(): value for name, value in headers.items()}
        self.calls.append((method, target.partition("?")[0], lower.get("idempotency-key", "")))
        answer = self.api.call(method.upper(), target, lower, post_data or "")
        if answer.lost:
            raise APIConnectionError("the connection broke")
        return answer.body, answer.status, answer.headers

    def close(self) -> None:
        pass


class LocalStripe:
    """Stripe's side, and what the people and banks there do."""

    def __init__(self, faults: Faults | None = None) -> None:
        self.world = World(Store(), faults)
        self.direct = Direct(self.world)
        self.listen(SECRET)

    def listen(self, secret: str) -> None:
        listen(self.world, f"http://testserver{WEBHOOK}", ["*"], secret)

    def act(self, what: str, **told: Any) -> dict[str, Any]:
        """Press a button there. A declined card raises ApiError, and is kept."""
        kept = None
        with self.world.store.transaction():
            try:
                return control.act(self.world, what, told)
            except ApiError as error:
                if not error.keeps:
                    raise
                kept = error
        raise kept

    def pay(self, url: str, **told: Any) -> dict[str, Any]:
        """Somebody pays on the page with this address."""
        return self.act("pay", id=url.rsplit("/", 1)[1], **told)

    def newest(self, kind: str) -> dict[str, Any]:
        return next(self.world.store.all(kind))

    def all(self, kind: str) -> list[dict[str, Any]]:
        return list(self.world.store.all(kind))

    def waiting(self) -> list[Post]:
        """Deliveries that nobody has taken yet."""
        return delivery.due(self.world, all_of_them=True)

    def send(self, post: Post, browser: Client | None = None) -> int:
        """One try; the status that it was answered with."""
        answer = (browser or Client()).post(
            WEBHOOK,
            post.body,
            content_type="application/json",
            headers={"Stripe-Signature": post.signature},
        )
        if answer.status_code == 200:
            delivery.done(self.world, post.delivery)
        return answer.status_code

    def deliver(self, shuffle: random.Random | None = None, rounds: int = 50) -> list[int]:
        """Send all that waits until it is taken; the statuses."""
        statuses = []
        for _round in range(rounds):
            posts = self.waiting()
            if not posts:
                return statuses
            if shuffle is not None:
                shuffle.shuffle(posts)
            statuses += [self.send(post) for post in posts]
        raise AssertionError(f"never taken: {[post.body[:200] for post in self.waiting()]}")


@contextmanager
def local_stripe(faults: Faults | None = None, **env: Any) -> Iterator[LocalStripe]:
    """Modelport with this as its Stripe."""
    stripe = LocalStripe(faults)
    base = next(_bases)
    stripe.world.base = base
    changed = {
        "stripe_secret_key": "sk_test_of_tests",
        "stripe_webhook_secrets": (SECRET,),
        "stripe_api_base": base,
    }
    with (
        mock.patch("billing.payments.client.http_client", lambda _base: stripe.direct),
        override_settings(ENV=replace(settings.ENV, **(changed | env))),
    ):
        yield stripe
