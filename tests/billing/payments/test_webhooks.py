"""The door for Stripe's events: who is let in, what comes again, what is no business of ours."""

import json
import time
from dataclasses import replace

import pytest
from django.db import transaction
from django.test import Client
from stripe import WebhookSignature

from billing import wallet
from billing.models import StripeEvent, TopUp
from billing.money import NANO
from billing.payments import checkout, crediting, events
from tests.fakes.stripe import SECRET, WEBHOOK, LocalStripe

BACK = "http://localhost:8000/o/acme/billing/"


def knock(body: str, signature: str) -> int:
    answer = Client(enforce_csrf_checks=True).post(
        WEBHOOK, body, content_type="application/json", headers={"Stripe-Signature": signature}
    )
    return answer.status_code


def signed(body: str, secret: str = SECRET, at: int | None = None) -> str:
    return WebhookSignature.generate_signature_header(body, secret, at)


@pytest.fixture
def paid(stripe: LocalStripe, acme, alice) -> dict:
    return stripe.pay(checkout.begin(acme, alice, 25 * NANO, BACK))


@pytest.fixture
def completed(stripe: LocalStripe, paid) -> str:
    (body,) = [p.body for p in stripe.waiting() if "checkout.session.completed" in p.body]
    return body


@pytest.mark.parametrize(
    "signature",
    [
        "",
        "t=1,v1=00",
        "nonsense",
        "t=x,v1=y",
        "v1=abc",
        "t=1",
        "t=999999999999999999999,v1=00",
    ],
)
def test_forgeries_are_refused(completed: str, acme, signature: str) -> None:
    assert knock(completed, signature) == 400
    assert not StripeEvent.objects.exists()
    assert wallet.funds(acme).available == 0


def test_another_secret_an_old_signature_or_a_changed_body_is_refused(completed, acme) -> None:
    assert knock(completed, signed(completed, "whsec_another")) == 400
    assert knock(completed, signed(completed, at=int(time.time()) - 301)) == 400
    assert knock(completed.replace("2500", "9900"), signed(completed)) == 400
    assert wallet.funds(acme).available == 0
    assert knock(completed, signed(completed)) == 200
    assert wallet.funds(acme).available == 25 * NANO


def test_while_a_secret_is_replaced_both_are_taken(completed, settings) -> None:
    both = ("whsec_new", SECRET)
    settings.ENV = replace(settings.ENV, stripe_webhook_secrets=both)
    assert knock(completed, signed(completed)) == 200
    assert knock(completed, signed(completed, "whsec_new")) == 200


@pytest.mark.parametrize("body", ["", "{}", "[]", "null", '{"object": "event"}', "\xff", "{" * 99])
def test_what_is_signed_but_no_event_is_refused(stripe, db, body: str) -> None:
    assert knock(body, signed(body)) == 400


def test_an_event_of_live_mode_is_refused_under_a_test_key(completed: str) -> None:
    body = completed.replace('"livemode": false', '"livemode": true')
    assert knock(body, signed(body)) == 400


def test_only_posts_are_taken(stripe, db) -> None:
    assert Client().get(WEBHOOK).status_code == 405


def test_without_payments_nothing_is_taken(db) -> None:
    assert knock("{}", signed("{}")) == 503


def test_what_is_believed_is_the_object_not_the_event(stripe, completed, acme) -> None:
    event = json.loads(completed)
    event["data"]["object"]["amount_total"] = 9_999_900
    event["data"]["object"]["amount_subtotal"] = 9_999_900
    body = json.dumps(event)
    assert knock(body, signed(body)) == 200
    assert wallet.funds(acme).available == 25 * NANO


def test_our_object_that_we_do_not_know_yet_comes_again(stripe, completed, acme) -> None:
    row = TopUp.objects.get()
    TopUp.objects.all().delete()
    assert knock(completed, signed(completed)) == 409
    assert StripeEvent.objects.get().done_at is None
    row.save(force_insert=True)
    assert knock(completed, signed(completed)) == 200
    assert wallet.funds(acme).available == 25 * NANO


def test_objects_of_others_in_the_account_are_answered_with_success(stripe, db) -> None:
    stripe.world.make("customer", name="somebody else's")
    session = stripe.direct.api.call(
        "POST",
        "/v1/checkout/sessions",
        {"authorization": "Bearer sk_test_x"},
        "mode=payment&success_url=http://x/&line_items[0][quantity]=1"
        "&line_items[0][price_data][currency]=usd&line_items[0][price_data][unit_amount]=5000"
        "&line_items[0][price_data][product_data][name]=hat",
    )
    paid = stripe.pay(json.loads(session.body)["url"])
    refund = f"payment_intent={paid['payment_intent']}"
    stripe.direct.api.call("POST", "/v1/refunds", {"authorization": "Bearer sk_test_x"}, refund)
    assert set(stripe.deliver()) == {200}
    assert set(StripeEvent.objects.values_list("problem", flat=True)) == {"not ours"}


def test_an_event_is_done_only_once_its_effect_is_in_the_books(
    stripe, completed, acme, monkeypatch
) -> None:
    real = wallet.pay_in

    def crash(*args: object, **kwargs: object) -> None:
        real(*args, **kwargs)
        raise RuntimeError("killed between the entries and their commit")

    monkeypatch.setattr(wallet, "pay_in", crash)
    with pytest.raises(RuntimeError), transaction.atomic():
        knock(completed, signed(completed))
    monkeypatch.setattr(wallet, "pay_in", real)
    assert wallet.funds(acme).available == 0
    assert not StripeEvent.objects.exclude(done_at=None).exists()
    assert knock(completed, signed(completed)) == 200
    assert wallet.funds(acme).available == 25 * NANO


def test_a_crash_after_the_commit_does_no_harm(stripe, completed, paid, acme) -> None:
    crediting.settle_session(paid["id"])  # and killed before the event was marked
    assert knock(completed, signed(completed)) == 200
    assert StripeEvent.objects.get().done_at is not None
    assert wallet.funds(acme).available == 25 * NANO


def test_while_stripe_is_away_events_come_again(stripe, completed, acme) -> None:
    stripe.world.faults.chance = lambda share: False
    good = stripe.direct.api.call
    stripe.direct.api.call = lambda *a: type(good("GET", "/", {}))(500, "{}")
    assert knock(completed, signed(completed)) == 503
    stripe.direct.api.call = good
    assert knock(completed, signed(completed)) == 200
    assert wallet.funds(acme).available == 25 * NANO


def test_what_could_not_be_delivered_is_fetched(stripe, paid, acme) -> None:
    assert events.catch_up() > 0
    assert wallet.funds(acme).available == 25 * NANO
    assert events.catch_up() == 0


def test_old_events_are_forgotten(stripe, paid) -> None:
    stripe.deliver()
    assert StripeEvent.objects.exists()
    assert events.forget() == 0
    StripeEvent.objects.update(received_at="2020-01-01T00:00Z")
    assert events.forget() > 0
