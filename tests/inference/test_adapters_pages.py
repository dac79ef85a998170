"""The adapters of an instance, as a page and over REST."""

import json
from pathlib import Path
from typing import Any

import pytest
from django.test import Client

from accounts.models import ApiKey, Organization, User
from accounts.roles import Role
from inference.models import Adapter, Instance
from tests.cast import signed_in
from tests.fakes.hub import FakeHub, tiny_adapter, write_files
from tests.inference.making import a_wish
from tests.inference.test_adapters_verbs import add

FORM = {"name": "tone", "source": "hub", "model_id": "acme/tone", "model_revision": ""}
REST = "/api/v1/organizations/acme/adapters/"


@pytest.fixture
def instance(acme: Organization, alice: User) -> Instance:
    return a_wish(acme, alice, settings={"enable_lora": True})


@pytest.fixture
def address(instance: Instance) -> str:
    return f"/o/acme/instances/{instance.id}/adapters/"


def test_an_adapter_is_added_shown_and_removed(
    alice_client: Client, address: str, hub: FakeHub
) -> None:
    hub.add("acme/tone", tiny_adapter())
    assert alice_client.post(address, FORM).url == address

    page = alice_client.get(address)

    ((adapter, tone),) = page.context["adapters"]
    assert (adapter.name, tone) == ("tone", "idle")
    assert b"made for acme/tiny" in page.content
    part = alice_client.get(address, headers={"HX-Request": "true"})
    assert b"<html" not in part.content and b"acme/tone" in part.content
    assert alice_client.post(f"{address}{adapter.id}/remove/").url == address
    assert not Adapter.objects.filter(removed_at=None).exists()
    assert alice_client.post(f"{address}{adapter.id}/remove/").status_code == 404


def test_what_is_refused_stands_beside_its_field(
    alice_client: Client, address: str, hub: FakeHub
) -> None:
    hub.add("acme/tone", tiny_adapter(r=64))
    page = alice_client.post(address, FORM)
    assert page.status_code == 422
    assert "rank is 64" in page.context["form"].errors["model_id"][0]
    page = alice_client.post(address, FORM | {"model_id": "acme/nothing"})
    assert "There is no model acme/nothing" in page.context["form"].errors["model_id"][0]
    page = alice_client.post(address, FORM | {"name": "Not A Name"})
    assert page.context["form"].errors["name"]


def test_folders_are_offered_where_there_are_any(
    alice_client: Client, address: str, model_folder: Path
) -> None:
    assert b"Local folder" not in alice_client.get(address).content
    write_files(model_folder / "tone", tiny_adapter())
    assert b'<option value="tone">' in alice_client.get(address).content
    body = FORM | {"source": "local", "model_id": "tone"}
    assert alice_client.post(address, body).status_code == 302


def test_an_instance_without_room_says_what_to_do(
    alice_client: Client, acme: Organization, alice: User
) -> None:
    bare = a_wish(acme, alice, name="bare")
    page = alice_client.get(f"/o/acme/instances/{bare.id}/adapters/")
    assert "Turn on “LoRA adapters”".encode() in page.content
    assert b"add-title" not in page.content


def test_a_failed_one_says_why(
    alice_client: Client, address: str, instance: Instance, alice: User
) -> None:
    add(instance, alice)
    Adapter.objects.update(state="failed", message="It was made for another model.")
    assert b"It was made for another model." in alice_client.get(address).content


def test_its_events_name_it(alice_client: Client, instance: Instance, alice: User) -> None:
    add(instance, alice)
    page = alice_client.get(f"/o/acme/instances/{instance.id}/events/")
    assert b"Adapter added" in page.content and b">tone</span>" in page.content


def test_who_may(bob: User, charlie_client: Client, address: str, instance: Instance) -> None:
    adapter = add(instance, bob)
    bob.memberships.update(role=Role.VIEWER)
    viewer = signed_in(bob)
    assert viewer.get(address).status_code == 200
    for part in ("", f"{adapter.id}/remove/"):
        assert viewer.post(address + part, FORM).status_code == 403
        assert charlie_client.post(address + part, FORM).status_code == 404
        theirs = (address + part).replace("acme", "umbrella")
        assert charlie_client.post(theirs, FORM).status_code == 404


def test_the_playground_offers_what_answers(
    alice_client: Client, instance: Instance, alice: User
) -> None:
    Instance.objects.update(state="ready")
    add(instance, alice)
    add(instance, alice, "bad")
    Adapter.objects.filter(name="bad").update(state="failed")
    page = alice_client.get("/o/acme/playground/?model=tone")
    assert page.context["names"] == ["demo", "tone"]
    assert page.context["chosen"] == "tone"


# REST


@pytest.fixture
def bearer(acme: Organization, alice: User) -> dict[str, str]:
    _, key = ApiKey.issue(acme, alice, "ci", kind=ApiKey.Kind.MANAGEMENT)
    return {"Authorization": f"Bearer {key}"}


def post(client: Client, body: object, headers: dict[str, str]) -> Any:
    return client.post(REST, json.dumps(body), content_type="application/json", headers=headers)


def test_over_rest_they_are_added_listed_and_removed(
    client: Client, bearer: dict[str, str], instance: Instance, hub: FakeHub
) -> None:
    repository = hub.add("acme/tone", tiny_adapter())
    wanted = FORM | {"instance": str(instance.id)}
    once = bearer | {"Idempotency-Key": "1"}

    answer, again = post(client, wanted, once), post(client, wanted, once)

    assert answer.status_code == 201, answer.content
    said = answer.json()
    assert again.json() == said
    assert (said["model_revision"], said["rank"]) == (repository.commit, 4)
    assert (said["state"], said["instance"]) == ("requested", str(instance.id))
    listed = client.get(f"{REST}?instance={instance.id}", headers=bearer).json()["results"]
    assert [one["id"] for one in listed] == [said["id"]]
    elsewhere = client.get(f"{REST}?instance={said['id']}", headers=bearer).json()["results"]
    assert elsewhere == []
    assert client.delete(f"{REST}{said['id']}/", headers=bearer).status_code == 204
    assert client.get(f"{REST}{said['id']}/", headers=bearer).status_code == 404


def test_over_rest_what_is_wrong_is_told_by_field(
    client: Client,
    bearer: dict[str, str],
    instance: Instance,
    hub: FakeHub,
    umbrella: Organization,
    charlie: User,
) -> None:
    hub.add("acme/tone", tiny_adapter())
    theirs = a_wish(umbrella, charlie, settings={"enable_lora": True})
    wanted = FORM | {"instance": str(instance.id)}
    for change, pointer in (
        ({"name": "demo"}, "#/name"),
        ({"source": "bundled"}, "#/source"),
        ({"instance": str(theirs.id)}, "#/instance"),
    ):
        answer = post(client, wanted | change, bearer)
        assert answer.status_code == 400
        assert pointer in {error["pointer"] for error in answer.json()["errors"]}
    hub.down = 500  # type: ignore[assignment]
    assert post(client, wanted, bearer).status_code == 503
    assert not Adapter.objects.exists()
