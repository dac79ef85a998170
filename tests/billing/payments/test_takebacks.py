"""What goes back: refunds and disputes, by whomever, in any order, as often as one is told."""

import random

import pytest

from billing import wallet
from billing.ledger import Kind
from billing.models import AutoTopUp, Balance, BillingProfile, LedgerTransaction, TakenBack, TopUp
from billing.money import NANO
from billing.payments import checkout, outbox, takebacks
from portal.lib.errors import Conflict
from portal.lib.ids import uuid7
from tests.fakes.stripe import LocalStripe, local_stripe

BACK = "http://localhost:8000/o/acme/billing/"


@pytest.fixture
def top_up(stripe: LocalStripe, acme, alice) -> TopUp:
    stripe.pay(checkout.begin(acme, alice, 25 * NANO, BACK))
    stripe.deliver()
    return TopUp.objects.get()


def spend(acme, nano: int) -> None:
    wallet.charge(acme, nano, Kind.USAGE, f"used {uuid7()}")


def state(acme) -> tuple[int, int]:
    funds = wallet.funds(acme)
    assert sum(Balance.objects.values_list("nano", flat=True)) == 0
    return funds.available // NANO, funds.owed // NANO


def charge_of(stripe: LocalStripe, top_up: TopUp) -> str:
    intent = stripe.world.need("payment_intent", top_up.intent_id)
    return str(intent["latest_charge"])


def by_hand(stripe: LocalStripe, **form: object) -> None:
    """Somebody refunds on Stripe's own pages."""
    body = "&".join(f"{name}={value}" for name, value in form.items())
    answer = stripe.direct.api.call(
        "POST", "/v1/refunds", {"authorization": "Bearer sk_test_x"}, body
    )
    assert answer.status == 200, answer.body


def test_a_refund_leaves_the_wallet_at_once_and_once(stripe, acme, alice, top_up) -> None:
    taken = takebacks.begin_refund(top_up, 10 * NANO, alice, "a mistake")
    assert (taken.status, taken.stripe_id[:3]) == ("succeeded", "re_")
    assert state(acme) == (15, 0)
    stripe.deliver()
    takebacks.settle_refund(taken.stripe_id)
    assert state(acme) == (15, 0)
    assert TakenBack.objects.count() == 1


def test_a_refund_that_stripe_cannot_make_comes_back(stripe, acme, alice, top_up) -> None:
    taken = takebacks.begin_refund(top_up, 10 * NANO, alice)
    stripe.act("fail_refund", id=taken.stripe_id)
    stripe.deliver()
    assert state(acme) == (25, 0)
    # It may be tried again.
    takebacks.begin_refund(top_up, 25 * NANO, alice)
    assert state(acme) == (0, 0)


def test_a_refund_that_stripe_refuses_comes_back(stripe, acme, alice, top_up) -> None:
    by_hand(stripe, payment_intent=top_up.intent_id)  # of which we have not heard yet
    taken = takebacks.begin_refund(top_up, 10 * NANO, alice)
    assert taken.status == "refused"
    assert state(acme) == (25, 0)
    stripe.deliver()
    assert state(acme) == (0, 0)


def test_no_more_is_refunded_than_was_paid_and_not_spent(stripe, acme, alice, top_up) -> None:
    spend(acme, 20 * NANO)
    with pytest.raises(Conflict, match="not left in the wallet"):
        takebacks.begin_refund(top_up, 6 * NANO, alice)
    takebacks.begin_refund(top_up, 5 * NANO, alice)
    with pytest.raises(Conflict, match="more than is left"):
        takebacks.begin_refund(top_up, 21 * NANO, alice)
    for nano in (0, -1, NANO + 1):
        with pytest.raises(Conflict):
            takebacks.begin_refund(top_up, nano, alice)
    assert state(acme) == (0, 0)


