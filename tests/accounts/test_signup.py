"""From the sign-up form to an organization, by the real flows, with codes out of the mail."""

import re
from typing import Any

import pytest
from django.core import mail
from django.core.cache import cache
from django.test import Client

from accounts.models import Invitation, Organization, User
from accounts.roles import Role
from accounts.signup import default_name, settle
from tests.cast import PASSWORD

SIGN_UP, SIGN_IN = "/account/signup/", "/account/login/"
pytestmark = pytest.mark.django_db


def code_from_mail() -> str:
    (found,) = re.findall(r"^\s*([0-9A-Z]{3,4}-?[0-9A-Z]{3,4})\s*$", mail.outbox[-1].body, re.M)
    return str(found)


def sign_up(client: Client, email: str, **fields: str) -> None:
    response = client.post(SIGN_UP, {"email": email, **fields})
    assert response.status_code == 302, response.context["form"].errors
    prove(client, response.url)


def prove(client: Client, address: str) -> None:
    assert client.get(address).status_code == 200
    response = client.post(address, {"code": code_from_mail()})
    assert response.status_code == 302, response.content.decode()


def test_with_a_password_and_a_mailed_code_one_lands_in_ones_own_organization() -> None:
    client = Client()
    sign_up(client, "dora.k@new.example", password1=PASSWORD, organization="Dora's Labs")
    page = client.get("/", follow=True)
    assert page.status_code == 200
    assert page.redirect_chain[-1][0] == "/o/doras-labs/"
    assert page.context["request"].membership.role == Role.OWNER
    client.post("/account/logout/")
    response = client.post(SIGN_IN, {"login": "dora.k@new.example", "password": PASSWORD})
    assert (response.status_code, response.url) == (302, "/")


def test_without_a_password_one_signs_in_by_code_for_ever() -> None:
    client = Client()
    sign_up(client, "dora@new.example")
    user = User.objects.get(email="dora@new.example")
    assert not user.has_usable_password()
    client.post("/account/logout/")
    response = client.post("/account/login/code/", {"email": "dora@new.example"})
    assert response.status_code == 302
    response = client.post("/account/login/code/confirm/", {"code": code_from_mail()})
    assert (response.status_code, response.url) == (302, "/")
    assert user.memberships.count() == 1  # signing in again founds nothing


def test_a_wrong_code_lets_nobody_in() -> None:
    client = Client()
    client.post(SIGN_UP, {"email": "dora@new.example", "password1": PASSWORD})
    response = client.post("/account/confirm-email/", {"code": "000-000"})
    assert response.status_code == 200
    assert "_auth_user_id" not in client.session
    assert not Organization.objects.exists()


def test_no_organization_is_made_for_an_address_that_nobody_proved() -> None:
    Client().post(SIGN_UP, {"email": "x@acme.example", "password1": PASSWORD, "organization": "A"})
    assert User.objects.filter(email="x@acme.example").exists()
    assert not Organization.objects.exists()


def test_one_who_proves_the_address_later_and_elsewhere_has_an_organization_too() -> None:
    Client().post(SIGN_UP, {"email": "dora@new.example", "password1": PASSWORD})
    cache.clear()  # ten seconds go by: codes are not mailed faster than that
    client = Client()  # another browser: the form's session is gone
    response = client.post(SIGN_IN, {"login": "dora@new.example", "password": PASSWORD})
    prove(client, response.url)
    assert Organization.objects.get().name == "Dora's organization"


@pytest.mark.parametrize("password", ["short", "12345678901234", "password1234"])
def test_weak_passwords_are_refused_in_place(password: str) -> None:
    response = Client().post(SIGN_UP, {"email": "dora@new.example", "password1": password})
    assert response.status_code == 200
    assert response.context["form"].errors["password1"]
    assert not User.objects.exists()


def test_a_taken_address_is_not_given_away_on_the_page(alice: User) -> None:
    mail.outbox.clear()
    response = Client().post(SIGN_UP, {"email": "Alice@acme.example", "password1": PASSWORD})
    fresh = Client().post(SIGN_UP, {"email": "dora@new.example", "password1": PASSWORD})
    assert (response.status_code, response.url) == (fresh.status_code, fresh.url)
    assert User.objects.filter(email__iexact="alice@acme.example").count() == 1


