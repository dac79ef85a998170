"""Stripe and the books, object by object: every difference is found, and has its cause."""

from datetime import UTC, datetime, timedelta

import pytest

from billing import wallet
from billing.ledger import Kind
from billing.models import PaymentCheck, TopUp
from billing.money import NANO
from billing.payments import checkout, reconcile, takebacks
from tests.fakes.stripe import LocalStripe

BACK = "http://localhost:8000/o/acme/billing/"


def pay(stripe: LocalStripe, acme, alice, nano: int = 25 * NANO) -> dict:
    return stripe.pay(checkout.begin(acme, alice, nano, BACK))


def causes() -> list[str]:
    return [each["cause"] for row in PaymentCheck.objects.all() for each in row.differences]


def test_where_all_is_well_both_sides_are_equal(stripe: LocalStripe, acme, alice) -> None:
    pay(stripe, acme, alice)
    pay(stripe, acme, alice, 30 * NANO)
    stripe.deliver()
    takebacks.begin_refund(TopUp.objects.last(), 5 * NANO, alice)
    dispute = stripe.act("dispute", charge_id=stripe.newest("charge")["id"])
    stripe.deliver()
    (row,) = reconcile.check()
    assert (row.stripe_nano, row.ledger_nano) == (20 * NANO, 20 * NANO)
    assert (row.objects_seen, row.differences) == (4, [])
    stripe.act("close_dispute", id=dispute["id"], won=True)
    (row,) = reconcile.check()  # before the event, whose work it does
    assert (row.stripe_nano, row.ledger_nano) == (50 * NANO, 50 * NANO)


def test_what_was_paid_a_moment_ago_is_under_way(stripe: LocalStripe, acme, alice) -> None:
    pay(stripe, acme, alice)
    reconcile.check()
    assert causes() == ["under_way"]
    assert PaymentCheck.objects.get().unexplained == 0


def test_a_payment_whose_event_never_came_is_credited(stripe: LocalStripe, acme, alice) -> None:
    pay(stripe, acme, alice)
    intent = stripe.newest("payment_intent")
    stripe.world.save(intent | {"created": intent["created"] - 3600})
    reconcile.check()
    assert causes() == ["credited_now"]
    assert wallet.funds(acme).available == 25 * NANO
    reconcile.check()
    assert causes() == []


def test_credit_that_nobody_paid_is_found(stripe: LocalStripe, acme, alice) -> None:
    pay(stripe, acme, alice)
    stripe.deliver()
    stripe.world.store.delete(TopUp.objects.get().intent_id)
    reconcile.check()
    assert causes() == ["not_at_stripe"]
    assert PaymentCheck.objects.get().unexplained == 1


def test_an_entry_without_a_payment_is_found(stripe: LocalStripe, acme) -> None:
    wallet.pay_in(acme, 9 * NANO, Kind.TOPUP, "checkout:cs_of_nobody")
    reconcile.check()
    assert causes() == ["no_payment"]
    assert PaymentCheck.objects.get().ledger_nano == 9 * NANO


@pytest.mark.parametrize("received", [2400, 2600])
def test_another_amount_is_found(stripe: LocalStripe, acme, alice, received: int) -> None:
    pay(stripe, acme, alice)
    stripe.deliver()
    intent = stripe.newest("payment_intent")
    stripe.world.save(intent | {"amount_received": received})
    reconcile.check()
    assert causes() == ["amount"]
    row = PaymentCheck.objects.get()
    assert row.stripe_nano - row.ledger_nano == (received - 2500) * NANO // 100


def test_payments_of_others_in_the_account_count_for_nothing(stripe, acme, alice) -> None:
    pay(stripe, acme, alice)
    stripe.deliver()
    intent = stripe.newest("payment_intent")
    stripe.world.make(
        "payment_intent",
        **{k: intent[k] for k in ("amount", "amount_received", "currency", "status")},
        capture_method="automatic",
        confirmation_method="automatic",
        payment_method_types=["card"],
    )
    (row,) = reconcile.check()
    assert (row.objects_seen, row.differences) == (1, [])


def test_each_cause_has_its_sentence(stripe, acme) -> None:
    assert set(reconcile.EXPLAINED) < set(reconcile.CAUSES)


def test_days_are_those_of_stripe(stripe: LocalStripe, acme, alice) -> None:
    pay(stripe, acme, alice)
    stripe.deliver()
    intent = stripe.newest("payment_intent")
    before = datetime.now(UTC) - timedelta(days=2)
    stripe.world.save(intent | {"created": int(before.timestamp())})
    (row,) = reconcile.check()
    assert row.day == before.date()
