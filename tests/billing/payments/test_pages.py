"""The way to the payment page and back, for those who may."""

import pytest
from django.test import Client

from accounts.models import Membership
from accounts.roles import Role
from billing import wallet
from billing.models import AutoTopUp, SavedCard, TopUp
from billing.money import NANO
from portal.lib.env import STRIPE_PAGES, read
from tests.cast import person, signed_in
from tests.fakes.stripe import LocalStripe

PAGE = "/o/acme/billing/top-up/"
AUTOMATIC = "/o/acme/billing/automatic/"
POSTS = (PAGE, "/o/acme/billing/card/", "/o/acme/billing/portal/", AUTOMATIC)
SETTING = {"auto-enabled": "on", "auto-threshold": "10", "auto-adds": "25", "auto-monthly": ""}


def test_pay_and_come_back(stripe: LocalStripe, acme, alice_client: Client) -> None:
    page = alice_client.get(PAGE).content.decode()
    assert "demonstration" in page and "0.00\xa0USD" in page
    answer = alice_client.post(PAGE, {"amount": "25"})
    assert answer.status_code == 302
    session = stripe.pay(answer["Location"])
    back = session["success_url"].removeprefix("http://localhost:8000")
    page = alice_client.get(back).content.decode()
    assert "25.00\xa0USD has been added" in page
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


def save_a_card(stripe: LocalStripe, client: Client, card: str = "pm_card_visa") -> SavedCard:
    url = client.post("/o/acme/billing/card/")["Location"]
    stripe.act("pay", id=url.rsplit("/", 1)[1], card=card)
    stripe.deliver()
    return SavedCard.objects.get(is_default=True)


def test_automatic_top_ups_are_set_and_shown(stripe, acme, alice_client) -> None:
    answer = alice_client.post(AUTOMATIC, SETTING)
    assert answer.status_code == 422 and "Save a card first" in answer.content.decode()
    save_a_card(stripe, alice_client)
    assert alice_client.post(AUTOMATIC, SETTING | {"auto-monthly": "100.50"}).status_code == 302
    setting = AutoTopUp.objects.get()
    assert (setting.nano, setting.monthly_nano) == (25 * NANO, 100_500_000_000)
    page = alice_client.get(PAGE).content.decode()
    assert 'value="100.50"' in page and "12/2034" in page
    AutoTopUp.pause(acme, "insufficient_funds")
    assert "Nothing is charged at the moment" in alice_client.get(PAGE).content.decode()
    alice_client.post(AUTOMATIC, SETTING | {"auto-enabled": ""})
    assert not AutoTopUp.objects.get().enabled


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("auto-adds", "1", "from 5 to 10,000 USD"),
        ("auto-adds", "much", "such as 25"),
        ("auto-threshold", "", "required"),
        ("auto-threshold", "99999", "smaller amount"),
        ("auto-monthly", "20", "at least one top-up"),
    ],
)
def test_an_odd_setting_gets_a_sentence(stripe, acme, alice_client, field, value, words) -> None:
    save_a_card(stripe, alice_client)
    answer = alice_client.post(AUTOMATIC, SETTING | {field: value})
    assert answer.status_code == 422 and words in answer.content.decode()
    assert not AutoTopUp.objects.exists()


def test_cards_are_chosen_and_removed(stripe, acme, alice_client, charlie_client) -> None:
    first = save_a_card(stripe, alice_client)
    second = save_a_card(stripe, alice_client, "pm_card_mastercard")
    assert second != first
    for verb in ("default", "remove"):
        path = f"/o/umbrella/billing/card/{first.id}/{verb}/"
        assert charlie_client.post(path).status_code == 404
    assert alice_client.post(f"/o/acme/billing/card/{first.id}/nonsense/").status_code == 404
    alice_client.post(f"/o/acme/billing/card/{first.id}/default/")
    first.refresh_from_db()
    assert first.is_default
    alice_client.post(f"/o/acme/billing/card/{first.id}/remove/")
    page = alice_client.get(PAGE).content.decode()
    assert "…4242" not in page and "…4444" in page
    assert alice_client.post(f"/o/acme/billing/card/{first.id}/remove/").status_code == 404


def test_the_billing_page_says_that_payments_are_a_demonstration(stripe, acme, alice_client):
    page = alice_client.get("/o/acme/billing/").content.decode()
    assert "Payments are a demonstration here" in page


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
