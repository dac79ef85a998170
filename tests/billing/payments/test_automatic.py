"""Automatic top-ups: once for each need, and never against the card's no."""

from datetime import timedelta

import pytest
from django.core import mail
from django.core.exceptions import ValidationError
from django.utils import timezone

from accounts.models import Membership
from accounts.roles import Role
from billing import wallet
from billing.ledger import Kind
from billing.models import AutoTopUp, SavedCard, StripeCall, TopUp
from billing.money import NANO
from billing.payments import automatic, cards, checkout, events, notices
from portal.lib.errors import Conflict
from tests.cast import person
from tests.fakes.stripe import LocalStripe, local_stripe

BACK = "http://localhost:8000/o/acme/billing/"


def save_card(stripe: LocalStripe, acme, alice, card: str = "pm_card_visa") -> SavedCard:
    url = cards.begin(acme, alice, BACK)
    stripe.act("pay", id=url.rsplit("/", 1)[1], card=card)
    stripe.deliver()
    return SavedCard.objects.order_by("-created_at").first()


def configure(acme, **more: int | None) -> AutoTopUp:
    wanted = {"threshold_nano": 10 * NANO, "nano": 25 * NANO} | more
    return automatic.configure(acme, enabled=True, **wanted)


@pytest.fixture
def on(stripe: LocalStripe, acme, alice) -> AutoTopUp:
    save_card(stripe, acme, alice)
    return configure(acme)


def credit(acme) -> int:
    return wallet.funds(acme).available // NANO


def test_low_credit_is_topped_up_once(stripe: LocalStripe, acme, on) -> None:
    assert automatic.run() == 1
    assert credit(acme) == 25
    assert automatic.run() == 0
    stripe.deliver()
    assert credit(acme) == 25
    wallet.charge(acme, 16 * NANO, Kind.USAGE, "used")
    assert automatic.run() == 1
    assert credit(acme) == 9 + 25
    keys = TopUp.objects.values_list("transaction__key", flat=True)
    assert all(key.startswith("intent:pi_") for key in keys)


def test_the_event_alone_credits_too(stripe: LocalStripe, acme, on, monkeypatch) -> None:
    monkeypatch.setattr(automatic, "finish", lambda: None)
    automatic.run()
    assert credit(acme) == 0
    stripe.deliver()
    assert credit(acme) == 25


def test_while_one_is_open_no_other_begins(stripe: LocalStripe, acme, on) -> None:
    stripe.world.faults.chance = lambda share: share > 0
    stripe.world.faults.lost_answers = 1.0
    assert automatic.run() == 1
    for _turn in range(3):
        StripeCall.objects.update(not_before=timezone.now())
        assert automatic.run() == 0
    stripe.world.faults.lost_answers = 0.0
    StripeCall.objects.update(not_before=timezone.now())
    assert automatic.run() == 0
    assert credit(acme) == 25
    assert len(stripe.all("payment_intent")) == 1


@pytest.mark.parametrize(
    ("card", "failure"),
    [
        ("pm_card_chargeCustomerFail", "generic_decline"),
        ("pm_card_authenticationRequired", "authentication_required"),
    ],
)
def test_a_declined_card_is_not_charged_again_until_somebody_has_looked(
    stripe, acme, alice, card, failure
) -> None:
    save_card(stripe, acme, alice, card)
    configure(acme)
    assert automatic.run() == 1
    stripe.deliver()
    assert automatic.run() == 0
    setting = AutoTopUp.objects.get()
    assert (setting.failure, TopUp.objects.get().state) == (failure, "failed")
    assert setting.paused_at is not None
    assert len(stripe.all("charge")) == 1
    # Another card, and it goes on.
    save_card(stripe, acme, alice)
    assert automatic.run() == 1
    assert credit(acme) == 25


