"""Every call is a row before it is sent, and is done once, whatever happens in between."""

from datetime import timedelta

import pytest
from django.db import transaction
from django.utils import timezone

from billing import wallet
from billing.models import BillingProfile, StripeCall, TopUp
from billing.money import NANO
from billing.payments import checkout, customers, outbox
from tests.fakes.stripe import LocalStripe

BACK = "http://localhost:8000/o/acme/billing/"
S = StripeCall.State


def customer_call(acme) -> StripeCall:
    wallet.profile_of(acme)
    params = {"name": "Acme", "metadata": {"modelport": "x"}}
    return StripeCall.enter(
        "customer.create", params, organization=acme, purpose=f"customer:{acme.id}"
    )


def due() -> None:
    StripeCall.objects.update(not_before=timezone.now() - timedelta(seconds=1))


def fail(stripe: LocalStripe, **faults: float) -> None:
    stripe.world.faults.chance = lambda share: share > 0
    for name, share in ({"lost_answers": 0, "failures": 0, "remembered": 0} | faults).items():
        setattr(stripe.world.faults, name, share)


def test_a_call_is_answered_once(stripe: LocalStripe, acme) -> None:
    call = outbox.send(customer_call(acme))
    assert call.state == S.DONE
    assert outbox.send(call).attempts == 1
    assert BillingProfile.objects.get().stripe_customer_id == call.answer["id"]


def test_what_was_done_but_not_answered_is_not_done_again(stripe: LocalStripe, acme) -> None:
    call = customer_call(acme)
    fail(stripe, lost_answers=1)
    for _try in range(3):
        due()
        assert outbox.work() == 0
    fail(stripe)
    due()
    assert outbox.work() == 1
    assert len(stripe.all("customer")) == 1
    call.refresh_from_db()
    assert (call.state, call.attempts) == (S.DONE, 4)


def test_tries_come_later_and_later(stripe: LocalStripe, acme) -> None:
    call = customer_call(acme)
    fail(stripe, failures=1)
    waits = []
    for _try in range(3):
        due()
        outbox.work()
        call.refresh_from_db()
        waits.append((call.not_before - timezone.now()).total_seconds())
    assert waits == sorted(waits) and waits[0] > 1 and waits[2] > 6
    assert outbox.work() == 0  # not yet


def test_a_failure_that_stripe_remembers_is_overcome_by_another_key(stripe, acme) -> None:
    call = customer_call(acme)
    fail(stripe, failures=1, remembered=1)
    outbox.work()
    fail(stripe)
    due()
    assert outbox.work() == 0  # the same key brings the same failure
    due()
    assert outbox.work() == 1
    call.refresh_from_db()
    assert (call.state, call.generation) == (S.DONE, 1)
    assert len(stripe.all("customer")) == 1


def test_a_key_that_stripe_has_forgotten_is_looked_up_before_it_is_done_again(stripe, acme) -> None:
    call = customer_call(acme)
    fail(stripe, lost_answers=1)
    outbox.work()
    fail(stripe)
    stripe.act("forget_keys")
    StripeCall.objects.update(sent_at=timezone.now() - timedelta(days=2))
    due()
    assert outbox.work() == 1
    assert len(stripe.all("customer")) == 1
    call.refresh_from_db()
    assert call.answer["id"] == stripe.newest("customer")["id"]


def test_two_at_once_send_a_call_once(stripe: LocalStripe, acme) -> None:
    call = customer_call(acme)
    StripeCall.objects.update(claimed_until=timezone.now() + timedelta(seconds=60))
    assert outbox.send(call).state == S.WAITING
    assert outbox.work() == 0
    assert not stripe.direct.calls
    # Whoever had claimed it was killed.
    StripeCall.objects.update(claimed_until=timezone.now() - timedelta(seconds=1))
    assert outbox.work() == 1


def test_a_purpose_is_pursued_once_until_it_is_refused(stripe: LocalStripe, acme) -> None:
    first = customer_call(acme)
    assert customer_call(acme).id == first.id
    StripeCall.objects.update(state=S.REFUSED)
    assert customer_call(acme).id != first.id


def test_a_page_that_nobody_waits_for_any_more_is_given_up(stripe, acme, alice) -> None:
    fail(stripe)
    customers.of(acme)
    fail(stripe, failures=1)
    with pytest.raises(outbox.Away):
        checkout.begin(acme, alice, 25 * NANO, BACK)
    assert TopUp.objects.get().state == "open"
    StripeCall.objects.update(created_at=timezone.now() - timedelta(minutes=11), claimed_until=None)
    fail(stripe)
    outbox.work()
    assert TopUp.objects.get().state == "failed"
    assert not stripe.all("checkout.session")


@pytest.mark.django_db(transaction=True)
def test_nothing_is_sent_before_it_is_in_the_database(stripe: LocalStripe, acme) -> None:
    with transaction.atomic():
        call = customer_call(acme)
        with pytest.raises(RuntimeError, match="durable"):
            outbox.send(call)
    assert not stripe.direct.calls


def test_changed_details_are_pushed(stripe: LocalStripe, acme) -> None:
    customers.push(acme)
    assert not StripeCall.objects.exists()  # Stripe does not know of them yet
    customers.of(acme)
    BillingProfile.objects.update(
        legal_name="Acme GmbH", country="DE", address="Musterstr. 1", invoice_email="a@acme.example"
    )
    acme.refresh_from_db()
    customers.push(acme)
    outbox.work()
    customer = stripe.newest("customer")
    assert (customer["name"], customer["email"]) == ("Acme GmbH", "a@acme.example")
    assert customer["address"]["country"] == "DE"
    assert customer["metadata"]["organization"] == str(acme.id)


def test_tax_ids_go_along(stripe: LocalStripe, acme) -> None:
    wallet.profile_of(acme)
    BillingProfile.objects.update(tax_id_kind="tw_vat", tax_id="12345678")
    customers.of(acme)
    assert (stripe.newest("tax_id")["type"], stripe.newest("tax_id")["value"]) == (
        "tw_vat",
        "12345678",
    )
