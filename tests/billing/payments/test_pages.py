"""The way to the payment page and back, for those who may."""

import pytest
from django.test import Client

from accounts.models import Membership
from accounts.roles import Role
from billing import wallet
from billing.models import SavedCard, TopUp
from billing.money import NANO
from portal.lib.env import STRIPE_PAGES, read
from tests.cast import person, signed_in
from tests.fakes.stripe import LocalStripe

PAGE = "/o/acme/billing/top-up/"
POSTS = (PAGE, "/o/acme/billing/card/", "/o/acme/billing/portal/")


def test_pay_and_come_back(stripe: LocalStripe, acme, alice_client: Client) -> None:
    page = alice_client.get(PAGE).content.decode()
    assert "demonstration" in page and "0.00 USD" in page
    answer = alice_client.post(PAGE, {"amount": "25"})
    assert answer.status_code == 302
    session = stripe.pay(answer["Location"])
    back = session["success_url"].removeprefix("http://localhost:8000")
    page = alice_client.get(back).content.decode()
    assert "25.00 USD has been added" in page
    assert wallet.funds(acme).available == 25 * NANO


def test_come_back_without_paying(stripe: LocalStripe, acme, alice_client: Client) -> None:
    url = alice_client.post(PAGE, {"amount": "25"})["Location"]
    session = stripe.world.need("checkout.session", url.rsplit("/", 1)[1])
    back = session["cancel_url"].removeprefix("http://localhost:8000")
    assert "Not paid yet" in alice_client.get(back).content.decode()
    stripe.act("sleep", seconds=7200)
    assert "Nothing was charged" in alice_client.get(back).content.decode()


@pytest.mark.parametrize("amount", ["", "much", "1", "99999", "25.001", "-25", "٢٥", "1e3"])
def test_an_odd_amount_gets_a_sentence(stripe, acme, alice_client, amount: str) -> None:
    answer = alice_client.post(PAGE, {"amount": amount})
    assert answer.status_code == 422
    assert "errorlist" in answer.content.decode()
    assert not TopUp.objects.exists()


def test_a_card_is_saved_and_shown(stripe: LocalStripe, acme, alice_client) -> None:
    url = alice_client.post("/o/acme/billing/card/")["Location"]
    session = stripe.act("pay", id=url.rsplit("/", 1)[1])
    back = session["success_url"].replace("{CHECKOUT_SESSION_ID}", session["id"])
    page = alice_client.get(back.removeprefix("http://localhost:8000")).content.decode()
    assert "visa …4242" in page
    assert SavedCard.objects.get().is_default


def test_to_the_portal(stripe: LocalStripe, acme, alice_client) -> None:
    url = alice_client.post("/o/acme/billing/portal/")["Location"]
    assert url.startswith(f"{stripe.world.base}/p/session/")


def test_while_stripe_is_away_the_page_says_so(stripe, acme, alice_client) -> None:
    stripe.world.faults.chance = lambda share: share > 0
    stripe.world.faults.failures = 1.0
    answer = alice_client.post(PAGE, {"amount": "25"})
    assert answer.status_code == 422
    assert "does not answer at the moment" in answer.content.decode()
    answer = alice_client.post("/o/acme/billing/card/", follow=True)
    assert "does not answer at the moment" in answer.content.decode()


def test_without_a_key_the_page_says_what_to_do(db, acme, alice_client) -> None:
    page = alice_client.get(PAGE).content.decode()
    assert "Payments are not set up here" in page and 'name="amount"' not in page
    assert alice_client.post(PAGE, {"amount": "25"}).status_code == 422


@pytest.mark.parametrize("path", POSTS)
def test_only_those_who_see_to_billing_may(stripe, acme, bob, charlie_client, path: str) -> None:
    assert Client().post(path).status_code == 302
    assert charlie_client.post(path).status_code == 404
    assert signed_in(bob).post(path).status_code == 403
    admin = person("admin@acme.example")
    Membership.objects.create(organization=acme, user=admin, role=Role.ADMIN)
    assert signed_in(admin).post(path).status_code == 403
    books = person("books@acme.example")
    Membership.objects.create(organization=acme, user=books, role=Role.BILLING)
    assert signed_in(books).post(path).status_code in {302, 422}


@pytest.mark.parametrize("path", POSTS[1:])
def test_nothing_begins_by_a_link(stripe, acme, alice_client, path: str) -> None:
    assert alice_client.get(path).status_code == 405


def test_browsers_may_go_from_the_form_to_the_payment_page() -> None:
    assert read({}).payment_pages == ()
    assert read({"STRIPE_SECRET_KEY": "sk_test_x"}).payment_pages == STRIPE_PAGES
