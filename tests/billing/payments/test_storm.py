"""P5, the short form: whatever order, however often, with answers that get lost and forgeries in
between, the wallet is exact. The long form is `python -m tests.storm.stripe`."""

import json
import os
import random
from contextlib import suppress
from datetime import timedelta
from typing import Any

from django.core.exceptions import ValidationError
from django.test import Client
from django.utils import timezone
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.extra.django import TestCase
from stripe import WebhookSignature

from accounts.models import Organization
from billing import wallet
from billing.localstripe.errors import ApiError
from billing.localstripe.faults import Faults
from billing.models import Balance, BillingProfile, SavedCard, StripeCall, TakenBack, TopUp
from billing.money import NANO, nano_of_stripe
from billing.payments import automatic, cards, checkout, outbox, reconcile, takebacks
from portal.lib.errors import Refusal
from tests.fakes.stripe import WEBHOOK, LocalStripe, local_stripe

BACK = "http://localhost:8000/o/x/billing/"
CURRENCIES = ("USD", "TWD", "JPY")
CARDS = ("pm_card_visa", "pm_card_visa", "pm_card_chargeDeclined", "pm_card_chargeCustomerFail")
DISPUTED = {"needs_response", "under_review", "lost"}

ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(
            [
                *("pay", "pay", "pay", "pay later", "arrive", "save card", "automatic", "deliver"),
                *("refund", "refund by hand", "fail refund", "dispute", "close", "forge", "look"),
            ]
        ),
        st.integers(0, 2**16),
    ),
    min_size=15,
    max_size=30,
)


