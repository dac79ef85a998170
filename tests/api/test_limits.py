"""Limits, origins and waiting lines over REST."""

import pytest
from django.test import Client

from accounts.models import ApiKey, Organization, User
from inference.gateway.tables import Meter, Window
from inference.models import Limit
from tests.api.conftest import Api
from tests.inference.making import an_instance

OWN = "organizations/acme/"
RPM = {"meter": "requests", "window": "minute", "amount": 60}


def test_setting_a_limit_twice_is_one_limit_with_the_newer_amount(
    alice_api: Api, acme: Organization
) -> None:
    wanted = RPM | {"scope": "organization", "subject": str(acme.id)}
    status, made = alice_api("post", OWN + "limits/", wanted)
    assert (status, made["amount"], made["subject"]) == (201, 60, str(acme.id))
    assert alice_api("post", OWN + "limits/", wanted | {"amount": 70})[1]["id"] == made["id"]
    assert alice_api("patch", OWN + f"limits/{made['id']}/", {"amount": 80})[1]["amount"] == 80
    assert Limit.objects.get().amount == 80
    assert alice_api("delete", OWN + f"limits/{made['id']}/")[0] == 204
    assert not Limit.objects.exists()


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"amount": -1}, "#/amount"),
        ({"amount": 10**16}, "#/amount"),
        ({"amount": 1.5}, "#/amount"),
        ({"meter": "wishes"}, "#/meter"),
        ({"window": "month"}, "#/window"),
        ({"scope": "galaxy"}, "#/scope"),
        ({"subject": "acme"}, "#/subject"),
        ({"subject": "00000000-0000-7000-8000-000000000000"}, "#/subject"),
        ({"scope": "organization"}, "#/subject"),
    ],
)
def test_wrong_values_are_named(
    alice_api: Api, acme: Organization, change: dict[str, object], pointer: str
) -> None:
    instance = an_instance(acme, "demo")
    wanted = RPM | {"scope": "instance", "subject": str(instance.id)} | change
    status, problem = alice_api("post", OWN + "limits/", wanted)
    assert status == 400
    assert [error["pointer"] for error in problem["errors"]] == [pointer]


def test_nobody_limits_what_belongs_to_others(
    alice_api: Api, umbrella: Organization, charlie: User
) -> None:
    key, _ = ApiKey.issue(umbrella, charlie, "theirs")
    for scope, id_ in (
        ("organization", umbrella.id),
        ("member", charlie.memberships.get().id),
        ("key", key.id),
        ("instance", an_instance(umbrella, "theirs").id),
    ):
        wanted = RPM | {"scope": scope, "subject": str(id_)}
        status, problem = alice_api("post", OWN + "limits/", wanted)
        assert (status, problem["errors"][0]["code"]) == (400, "does_not_exist")


def test_members_see_what_holds_for_them(
    alice_api: Api, bob_client: Client, acme: Organization, alice: User, bob: User
) -> None:
    his, _ = ApiKey.issue(acme, bob, "his")
    hers, _ = ApiKey.issue(acme, alice, "hers")
    me = alice.memberships.get()
    for subject in (acme, me, bob.memberships.get(), his, hers, an_instance(acme, "demo")):
        Limit.set_for(subject, {(Meter.REQUESTS, Window.DAY): 5}, by=me)
    assert len(alice_api("get", OWN + "limits/?scope=key")[1]["results"]) == 2
    assert len(alice_api("get", OWN + f"limits/?subject={his.id}")[1]["results"]) == 1
    seen = bob_client.get(f"/api/v1/{OWN}limits/").json()["results"]
    assert {(limit["scope"], limit["subject"]) for limit in seen} == {
        ("organization", str(acme.id)),
        ("member", str(bob.memberships.get().id)),
        ("key", str(his.id)),
        ("instance", str(acme.instances.get().id)),
    }


def test_a_rotated_key_keeps_its_limits_and_websites(alice_api: Api, alice: User) -> None:
    wanted = {"name": "site", "origins": ["https://App.example/", "https://app.example:443"]}
    _, made = alice_api("post", OWN + "keys/", wanted)
    assert made["origins"] == ["https://app.example"]
    alice_api("post", OWN + "limits/", RPM | {"scope": "key", "subject": made["id"]})
    _, new = alice_api("post", OWN + f"keys/{made['id']}/rotate/", {})
    assert new["origins"] == ["https://app.example"]
    assert Limit.amounts_of(ApiKey.objects.get(id=new["id"])) == {
        (Meter.REQUESTS, Window.MINUTE): 60
    }
    assert Limit.objects.count() == 2


def test_websites_of_a_key_are_changed_while_it_lives(alice_api: Api) -> None:
    _, made = alice_api("post", OWN + "keys/", {"name": "site"})
    address = OWN + f"keys/{made['id']}/"
    assert alice_api("patch", address, {"origins": ["*"]})[1]["origins"] == ["*"]
    status, problem = alice_api("patch", address, {"origins": ["https://x.example/path"]})
    assert (status, problem["errors"][0]["pointer"]) == (400, "#/origins")
    assert alice_api("patch", address, {"origins": []})[1]["origins"] == []
    alice_api("delete", address)
    assert alice_api("patch", address, {"origins": ["*"]})[0] == 409


def test_a_management_key_is_for_no_website(alice_api: Api) -> None:
    wanted = {"name": "k", "kind": "management", "origins": ["https://app.example"]}
    status, problem = alice_api("post", OWN + "keys/", wanted)
    assert (status, problem["errors"][0]["pointer"]) == (400, "#/origins")


def test_the_line_of_an_instance_is_changed(alice_api: Api, acme: Organization) -> None:
    address = OWN + f"instances/{an_instance(acme, 'demo').id}/"
    status, body = alice_api("patch", address, {"queue_size": 20})
    assert (status, body["queue_size"], body["queue_seconds"]) == (200, 20, 30)
    for wrong in ({"queue_size": 10_001}, {"queue_seconds": 0}, {"queue_size": -1}):
        assert alice_api("patch", address, wrong)[0] == 400
    assert alice_api("patch", address, {"name": "other"})[1]["name"] == "demo"
