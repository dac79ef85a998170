"""Routes and providers over REST."""

from typing import Any

import pytest

from accounts.models import Organization, User
from inference.models import Instance, Provider, Route
from tests.api.conftest import Api
from tests.inference.making import a_provider, an_instance

OWN = "organizations/acme/"
PROVIDER = {"name": "openai", "base_url": "https://api.openai.example/v1", "secret": "sk-canary"}


@pytest.fixture
def demo(acme: Organization) -> Instance:
    return an_instance(acme, "demo")


def test_a_route_is_made_changed_and_deleted(alice_api: Api, demo: Instance) -> None:
    _, provider = alice_api("post", OWN + "providers/", PROVIDER)
    targets: list[dict[str, Any]] = [
        {"instance": str(demo.id), "weight": 3},
        {"provider": provider["id"], "provider_model": "gpt", "tier": 5},
    ]
    wanted = {"name": "chat", "targets": targets, "data_may_leave": True}
    status, made = alice_api("post", OWN + "routes/", wanted, Idempotency_Key="one")
    assert status == 201
    assert made["targets"] == [
        {
            "instance": str(demo.id),
            "provider": None,
            "provider_model": "",
            "tier": 0,
            "weight": 3,
        },
        {
            "instance": None,
            "provider": provider["id"],
            "provider_model": "gpt",
            "tier": 1,
            "weight": 1,
        },
    ]
    assert alice_api("post", OWN + "routes/", wanted, Idempotency_Key="one")[1] == made
    address = OWN + f"routes/{made['id']}/"
    _, changed = alice_api("patch", address, {"data_may_leave": False})
    assert not changed["data_may_leave"] and changed["targets"] == made["targets"]
    _, changed = alice_api("patch", address, {"targets": targets[:1]})
    assert len(changed["targets"]) == 1 and not changed["data_may_leave"]
    assert alice_api("delete", address)[0] == 204
    assert not Route.objects.exists()


def test_wrong_targets_are_refused(
    alice_api: Api, umbrella: Organization, charlie: User, demo: Instance
) -> None:
    theirs = str(an_instance(umbrella, "theirs").id)
    outside = str(a_provider(umbrella, charlie).id)
    wrong: list[Any] = [
        [],
        [{}],
        [{"instance": theirs}],
        [{"provider": outside, "provider_model": "gpt"}],
        [{"instance": str(demo.id), "weight": 0}],
        [{"instance": str(demo.id), "tier": -1}],
        [{"instance": "demo"}],
        "demo",
        [{"instance": str(demo.id)}] * 17,
    ]
    for targets in wrong:
        body = {"name": "chat", "targets": targets}
        status, problem = alice_api("post", OWN + "routes/", body)
        assert status == 400, targets
        assert all(error["pointer"].startswith("#/targets") for error in problem["errors"])
    body = {"name": "demo", "targets": [{"instance": str(demo.id)}]}
    _, problem = alice_api("post", OWN + "routes/", body)
    assert [error["pointer"] for error in problem["errors"]] == ["#/name"]
    assert not Route.objects.exists()


def test_a_providers_secret_is_never_told(alice_api: Api) -> None:
    answers = [alice_api.raw("post", OWN + "providers/", PROVIDER, Idempotency_Key="one")]
    address = OWN + f"providers/{answers[0].json()['id']}/"
    answers += [
        alice_api.raw("get", address),
        alice_api.raw("get", OWN + "providers/"),
        alice_api.raw("post", address + "rotate/", {"secret": "sk-canary-2"}),
        alice_api.raw("post", address + "rotate/", {"secret": "sk-canary\n"}),
        alice_api.raw("post", OWN + "providers/", PROVIDER),
    ]
    assert [answer.status_code for answer in answers] == [201, 200, 200, 200, 200, 400]
    assert all(b"canary" not in answer.content for answer in answers)
    assert answers[0].json()["set_by"] == "alice@acme.example"


def test_a_provider_in_use_is_a_conflict(alice_api: Api) -> None:
    _, provider = alice_api("post", OWN + "providers/", PROVIDER)
    targets = [{"provider": provider["id"], "provider_model": "gpt"}]
    alice_api("post", OWN + "routes/", {"name": "chat", "targets": targets})
    status, problem = alice_api("delete", OWN + f"providers/{provider['id']}/")
    assert (status, problem["type"]) == (409, "urn:modelport:problem:conflict")
    assert Provider.objects.exists()


def test_lists_cost_the_same_number_of_queries_at_any_length(
    alice_api: Api, acme: Organization, alice: User, django_assert_max_num_queries: Any
) -> None:
    for number in range(10):
        provider = a_provider(acme, alice, f"p{number}")
        targets = [{"provider": str(provider.id), "provider_model": "gpt"}]
        alice_api("post", OWN + "routes/", {"name": f"r{number}", "targets": targets})
    for resource in ("routes", "providers"):
        with django_assert_max_num_queries(7):
            assert len(alice_api("get", OWN + f"{resource}/")[1]["results"]) == 10