def test_owners_and_those_who_see_to_billing_are_told_once(stripe, acme, alice, bob) -> None:
    Membership.objects.create(
        organization=acme, user=person("books@acme.example"), role=Role.BILLING
    )
    save_card(stripe, acme, alice, "pm_card_chargeCustomerFail")
    configure(acme)
    automatic.run()
    assert notices.tell_failures() == 1
    assert notices.tell_failures() == 0
    letters = [m for m in mail.outbox if "top-up" in m.subject]
    assert sorted(m.to[0] for m in letters) == ["alice@acme.example", "books@acme.example"]
    assert "25 USD" in letters[0].body and "paused" in letters[0].body


def test_a_month_has_its_limit(stripe: LocalStripe, acme, alice) -> None:
    save_card(stripe, acme, alice)
    configure(acme, monthly_nano=60 * NANO)
    for turn in range(4):
        automatic.run()
        wallet.charge(acme, 25 * NANO, Kind.USAGE, f"used {turn}")
    assert TopUp.objects.filter(state="paid").count() == 2
    TopUp.objects.update(created_at=timezone.now() - timedelta(days=32))
    assert automatic.run() == 1


def test_without_a_card_or_with_an_odd_amount_it_is_not_switched_on(stripe, acme, alice) -> None:
    with pytest.raises(Conflict, match="Save a card first"):
        configure(acme)
    save_card(stripe, acme, alice)
    with pytest.raises(ValidationError):
        configure(acme, nano=NANO)
    with pytest.raises(ValidationError):
        configure(acme, monthly_nano=NANO)
    assert not AutoTopUp.objects.exists()


def test_where_tax_is_added_there_are_none(acme, alice) -> None:
    with local_stripe(stripe_tax=True) as stripe:
        save_card(stripe, acme, alice)
        with pytest.raises(Conflict, match="by hand"):
            configure(acme)


def test_a_removed_card_is_charged_no_more(stripe: LocalStripe, acme, on) -> None:
    card = SavedCard.objects.get()
    cards.remove(card)
    assert automatic.run() == 0
    assert stripe.newest("payment_method")["customer"] is None
    stripe.deliver()
    card.refresh_from_db()
    assert card.removed_at is not None
    # A late event about it does not bring it back.
    cards.settle_method(card.id)
    assert automatic.default_card(acme) is None


def test_a_card_that_is_taken_away_at_stripe_is_forgotten(stripe, acme, on) -> None:
    card = SavedCard.objects.get()
    stripe.direct.api.call(
        "POST", f"/v1/payment_methods/{card.id}/detach", {"authorization": "Bearer sk_test_x"}
    )
    stripe.deliver()
    assert automatic.default_card(acme) is None


def test_a_renewed_card_shows_its_new_date(stripe: LocalStripe, acme, on) -> None:
    card = SavedCard.objects.get()
    method = stripe.world.need("payment_method", card.id)
    method["card"]["exp_year"] = 2040
    stripe.world.save(method)
    stripe.world.emit("payment_method.automatically_updated", method)
    stripe.deliver()
    card.refresh_from_db()
    assert card.exp_year == 2040


def test_the_newest_card_pays(stripe: LocalStripe, acme, alice, on) -> None:
    first = SavedCard.objects.get()
    second = save_card(stripe, acme, alice, "pm_card_mastercard")
    assert automatic.default_card(acme) == second
    cards.make_default(first)
    assert automatic.default_card(acme) == first


def test_the_way_back_tells_of_the_card(stripe: LocalStripe, acme, alice, umbrella) -> None:
    url = cards.begin(acme, alice, BACK)
    session = url.rsplit("/", 1)[1]
    assert cards.returned(acme, session) is None
    stripe.act("pay", id=session)
    assert str(cards.returned(acme, session)) == "visa …4242"
    assert cards.returned(umbrella, session) is None


def test_events_of_intents_that_a_page_made_credit_nothing_more(stripe, acme, alice) -> None:
    stripe.pay(checkout.begin(acme, alice, 25 * NANO, BACK))
    bodies = [p for p in stripe.waiting() if '"payment_intent.succeeded"' in p.body]
    assert [stripe.send(post) for post in bodies] == [200]
    assert credit(acme) == 0
    events.catch_up()
    assert credit(acme) == 25
