"""Instances over REST: asked for once, seen by their own, changed by those who may."""

import json
from typing import Any

import pytest
from django.test import Client

from accounts.models import ApiKey, Organization, User
from accounts.roles import Role
from billing import usage
from inference import demo
from inference.models import Instance
from tests.billing.records import admit, final

URL = "/api/v1/organizations/acme/instances/"
WANTED = {"name": "demo", "model_source": "bundled", "model_id": demo.MODEL_ID}


@pytest.fixture
def bearer(acme: Organization, alice: User) -> dict[str, str]:
    _, key = ApiKey.issue(acme, alice, "ci", kind=ApiKey.Kind.MANAGEMENT)
    return {"Authorization": f"Bearer {key}"}


def post(client: Client, url: str, body: object, **headers: str) -> Any:
    return client.post(url, json.dumps(body), content_type="application/json", headers=headers)


def test_an_instance_is_requested_with_the_revision_of_now(
    client: Client, bearer: dict[str, str]
) -> None:
    answer = post(client, URL, WANTED, **bearer)
    assert answer.status_code == 201, answer.content
    body = answer.json()
    assert body["model_revision"] == demo.model_revision()
    assert (body["desired"], body["state"]) == ("running", "requested")


def test_the_same_idempotency_key_makes_one_instance(
    client: Client, bearer: dict[str, str]
) -> None:
    headers = bearer | {"Idempotency-Key": "one"}
    first, again = (post(client, URL, WANTED, **headers) for _ in range(2))
    assert first.json()["id"] == again.json()["id"]
    assert Instance.objects.count() == 1
    assert post(client, URL, WANTED | {"name": "other"}, **headers).status_code == 422


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"name": "Not A Name"}, "#/name"),
        ({"settings": {"max_model_len": 1}}, "#/settings"),
        ({"settings": {"trust_remote_code": True}}, "#/settings"),
        ({"engine": "nonsense"}, "#/engine"),
    ],
)
def test_wrong_input_is_told_by_field(
    client: Client, bearer: dict[str, str], change: dict[str, object], pointer: str
) -> None:
    answer = post(client, URL, WANTED | change, **bearer)
    assert answer.status_code == 400
    assert pointer in {error["pointer"] for error in answer.json()["errors"]}
    assert not Instance.objects.exists()


def test_a_name_is_taken_once(client: Client, bearer: dict[str, str]) -> None:
    post(client, URL, WANTED, **bearer)
    assert post(client, URL, WANTED, **bearer).status_code == 400


def test_an_unknown_model_is_not_found(client: Client, bearer: dict[str, str]) -> None:
    answer = post(client, URL, WANTED | {"model_id": "no/such"}, **bearer)
    assert answer.status_code == 400
    assert "There is no model no/such on this machine." in answer.content.decode()


def test_verbs_say_what_is_wanted(client: Client, bearer: dict[str, str]) -> None:
    url = f"{URL}{post(client, URL, WANTED, **bearer).json()['id']}/"
    assert post(client, f"{url}stop/", {}, **bearer).json()["desired"] == "stopped"
    assert post(client, f"{url}start/", {}, **bearer).json()["desired"] == "running"
    assert client.delete(url, headers=bearer).status_code == 204
    assert client.get(f"{url}events/", headers=bearer).json()["results"][0]["reason"] == (
        "delete_requested"
    )


def test_who_may_do_what(
    client: Client, bearer: dict[str, str], bob: User, charlie_client: Client, acme: Organization
) -> None:
    post(client, URL, WANTED, **bearer)
    bob.memberships.update(role=Role.VIEWER)
    viewer = Client()
    viewer.force_login(bob)
    assert viewer.get(URL).status_code == 200
    assert viewer.post(URL, WANTED, content_type="application/json").status_code == 403
    assert charlie_client.get(URL).status_code == 404
    assert Client().get(URL).status_code == 401


def test_usage_adds_up(client: Client, bearer: dict[str, str], acme: Organization) -> None:
    requests = [admit(acme, model=model) for model in ("alpha", "alpha", "beta")]
    usage.ingest([(request, final(request, prompt=10)) for request in requests])
    url = "/api/v1/organizations/acme/usage/"
    page = client.get(f"{url}?limit=2", headers=bearer).json()
    assert len(page["results"]) == 2
    assert len(client.get(page["next"], headers=bearer).json()["results"]) == 1
    summary = client.get(f"{url}summary/", headers=bearer).json()
    assert summary["totals"]["prompt_tokens"] == 30
    assert [model["model"] for model in summary["models"]] == ["alpha", "beta"]
    alpha = client.get(f"{url}summary/?model=alpha", headers=bearer).json()
    assert alpha["totals"]["requests"] == 2
    assert client.get(f"{url}?first=nonsense", headers=bearer).status_code == 400


def test_replicas_and_sleep_are_changed_in_place(client: Client, bearer: dict[str, str]) -> None:
    url = f"{URL}{post(client, URL, WANTED, **bearer).json()['id']}/"
    change = {"replica_count": 2, "sleep_after_minutes": 15}
    answer = client.patch(url, change, "application/json", headers=bearer).json()
    assert (answer["replica_count"], answer["sleep_after_minutes"]) == (2, 15)
    assert (answer["generation"], answer["queue_seconds"]) == (1, 30)
    answer = client.patch(url, {"sleep_after_minutes": None}, "application/json", headers=bearer)
    assert answer.json()["sleep_after_minutes"] is None
    wrong = client.patch(url, {"replica_count": 99}, "application/json", headers=bearer)
    assert wrong.status_code == 400
    assert post(client, f"{url}sleep/", {}, **bearer).json()["desired"] == "asleep"
    assert post(client, f"{url}wake/", {}, **bearer).json()["desired"] == "running"


def test_a_change_is_a_revision_that_one_can_go_back_from(
    client: Client, bearer: dict[str, str]
) -> None:
    url = f"{URL}{post(client, URL, WANTED, **bearer).json()['id']}/"
    made = post(client, f"{url}revisions/", {"settings": {"max_model_len": 512}}, **bearer)
    assert made.status_code == 201
    assert (made.json()["number"], made.json()["settings"]) == (2, {"max_model_len": 512})
    same = post(client, f"{url}revisions/", {"settings": {"max_model_len": 512}}, **bearer)
    assert same.status_code == 400
    wrong = post(client, f"{url}revisions/", {"settings": {"max_model_len": 1}}, **bearer)
    assert {error["pointer"] for error in wrong.json()["errors"]} == {"#/settings"}
    back = post(client, f"{url}restore/", {"number": 1}, **bearer).json()
    assert (back["number"], back["restores"], back["settings"]) == (3, 1, {})
    assert post(client, f"{url}restore/", {"number": 9}, **bearer).status_code == 400
    listed = client.get(f"{url}revisions/", headers=bearer).json()["results"]
    assert [revision["number"] for revision in listed] == [3, 2, 1]