def test_a_refund_while_stripe_is_away_is_made_later(stripe, acme, alice, top_up) -> None:
    stripe.world.faults.chance = lambda share: share > 0
    stripe.world.faults.lost_answers = 1.0
    taken = takebacks.begin_refund(top_up, 10 * NANO, alice)
    assert taken.status == "" and state(acme) == (15, 0)
    stripe.world.faults.lost_answers = 0.0
    outbox.StripeCall.objects.update(not_before="2000-01-01T00:00Z")
    assert outbox.work() == 1
    stripe.deliver()
    taken.refresh_from_db()
    assert taken.status == "succeeded" and state(acme) == (15, 0)
    assert len(stripe.all("refund")) == 1


def test_a_refund_on_stripes_pages_takes_what_is_there_and_the_rest_is_owed(
    stripe, acme, top_up
) -> None:
    spend(acme, 20 * NANO)
    by_hand(stripe, payment_intent=top_up.intent_id, amount=1000)
    stripe.deliver()
    assert state(acme) == (0, 5)
    stripe.pay(checkout.begin(acme, None, 7 * NANO, BACK))
    stripe.deliver()
    assert state(acme) == (2, 0)


def test_a_dispute_takes_the_payment_and_what_is_spent_is_owed(stripe, acme, top_up) -> None:
    spend(acme, 5 * NANO)
    AutoTopUp.objects.create(organization=acme, enabled=True, nano=10 * NANO)
    dispute = stripe.act("dispute", charge_id=charge_of(stripe, top_up))
    stripe.deliver()
    assert state(acme) == (0, 5)
    # The card that wants its money back is not charged again by itself.
    assert AutoTopUp.objects.get().paused_at is not None
    stripe.act("close_dispute", id=dispute["id"], won=False)
    stripe.deliver()
    assert state(acme) == (0, 5)


def test_a_dispute_that_is_won_gives_back_what_it_took(stripe, acme, top_up) -> None:
    spend(acme, 5 * NANO)
    dispute = stripe.act("dispute", charge_id=charge_of(stripe, top_up))
    stripe.deliver()
    spend(acme, NANO)
    assert state(acme) == (0, 6)
    stripe.act("close_dispute", id=dispute["id"], won=True)
    stripe.deliver()
    assert state(acme) == (19, 0)


@pytest.mark.parametrize("seed", range(5))
def test_the_order_of_messages_does_not_matter(stripe, acme, alice, seed: int) -> None:
    stripe.world.faults.duplicates = 5
    stripe.pay(checkout.begin(acme, alice, 25 * NANO, BACK))
    top_up = TopUp.objects.get()
    intent = stripe.newest("payment_intent")
    by_hand(stripe, payment_intent=intent["id"], amount=500)
    dispute = stripe.act("dispute", charge_id=intent["latest_charge"], amount=2000)
    stripe.act("close_dispute", id=dispute["id"], won=True)
    stripe.deliver(random.Random(seed))  # noqa: S311
    top_up.refresh_from_db()
    assert top_up.state == "paid"
    assert state(acme) == (20, 0)
    refunds = TakenBack.objects.filter(kind="refund").values_list("nano", flat=True)
    assert list(refunds) == [5 * NANO]


def test_tax_goes_back_in_proportion(acme, alice) -> None:
    with local_stripe(stripe_tax=True) as stripe:
        wallet.profile_of(acme)
        BillingProfile.objects.update(country="DE", address="Musterstr. 1")
        stripe.pay(checkout.begin(acme, alice, 100 * NANO, BACK))
        stripe.deliver()
        top_up = TopUp.objects.get()
        assert top_up.tax_nano == 19 * NANO
        taken = takebacks.begin_refund(top_up, 50 * NANO, alice)
        assert taken.amount_nano == int(59.5 * NANO)
        assert stripe.newest("refund")["amount"] == 5950
        assert state(acme) == (50, 0)
        takebacks.begin_refund(top_up, 50 * NANO, alice)
        assert state(acme) == (0, 0)
    taxes = LedgerTransaction.objects.filter(entries__account__kind="tax")
    assert sum(taxes.values_list("entries__nano", flat=True)) == 0


def test_a_top_up_that_is_not_paid_is_not_refunded(stripe, acme, alice) -> None:
    checkout.begin(acme, alice, 25 * NANO, BACK)
    with pytest.raises(Conflict, match="was not paid"):
        takebacks.begin_refund(TopUp.objects.get(), NANO, alice)
