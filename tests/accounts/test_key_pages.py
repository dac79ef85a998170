"""The keys' pages: what is shown, once and for good."""

import re
from datetime import timedelta

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from accounts.models import ApiKey, Organization, User
from inference.models import Instance

NEW = "/o/acme/keys/new/"


def form(client: Client, **fields: object) -> dict[str, object]:
    asked = client.get(NEW).context["form"].initial["asked"]
    return {"asked": asked, "name": "laptop", "expires": "", **fields}


def shown(content: bytes) -> str:
    (plain,) = set(re.findall(r"mp-[0-9A-Za-z]{33}", content.decode()))
    return str(plain)


def test_a_new_key_is_shown_once_with_code_that_works(bob_client: Client, bob: User) -> None:
    page = bob_client.post(NEW, form(bob_client))
    assert page.status_code == 200
    plain = shown(page.content)
    assert ApiKey.authenticate(plain, "api").created_by == bob
    assert f"OPENAI_API_KEY={plain}" in page.content.decode()
    assert "no-store" in page["Cache-Control"]
    for address in ("/o/acme/keys/", NEW):
        assert plain not in bob_client.get(address).content.decode()


def test_a_double_click_makes_one_key(bob_client: Client) -> None:
    body = form(bob_client)
    assert bob_client.post(NEW, body).status_code == 200
    again = bob_client.post(NEW, body, follow=True)
    assert "made already" in again.content.decode()
    assert ApiKey.objects.count() == 1


@pytest.mark.parametrize("asked", ["", "nonsense", "00000000-0000-7000-8000-000000000000"])
def test_an_invented_form_makes_no_key(bob_client: Client, asked: str) -> None:
    assert bob_client.post(NEW, {"asked": asked, "name": "laptop"}).status_code == 422
    assert not ApiKey.objects.exists()


@pytest.mark.parametrize("name", ["", "  ", "x" * 81, "a\0b"])
def test_a_nonsensical_name_is_refused_in_place(bob_client: Client, name: str) -> None:
    page = bob_client.post(NEW, form(bob_client, name=name))
    assert page.status_code == 422 and page.context["form"].errors["name"]


def test_expiry_and_models_are_chosen(bob_client: Client, acme: Organization) -> None:
    Instance.objects.create(organization=acme, name="chat", model_source="bundled", model_id="demo")
    bob_client.post(NEW, form(bob_client, expires="30", models_allowed=["chat"]))
    key = ApiKey.objects.get()
    assert key.models_allowed == ["chat"]
    assert timedelta(days=29) < key.expires_at - timezone.now() <= timedelta(days=30)
    page = bob_client.post(NEW, form(bob_client, models_allowed=["other"]))
    assert page.status_code == 422


def test_websites_are_chosen_and_changed(bob_client: Client) -> None:
    page = bob_client.post(NEW, form(bob_client, origins="https://app.example/x"))
    assert page.status_code == 422 and page.context["form"].errors["origins"]
    bob_client.post(NEW, form(bob_client, origins="https://App.example/\r\n\r\nhttp://x:80 "))
    key = ApiKey.objects.get()
    assert key.origins == ["http://x", "https://app.example"]
    address = f"/o/acme/keys/{key.id}/"
    shown_lines = bob_client.get(address).context["form"]["origins"].value()
    assert shown_lines == "http://x\nhttps://app.example"
    assert bob_client.post(address, {"origins": "nonsense"}).status_code == 422
    assert bob_client.post(address, {"origins": ""}).url == address
    key.refresh_from_db()
    assert key.origins == []


def test_an_ended_key_is_shown_and_not_changed(
    bob_client: Client, acme: Organization, bob: User
) -> None:
    key, _ = ApiKey.issue(acme, bob, "old")
    key.revoke(by=bob)
    address = f"/o/acme/keys/{key.id}/"
    assert "Revoked" in bob_client.get(address).content.decode()
    answer = bob_client.post(address, {"origins": "*"}, follow=True)
    assert "This key has ended." in answer.content.decode()


def test_a_member_makes_no_management_key_however_the_form_is_sent(bob_client: Client) -> None:
    assert "kind" not in bob_client.get(NEW).context["form"].fields
    bob_client.post(NEW, form(bob_client, kind="management"))
    assert ApiKey.objects.get().kind == "api"


def test_an_owner_makes_a_management_key(alice_client: Client) -> None:
    page = alice_client.post(NEW, form(alice_client, kind="management"))
    assert "/api/v1/me/" in page.content.decode()
    assert ApiKey.authenticate(shown(page.content), "management")


def test_members_see_their_own_and_owners_all(
    alice_client: Client, bob_client: Client, acme: Organization, alice: User, bob: User
) -> None:
    ApiKey.issue(acme, alice, "hers")
    ApiKey.issue(acme, bob, "his")
    ApiKey.playground(acme, bob)
    assert [k.name for k in bob_client.get("/o/acme/keys/").context["keys"]] == ["his"]
    assert [k.name for k in alice_client.get("/o/acme/keys/").context["keys"]] == ["his", "hers"]


def test_ended_keys_are_out_of_the_way_and_still_there(
    alice_client: Client, acme: Organization, alice: User
) -> None:
    key, _ = ApiKey.issue(acme, alice, "old")
    address = f"/o/acme/keys/{key.id}/revoke/"
    assert "not been used" in alice_client.get(address).content.decode()
    assert ApiKey.objects.usable().exists()
    alice_client.post(address)
    assert not ApiKey.objects.usable().exists()
    assert list(alice_client.get("/o/acme/keys/").context["keys"]) == []
    assert list(alice_client.get("/o/acme/keys/?ended").context["keys"]) == [key]


def test_rotating_shows_the_successor_once(
    alice_client: Client, acme: Organization, alice: User
) -> None:
    key, old = ApiKey.issue(acme, alice, "server")
    address = f"/o/acme/keys/{key.id}/rotate/"
    assert alice_client.get(address).status_code == 200
    page = alice_client.post(address, {"overlap": "3600"})
    new = shown(page.content)
    assert ApiKey.authenticate(old, "api") and ApiKey.authenticate(new, "api")
    assert "no-store" in page["Cache-Control"]
    again = alice_client.post(address, {"overlap": "3600"}, follow=True)
    assert "rotated already" in again.content.decode()
    assert alice_client.post(address, {"overlap": "-5"}).status_code == 422


def test_someone_elses_key_is_not_there(
    bob_client: Client, charlie_client: Client, acme: Organization, alice: User
) -> None:
    key, plain = ApiKey.issue(acme, alice, "hers")
    for verb in ("", "revoke/", "rotate/", "limits/"):
        assert bob_client.post(f"/o/acme/keys/{key.id}/{verb}").status_code == 404
        assert charlie_client.post(f"/o/umbrella/keys/{key.id}/{verb}").status_code == 404
    assert ApiKey.authenticate(plain, "api")


def test_names_are_shown_as_text(alice_client: Client, acme: Organization, alice: User) -> None:
    ApiKey.issue(acme, alice, '"><img src=x onerror=alert(1)>')
    page = alice_client.get("/o/acme/keys/").content.decode()
    assert "<img src=x" not in page


def test_the_list_costs_the_same_at_any_length(
    alice_client: Client, acme: Organization, alice: User
) -> None:
    def queries() -> int:
        with CaptureQueriesContext(connection) as captured:
            alice_client.get("/o/acme/keys/")
        return len(captured)

    ApiKey.issue(acme, alice, "first")
    one = queries()
    for i in range(20):
        ApiKey.issue(acme, alice, f"k{i}")
    assert queries() == one
