"""Top-ups by hand: what is paid is credited once, and only that."""

import pytest
from django.core.exceptions import ValidationError

from accounts.models import Organization, User
from billing import wallet
from billing.localstripe.errors import ApiError
from billing.localstripe.faults import Faults
from billing.models import (
    BillingProfile,
    LedgerTransaction,
    SavedCard,
    StripeCall,
    StripeEvent,
    TopUp,
)
from billing.money import NANO
from billing.payments import checkout, crediting
from billing.payments.client import Away, NotSetUp
from portal.lib.errors import Conflict
from tests.fakes.stripe import LocalStripe, local_stripe

BACK = "http://localhost:8000/o/acme/billing/"


def credit(organization: Organization) -> int:
    return wallet.funds(organization).available


def begin(organization: Organization, by: User, nano: int = 25 * NANO, **more: bool) -> str:
    return checkout.begin(organization, by, nano, BACK, **more)


def test_what_is_paid_is_credited_once(stripe: LocalStripe, acme, alice) -> None:
    url = begin(acme, alice)
    assert credit(acme) == 0
    session = stripe.pay(url)
    assert session["success_url"].startswith(BACK)
    assert set(stripe.deliver()) == {200}
    assert credit(acme) == 25 * NANO
    top_up = TopUp.objects.get()
    assert (top_up.state, top_up.by, top_up.currency) == ("paid", alice, "USD")
    assert top_up.transaction.key == f"checkout:{session['id']}"
    # And again: by hand, by the return page, by the same events.
    crediting.settle_session(session["id"])
    assert checkout.returned(acme, top_up.id).state == "paid"
    stripe.world.store.db.execute("UPDATE delivery SET done = 0")
    assert set(stripe.deliver()) == {200}
    assert credit(acme) == 25 * NANO


def test_the_way_back_credits_where_no_event_arrives(stripe: LocalStripe, acme, alice) -> None:
    stripe.pay(begin(acme, alice))
    top_up = checkout.returned(acme, TopUp.objects.get().id)
    assert top_up.state == "paid"
    assert credit(acme) == 25 * NANO


def test_a_stranger_sees_no_top_up(stripe: LocalStripe, acme, alice, umbrella) -> None:
    begin(acme, alice)
    assert checkout.returned(umbrella, TopUp.objects.get().id) is None


def test_a_declined_card_credits_nothing_and_leaves_the_page_open(stripe, acme, alice) -> None:
    url = begin(acme, alice)
    with pytest.raises(ApiError, match="declined"):
        stripe.pay(url, card="pm_card_chargeDeclined")
    stripe.deliver()
    assert (credit(acme), TopUp.objects.get().state) == (0, "open")
    stripe.pay(url)
    stripe.deliver()
    assert (credit(acme), TopUp.objects.get().state) == (25 * NANO, "paid")


def test_a_page_that_nobody_pays_on_expires(stripe: LocalStripe, acme, alice) -> None:
    begin(acme, alice)
    stripe.act("sleep", seconds=2 * 3600)
    stripe.deliver()
    assert (credit(acme), TopUp.objects.get().state) == (0, "expired")


def test_a_payment_that_takes_days_is_credited_when_it_arrives(stripe, acme, alice) -> None:
    session = stripe.pay(begin(acme, alice), later=True)
    stripe.deliver()
    assert (credit(acme), TopUp.objects.get().state) == (0, "open")
    stripe.act("arrive", id=session["id"])
    stripe.deliver()
    assert credit(acme) == 25 * NANO


def test_a_payment_that_does_not_arrive_fails(stripe: LocalStripe, acme, alice) -> None:
    session = stripe.pay(begin(acme, alice), later=True)
    stripe.act("arrive", id=session["id"], well=False)
    stripe.deliver()
    top_up = TopUp.objects.get()
    assert (credit(acme), top_up.state, top_up.failure) == (0, "failed", "generic_decline")


@pytest.mark.parametrize("nano", [0, NANO, 10_001 * NANO, 25 * NANO + 1, -25 * NANO])
def test_amounts_beyond_the_limits_are_refused(stripe, acme, alice, nano: int) -> None:
    with pytest.raises(ValidationError) as refused:
        begin(acme, alice, nano)
    assert "from 5 to 10,000 USD" in str(refused.value.message_dict["amount"])
    assert not TopUp.objects.exists()


