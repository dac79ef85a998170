"""Models over REST."""

from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
from django.test import Client

from accounts.models import Organization, User
from inference import demo
from inference.models import HubCredential
from tests.fakes.hub import FakeHub, tiny_model
from tests.inference.test_catalog import node
from tests.inference.test_hub_folders import put

__all__ = ["node"]


def get(client: Client, path: str, status: int = 200) -> Any:
    response = client.get(f"/api/v1/organizations/acme/models/{path}")
    assert response.status_code == status, response.content
    return response.json()


def test_models_on_hand_are_listed(alice_client: Client, hub: FakeHub, model_folder: Path) -> None:
    put(model_folder / "tiny", tiny_model())
    body = get(alice_client, "")
    assert [(row["source"], row["model_id"]) for row in body["results"]] == [
        ("bundled", demo.MODEL_ID),
        ("local", "tiny"),
    ]
    assert body["results"][1]["parameters"] == 3072
    assert [row["model_id"] for row in get(alice_client, "?q=TINY")["results"]] == ["tiny"]
    assert hub.requests == []


def test_the_hub_is_searched(alice_client: Client, hub: FakeHub) -> None:
    hub.add("umbrella/chat", tiny_model(), gated=True)
    (row,) = get(alice_client, "search/?q=chat")["results"]
    assert (row["model_id"], row["gated"], row["refusal"]) == ("umbrella/chat", True, None)


@pytest.mark.usefixtures("node")
def test_a_model_is_told_in_full_and_pinned(alice_client: Client, hub: FakeHub) -> None:
    tiny = hub.add("umbrella/tiny", tiny_model())
    body = get(alice_client, "hub/umbrella/tiny/")
    assert (body["revision"], body["context_length"]) == (tiny.commit, 2048)
    assert {"path": "README.md", "size_bytes": 34, "fetched": False} in body["files"]
    (fit,) = body["fits"]
    assert (fit["nodes"], fit["verdict"], fit["gpu_count"]) == (["desk"], "fits", 0)
    assert fit["needed_bytes"] < fit["available_bytes"]
    assert fit["sentences"]
    assert body["obstacle"] == ""


def test_what_may_not_run_says_why(alice_client: Client, hub: FakeHub) -> None:
    hub.add("umbrella/pickled", {"config.json": b"{}", "pytorch_model.bin": b"\x80"})
    body = get(alice_client, "hub/umbrella/pickled/")
    assert body["refusal"] == "pickle_only"
    assert "pickles" in body["obstacle"]


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("hub/acme/missing/", "There is no model acme/missing"),
        ("hub/umbrella/tiny/?revision=v9", "has no revision v9"),
        ("local/absent/", "There is no model absent on this machine."),
        ("cloud/a/b/", ""),
        ("hub/", ""),
    ],
)
def test_what_is_not_there_is_a_problem_with_its_sentence(
    alice_client: Client, hub: FakeHub, path: str, words: str
) -> None:
    hub.add("umbrella/tiny", tiny_model())
    problem = get(alice_client, path, status=404)
    assert problem["type"] == "urn:modelport:problem:not-found"
    assert words in problem["detail"]


@pytest.mark.parametrize("path", ["search/?q=x", "hub/umbrella/tiny/"])
def test_a_hub_that_is_away_is_503_and_may_be_asked_again(
    alice_client: Client, hub: FakeHub, path: str
) -> None:
    hub.down = HTTPStatus.BAD_GATEWAY
    problem = get(alice_client, path, status=503)
    assert problem["type"] == "urn:modelport:problem:unavailable"
    assert "cannot be reached" in problem["detail"]


def test_a_wrong_hub_token_is_a_conflict(
    alice_client: Client, acme: Organization, alice: User, hub: FakeHub
) -> None:
    HubCredential.keep(acme, "hf_wrong", by=alice)
    assert "hub token" in get(alice_client, "search/?q=x", status=409)["detail"]


def test_strangers_find_nothing_and_nobody_is_asked_who_they_are(
    client: Client, charlie_client: Client, acme: Organization
) -> None:
    for path in ("", "search/", "bundled/modelport/demo/"):
        get(client, path, status=401)
        get(charlie_client, path, status=404)
