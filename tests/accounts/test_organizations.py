"""Founding, naming, switching; addresses for names in any script; the hub's token."""

import threading

import pytest
from django.db import connection
from django.test import Client

from accounts.models import Organization, User
from inference.models import HubCredential
from tests.cast import person


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("Acme", "acme"),
        ("Ångström & Søn", "angstrom-sn"),
        ("某某公司", "org"),
        ("  --  ", "org"),
        ("株式会社 Acme 2", "acme-2"),
        ("x" * 80, "x" * 40),
        ("Acme\u202e/../", "acme"),
    ],
)
def test_every_name_gets_an_address(alice: User, name: str, slug: str) -> None:
    organization = Organization.found(name, alice)
    assert organization.slug == slug
    assert organization.get_absolute_url() == f"/o/{slug}/"


def test_the_same_name_gets_another_address(alice: User) -> None:
    assert [Organization.found("某某", alice).slug for _ in range(3)] == ["org", "org-2", "org-3"]


@pytest.mark.django_db(transaction=True)
def test_the_same_name_in_the_same_moment_gets_another_address() -> None:
    alice = person("alice@acme.example")
    start = threading.Barrier(4)

    def found() -> None:
        start.wait(10)
        Organization.found("Acme", alice)
        connection.close()

    threads = [threading.Thread(target=found) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    slugs = set(Organization.objects.values_list("slug", flat=True))
    assert slugs == {"acme", "acme-2", "acme-3", "acme-4"}


def test_founding_by_page_makes_its_founder_the_owner(bob_client: Client, bob: User) -> None:
    response = bob_client.post("/organizations/new/", {"name": "暗号研究所"})
    assert (response.status_code, response.url) == (302, "/o/org/")
    assert bob.memberships.get(organization__slug="org").role == "owner"
    page = bob_client.get("/o/org/").content.decode()
    assert "暗号研究所" in page and "Acme" in page  # both are in the switch


@pytest.mark.parametrize("name", ["", "   ", "x" * 81, "a\0b"])
def test_a_nonsensical_name_is_refused_in_place(alice_client: Client, name: str) -> None:
    for address in ("/organizations/new/", "/o/acme/settings/"):
        page = alice_client.post(address, {"name": name})
        assert page.status_code == 422 and page.context["form"].errors["name"]
    assert Organization.objects.get().name == "Acme"


def test_a_name_is_shown_as_text(alice_client: Client) -> None:
    alice_client.post("/o/acme/settings/", {"name": "<script>alert(1)</script>"})
    page = alice_client.get("/o/acme/settings/").content.decode()
    assert "<script>alert" not in page and "&lt;script&gt;alert" in page


def test_renaming_keeps_the_address(alice_client: Client, acme: Organization) -> None:
    response = alice_client.post("/o/acme/settings/", {"name": "Acme & Co"})
    assert response.status_code == 302
    acme.refresh_from_db()
    assert (acme.name, acme.slug) == ("Acme & Co", "acme")


def test_a_member_sees_the_settings_and_changes_nothing(
    bob_client: Client, acme: Organization
) -> None:
    page = bob_client.get("/o/acme/settings/")
    assert page.status_code == 200 and b'name="name"' not in page.content
    assert bob_client.post("/o/acme/settings/", {"name": "Bob's"}).status_code == 403
    acme.refresh_from_db()
    assert acme.name == "Acme"


def test_home_leads_to_the_organization_used_last(alice_client: Client, alice: User) -> None:
    other = Organization.found("Other", alice)
    alice_client.get("/o/other/")
    assert alice_client.get("/").url == other.get_absolute_url()
    alice_client.get("/o/acme/")
    assert alice_client.get("/").url == "/o/acme/"


TOKEN = "hf_" + "a1B2" * 9


def test_a_hub_token_is_kept_encrypted_and_never_shown(
    alice_client: Client, acme: Organization
) -> None:
    assert alice_client.post("/o/acme/settings/hub-token/", {"token": TOKEN}).status_code == 302
    assert HubCredential.token_of(acme) == TOKEN
    page = alice_client.get("/o/acme/settings/hub-token/").content.decode()
    assert "alice@acme.example" in page and TOKEN not in page
    with connection.cursor() as cursor:
        cursor.execute("SELECT convert_from(encrypted, 'latin1') FROM inference_hubcredential")
        assert TOKEN not in cursor.fetchone()[0]


def test_a_hub_token_is_replaced_and_removed(alice_client: Client, acme: Organization) -> None:
    for token in (TOKEN, TOKEN + "x"):
        alice_client.post("/o/acme/settings/hub-token/", {"token": token})
    assert HubCredential.token_of(acme) == TOKEN + "x"
    alice_client.post("/o/acme/settings/hub-token/remove/")
    assert HubCredential.token_of(acme) is None


@pytest.mark.parametrize("token", ["", "sk-123", "hf_", "hf_abc def ghi jkl", "hf_" + "a" * 300])
def test_what_is_no_hub_token_is_refused_and_not_repeated(
    alice_client: Client, acme: Organization, token: str
) -> None:
    page = alice_client.post("/o/acme/settings/hub-token/", {"token": token})
    assert page.status_code == 422
    assert not token.strip("hf_") or f'value="{token}"' not in page.content.decode()
    assert HubCredential.token_of(acme) is None