@pytest.mark.parametrize(("currency", "nano"), [("TWD", 300 * NANO), ("JPY", 500 * NANO)])
def test_currencies_without_decimals_come_out_exactly(stripe, acme, alice, currency, nano) -> None:
    BillingProfile.objects.create(organization=acme, currency=currency)
    session = stripe.pay(begin(acme, alice, nano))
    assert session["amount_total"] == (30_000 if currency == "TWD" else 500)
    stripe.deliver()
    assert wallet.funds(acme) == wallet.Funds(currency, nano, 0, 0)


@pytest.mark.parametrize(
    "change",
    [
        {"amount_total": 100},
        {"amount_subtotal": 250_000, "amount_total": 250_000},
        {"currency": "jpy"},
        {"livemode": True},
        {"payment_intent": "pi_another"},
    ],
)
def test_what_is_not_as_we_asked_is_not_credited(stripe, acme, alice, change) -> None:
    session = stripe.pay(begin(acme, alice))
    TopUp.objects.update(intent_id=session["payment_intent"])
    stripe.world.save(session | change)
    with pytest.raises(crediting.Mismatch):
        crediting.settle_session(session["id"])
    assert set(stripe.deliver()) == {200}  # it will not get better by being sent again
    assert (TopUp.objects.get().state, credit(acme)) == ("open", 0)
    assert not LedgerTransaction.objects.exists()
    event = StripeEvent.objects.get(kind="checkout.session.completed")
    assert event.problem.startswith("does not match")


def test_a_session_of_somebody_else_in_the_account_is_not_ours(stripe, acme, alice) -> None:
    session = stripe.pay(begin(acme, alice))
    session["metadata"]["modelport"] = "another"
    stripe.world.save(session)
    with pytest.raises(crediting.NotOurs):
        crediting.settle_session(session["id"])


def test_a_card_is_saved_if_its_owner_wants_that(stripe: LocalStripe, acme, alice) -> None:
    stripe.pay(begin(acme, alice))
    stripe.deliver()
    assert not SavedCard.objects.exists()
    stripe.pay(begin(acme, alice, save_card=True))
    stripe.deliver()
    card = SavedCard.objects.get()
    assert (str(card), card.is_default) == ("visa …4242", True)


def test_tax_is_paid_on_top_and_kept_apart(acme, alice) -> None:
    with local_stripe(stripe_tax=True) as stripe:
        wallet.profile_of(acme)
        BillingProfile.objects.update(country="DE", address="Musterstr. 1")
        session = stripe.pay(begin(acme, alice))
        assert session["amount_total"] == 2975
        stripe.deliver()
    assert credit(acme) == 25 * NANO
    assert TopUp.objects.get().tax_nano == int(4.75 * NANO)


def test_a_lost_answer_is_asked_for_again_under_the_same_key(stripe, acme, alice) -> None:
    chances = iter([True, False, True, False])
    stripe.world.faults.chance = lambda share: share > 0 and next(chances, False)
    stripe.world.faults.lost_answers = 1.0
    stripe.pay(begin(acme, alice))
    keys = [key for method, _, key in stripe.direct.calls if method == "post"]
    assert keys[0] == keys[1] and keys[2] == keys[3] and len(set(keys)) == 2
    assert len(stripe.all("customer")) == 1
    assert len(stripe.all("checkout.session")) == 1


def test_where_stripe_is_away_people_are_told_and_nothing_is_charged(acme, alice) -> None:
    with local_stripe(Faults(failures=1.0, remembered=0.0)) as stripe:
        with pytest.raises(Away):
            begin(acme, alice)
        assert not TopUp.objects.exists()
        stripe.world.faults = Faults()
        StripeCall.objects.update(not_before="2000-01-01T00:00Z")
        stripe.pay(begin(acme, alice))
        stripe.deliver()
    assert credit(acme) == 25 * NANO


def test_without_a_key_there_are_no_payments(acme, alice) -> None:
    with pytest.raises(NotSetUp):
        begin(acme, alice)


def test_who_pays_by_invoice_tops_nothing_up(stripe, acme, alice) -> None:
    wallet.profile_of(acme)
    BillingProfile.objects.update(postpaid=True)
    with pytest.raises(Conflict):
        begin(acme, alice)


def test_details_that_stripe_refuses_are_told(stripe, acme, alice) -> None:
    wallet.profile_of(acme)
    BillingProfile.objects.update(invoice_email="no address")
    with pytest.raises(Conflict, match="Invalid email address"):
        begin(acme, alice)
    BillingProfile.objects.update(invoice_email="")
    assert begin(acme, alice)