@pytest.mark.parametrize(
    ("page", "email"),
    [
        ("/account/password/reset/", "alice@acme.example"),  # a link with a secret
        ("/account/password/reset/", "nobody@new.example"),  # "you have no account: sign up at …"
        ("/account/signup/", "alice@acme.example"),  # "you have an account: reset at …"
        ("/account/login/code/", "alice@acme.example"),
    ],
)
def test_a_mail_leads_to_this_installation_whatever_host_it_was_asked_through(
    alice: User, page: str, email: str, settings: Any
) -> None:
    settings.PUBLIC_URL = "https://models.acme.example"
    Client(headers={"Host": "evil.example"}).post(page, {"email": email, "password1": PASSWORD})
    (sent,) = mail.outbox
    assert sent.to == [email]
    assert "evil" not in sent.subject + sent.body and "Hello from Modelport" in sent.body
    links = re.findall(r"\S+://\S+", sent.body)
    assert links and all(link.startswith("https://models.acme.example") for link in links)


def test_a_forgotten_password_is_set_anew_by_the_mailed_link(alice: User) -> None:
    client = Client()
    client.post("/account/password/reset/", {"email": "alice@acme.example"})
    (link,) = re.findall(r"https?://[^/]+(/account/password/reset/key/\S+)", mail.outbox[0].body)
    form = client.get(link, follow=True)
    new = "another battery of horses"
    client.post(form.redirect_chain[-1][0], {"password1": new, "password2": new})
    response = client.post(SIGN_IN, {"login": "alice@acme.example", "password": new})
    assert (response.status_code, response.url) == (302, "/")


def test_settling_twice_makes_one_organization(alice: User) -> None:
    first = settle(alice, "Acme")
    assert settle(alice, "Another") == first
    assert Organization.objects.count() == 1


@pytest.mark.parametrize(
    ("email", "name"),
    [
        ("alice@acme.example", "Alice's organization"),
        ("alice.van_dyk+x@acme.example", "Alice Van Dyk's organization"),
        ("7@acme.example", "7's organization"),
    ],
)
def test_an_organization_without_a_name_is_called_after_its_founder(email: str, name: str) -> None:
    assert default_name(email) == name


@pytest.fixture
def link(acme: Organization, alice: User) -> str:
    Invitation.send(alice.memberships.get(), "dora@new.example", Role.MEMBER)
    return re.search(r"(/invite/\S+)", mail.outbox[-1].body)[1]  # type: ignore[index]


def test_the_invited_join_by_signing_up_without_another_code(link: str, acme: object) -> None:
    client = Client()
    page = client.get(link)
    assert "dora@new.example" in page.content.decode()
    mails = len(mail.outbox)
    address = page.context["sign_up"]
    assert 'value="dora@new.example"' in client.get(address).content.decode()
    body = {"email": "dora@new.example", "password1": PASSWORD, "next": link}
    response = client.post(address, body, follow=True)
    assert response.redirect_chain[-1][0] == "/o/acme/"
    assert len(mail.outbox) == mails
    membership = User.objects.get(email="dora@new.example").memberships.get()
    assert (membership.organization, membership.role) == (acme, Role.MEMBER)
    assert Organization.objects.count() == 1  # no organization of their own on top


def test_an_invitation_that_ended_meanwhile_leaves_one_with_an_own_organization(link: str) -> None:
    client = Client()
    client.get(link)
    Invitation.objects.get().revoke(by=Organization.objects.get().memberships.get())
    client.post(SIGN_UP, {"email": "dora@new.example", "password1": PASSWORD})
    membership = User.objects.get(email="dora@new.example").memberships.get()
    assert membership.organization.name == "Dora's organization"


def test_signing_up_with_another_address_than_the_invited_one_joins_nothing(link: str) -> None:
    client = Client()
    client.get(link)
    sign_up(client, "eve@new.example", password1=PASSWORD)
    eve = User.objects.get(email="eve@new.example")
    assert [(a.email, a.verified) for a in eve.emailaddress_set.all()] == [(eve.email, True)]
    membership = eve.memberships.get()
    assert membership.organization.name == "Eve's organization"
    page = client.get(link)
    assert "dora@new.example" in page.content.decode() and page.context["problem"]
    assert client.post(link).status_code == 200
    assert Invitation.objects.get().accepted_at is None
