"""What the operator sees of payments, and gives back."""

from collections.abc import Iterator
from uuid import uuid4

import pytest
from django.test import Client

from billing import wallet
from billing.models import TakenBack, TopUp
from billing.money import NANO
from billing.payments import checkout, reconcile
from tests.cast import person, signed_in
from tests.fakes.stripe import LocalStripe, local_stripe

PAGE = "/ops/payments/"


@pytest.fixture
def stripe() -> Iterator[LocalStripe]:
    with local_stripe() as local:
        yield local


@pytest.fixture
def operator(db: None) -> Client:
    user = person("olga@operator.example")
    user.is_staff = True
    user.save()
    return signed_in(user)


@pytest.fixture
def top_up(stripe: LocalStripe, acme, alice) -> TopUp:
    stripe.pay(checkout.begin(acme, alice, 25 * NANO, "http://localhost:8000/"))
    stripe.deliver()
    return TopUp.objects.get()


def test_an_operator_gives_back(stripe, acme, operator, top_up) -> None:
    path = f"{PAGE}{top_up.id}/"
    assert path in operator.get(PAGE).content.decode()
    assert operator.post(path, {"amount": "10", "reason": "a mistake"}).status_code == 302
    assert wallet.funds(acme).available == 15 * NANO
    page = operator.get(path).content.decode()
    assert "10.00\xa0USD" in page and "a mistake" in page and "succeeded" in page
    taken = TakenBack.objects.get()
    assert (taken.by.email, taken.reason) == ("olga@operator.example", "a mistake")


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ({"amount": "26", "reason": "x"}, "more than is left"),
        ({"amount": "0", "reason": "x"}, "can be paid"),
        ({"amount": "much", "reason": "x"}, "such as 25"),
        ({"amount": "5", "reason": ""}, "required"),
    ],
)
def test_an_odd_refund_gets_a_sentence(stripe, acme, operator, top_up, form, words) -> None:
    answer = operator.post(f"{PAGE}{top_up.id}/", form)
    assert answer.status_code == 422 and words in answer.content.decode()
    assert wallet.funds(acme).available == 25 * NANO


def test_differences_have_their_sentences(stripe, acme, operator, top_up) -> None:
    reconcile.check()
    assert "25.00\xa0USD" in operator.get(PAGE).content.decode()
    intent = stripe.newest("payment_intent")
    stripe.world.save(intent | {"amount_received": 2400})
    reconcile.check()
    page = operator.get(PAGE).content.decode()
    assert "tell different amounts" in page and "1 needs a person" in page


def test_what_was_refused_is_told(stripe, acme, alice, operator) -> None:
    profile = wallet.profile_of(acme)
    profile.invoice_email = "no address"
    profile.save()
    with pytest.raises(checkout.Conflict):
        checkout.begin(acme, alice, 25 * NANO, "http://localhost:8000/")
    assert "Invalid email address" in operator.get(PAGE).content.decode()


def test_only_operators_see_it(stripe, acme, alice_client, top_up, operator) -> None:
    for path in (PAGE, f"{PAGE}{top_up.id}/"):
        assert alice_client.get(path).status_code == 404
        assert Client().get(path).status_code == 302
        assert operator.get(path).status_code == 200
    assert alice_client.post(f"{PAGE}{top_up.id}/", {"amount": "1"}).status_code == 404
    assert operator.get(f"{PAGE}{uuid4()}/").status_code == 404
