"""Webhooks on their way: signed, repeated, late, in any order, tried again until they are taken."""

import asyncio
import json
import logging
from typing import NamedTuple

import httpx2
from stripe import WebhookSignature

from billing.localstripe.world import World

log = logging.getLogger(__name__)

AT_A_TIME = 16
TRIES = 30
LONGEST_WAIT = 60.0  # seconds between tries
LOOK_EVERY = 0.05  # seconds
PATIENCE = 30.0  # seconds for an answer


class Post(NamedTuple):
    """One try of one delivery."""

    delivery: int
    url: str
    body: str
    signature: str


def due(world: World, *, all_of_them: bool = False) -> list[Post]:
    """What is to be sent now. `all_of_them`: later ones too, in the order in which they are due."""
    until = float("inf") if all_of_them else world.store.clock
    rows = world.store.db.execute(
        "SELECT id, event, endpoint FROM delivery WHERE done = 0 AND due <= ? ORDER BY due LIMIT ?",
        [until, -1 if all_of_them else AT_A_TIME],
    ).fetchall()
    return [post for row in rows if (post := _post(world, *row)) is not None]


def _post(world: World, delivery: int, event_id: str, endpoint_id: str) -> Post | None:
    event = world.store.get("event", event_id)
    endpoint = world.store.get("webhook_endpoint", endpoint_id)
    if event is None or endpoint is None:
        done(world, delivery)
        return None
    body = json.dumps(event)
    signature = WebhookSignature.generate_signature_header(body, world.secret_of(endpoint_id))
    return Post(delivery, endpoint["url"], body, signature)


def done(world: World, delivery: int) -> None:
    world.store.db.execute("UPDATE delivery SET done = 1 WHERE id = ?", [delivery])


def refused(world: World, delivery: int) -> None:
    """Try it again, later each time; Stripe gives up after three days, we after so many tries."""
    (tries,) = world.store.db.execute(
        "UPDATE delivery SET tries = tries + 1, done = (tries + 1 >= ?) WHERE id = ? "
        "RETURNING tries",
        [TRIES, delivery],
    ).fetchone()
    wait = min(LONGEST_WAIT, 0.2 * 2.0**tries)
    world.store.db.execute(
        "UPDATE delivery SET due = ? WHERE id = ?", [world.store.clock + wait, delivery]
    )


class Deliverer:
    """Sends what is due until its task is cancelled."""

    def __init__(self, world: World) -> None:
        self.world = world

    async def run(self) -> None:
        async with httpx2.AsyncClient(trust_env=False, timeout=PATIENCE) as client:
            while True:
                posts = [] if self.world.faults.hold else due(self.world)
                if posts:
                    self.world.faults.dice.shuffle(posts)
                    await asyncio.gather(*(self._send(client, post) for post in posts))
                else:
                    await asyncio.sleep(LOOK_EVERY)

    async def _send(self, client: httpx2.AsyncClient, post: Post) -> None:
        headers = {"content-type": "application/json", "stripe-signature": post.signature}
        try:
            answer = await client.post(post.url, content=post.body, headers=headers)
            taken = answer.is_success
        except httpx2.HTTPError as error:
            log.info("%s: %s", post.url, error)
            taken = False
        (done if taken else refused)(self.world, post.delivery)