class Town:
    """Three organizations that pay, and everything that can happen to payments."""

    def __init__(self, stripe: LocalStripe, draw: random.Random) -> None:
        self.stripe, self.draw = stripe, draw
        self.forged: list[int] = []
        self.organizations = []
        for currency in CURRENCIES:
            acme = Organization.objects.create(name=currency, slug=f"storm-{currency.lower()}")
            BillingProfile.objects.create(organization=acme, currency=currency)
            self.organizations.append(acme)

    def do(self, action: str, number: int) -> None:
        acme = self.organizations[number % 3]
        # What Stripe refuses, or a lost answer, is no mistake of ours: the books must still agree.
        with suppress(ApiError, Refusal, ValidationError):
            getattr(self, f"_{action.replace(' ', '_')}")(acme, number)

    def _pay(self, acme: Organization, number: int, **told: Any) -> None:
        units = 500 + number % 700
        url = checkout.begin(acme, None, units * NANO, BACK, save_card=number % 5 == 0)
        self.stripe.pay(url, card=CARDS[number % 3], **told)

    def _pay_later(self, acme: Organization, number: int) -> None:
        self._pay(acme, number - number % 3, later=True)

    def _arrive(self, acme: Organization, number: int) -> None:
        session = self._some("checkout.session", number, payment_status="unpaid", status="complete")
        self.stripe.act("arrive", id=session["id"], well=number % 3 > 0)

    def _save_card(self, acme: Organization, number: int) -> None:
        url = cards.begin(acme, None, BACK)
        self.stripe.act("pay", id=url.rsplit("/", 1)[1], card=CARDS[number % 4])

    def _automatic(self, acme: Organization, number: int) -> None:
        if card := SavedCard.objects.filter(organization=acme, removed_at=None).first():
            cards.make_default(card)
            automatic.configure(
                acme, enabled=True, threshold_nano=number % 2000 * NANO, nano=600 * NANO
            )
        automatic.run()

    def _deliver(self, acme: Organization, number: int) -> None:
        posts = self.stripe.waiting()
        self.draw.shuffle(posts)
        for post in posts[: number % 20]:
            assert self.stripe.send(post) in {200, 409, 503}

    def _refund(self, acme: Organization, number: int) -> None:
        paid = list(TopUp.objects.filter(state="paid").exclude(intent_id=""))
        if paid:
            top_up = paid[number % len(paid)]
            takebacks.begin_refund(top_up, (1 + number % 300) * NANO, None)

    def _refund_by_hand(self, acme: Organization, number: int) -> None:
        charge = self._some("charge", number, paid=True, disputed=False)
        left = charge["amount"] - charge["amount_refunded"]
        amount = min(left, (number % 400 + 1) * 100)
        self.stripe.direct.api.call(
            "POST",
            "/v1/refunds",
            {"authorization": "Bearer sk_test_x"},
            f"charge={charge['id']}&amount={amount}",
        )

    def _fail_refund(self, acme: Organization, number: int) -> None:
        self.stripe.act("fail_refund", id=self._some("refund", number)["id"])

    def _dispute(self, acme: Organization, number: int) -> None:
        charge = self._some("charge", number, paid=True, disputed=False, amount_refunded=0)
        self.stripe.act("dispute", charge_id=charge["id"])

    def _close(self, acme: Organization, number: int) -> None:
        dispute = self._some("dispute", number)
        self.stripe.act("close_dispute", id=dispute["id"], won=number % 2 == 0)

    def _forge(self, acme: Organization, number: int) -> None:
        """A true event, signed by somebody else, or changed after it was signed."""
        event = self._some("event", number)
        body = json.dumps(event)
        signature = WebhookSignature.generate_signature_header(body, f"whsec_{number}")
        if number % 2 and (posts := self.stripe.waiting()):
            signature, body = posts[0].signature, posts[0].body.replace(":", ": ", 1)
        answer = Client().post(
            WEBHOOK,
            body,
            content_type="application/json",
            headers={"Stripe-Signature": signature},
        )
        self.forged.append(answer.status_code)

    def _look(self, acme: Organization, number: int) -> None:
        if top_up := TopUp.objects.filter(organization=acme).first():
            checkout.returned(acme, top_up.id)

    def _some(self, kind: str, number: int, **like: Any) -> dict[str, Any]:
        found = [
            each
            for each in self.stripe.all(kind)
            if all(each[name] == value for name, value in like.items())
        ]
        if not found:
            raise ApiError("there is none")
        return found[number % len(found)]

    def calm(self) -> None:
        """No more faults; let everything come to its end."""
        self.stripe.world.faults = Faults()
        for _round in range(30):
            StripeCall.objects.update(not_before=timezone.now(), claimed_until=None)
            StripeCall.objects.filter(interactive=True).update(
                created_at=timezone.now() - timedelta(minutes=11)
            )
            outbox.work()
            takebacks.follow_refused()
            automatic.finish()
            self.stripe.deliver(self.draw)
            if not StripeCall.objects.filter(state="waiting").exists():
                return
        raise AssertionError("calls that are never answered")

    def by_stripe(self, organization: Organization) -> int:
        """What the organization has paid and not got back, in nano-units."""
        mine = {
            intent["id"]: intent
            for intent in self.stripe.all("payment_intent")
            if intent["metadata"].get("organization") == str(organization.id)
        }
        paid = sum(i["amount_received"] for i in mine.values() if i["status"] == "succeeded")
        for refund in self.stripe.all("refund"):
            if refund["payment_intent"] in mine and refund["status"] == "succeeded":
                paid -= refund["amount"]
        for dispute in self.stripe.all("dispute"):
            if dispute["payment_intent"] in mine and dispute["status"] in DISPUTED:
                paid -= dispute["amount"]
        return nano_of_stripe(paid, wallet.profile_of(organization).currency)


class Storm(TestCase):
    @given(
        actions=ACTIONS,
        seed=st.integers(0, 2**32),
        duplicates=st.integers(1, 5),
        lost=st.sampled_from([0.0, 0.2]),
        failures=st.sampled_from([0.0, 0.1]),
    )
    @hypothesis_settings(
        max_examples=int(os.environ.get("STORM_EXAMPLES", "8")),
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
    def test_wallets_are_exact_whatever_stripe_does(
        self,
        actions: list[tuple[str, int]],
        seed: int,
        duplicates: int,
        lost: float,
        failures: float,
    ) -> None:
        faults = Faults(duplicates=duplicates, lost_answers=lost, failures=failures, seed=seed)
        with local_stripe(faults) as stripe:
            town = Town(stripe, random.Random(seed))  # noqa: S311
            for action, number in actions:
                town.do(action, number)
            town.calm()
            for organization in town.organizations:
                funds = wallet.funds(organization)
                assert funds.available - funds.owed == town.by_stripe(organization)
                assert funds.available >= 0
            assert set(town.forged) <= {400}
            assert sum(Balance.objects.values_list("nano", flat=True)) == 0
            assert not TakenBack.objects.filter(status="").exists()
            for day in reconcile.check():
                assert day.stripe_nano == day.ledger_nano, day.differences
                assert day.unexplained == 0, day.differences
