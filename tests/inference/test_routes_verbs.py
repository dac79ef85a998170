"""What routes may be, and that the gateways hear of each change."""

import threading

import pytest
from django.core.exceptions import ValidationError
from django.db import connection

from accounts.models import ApiKey, Organization, User
from inference.models import Instance, Provider, Route
from inference.models.route import MOST_TARGETS, Way
from tests.inference.making import a_provider, an_instance

Fields = dict[str, list[str]]


@pytest.fixture
def demo(acme: Organization) -> Instance:
    return an_instance(acme, "demo")


@pytest.fixture
def away(acme: Organization, alice: User) -> Provider:
    return a_provider(acme, alice)


def targets(route: Route) -> list[tuple[str, int, int]]:
    return [(str(target), target.tier, target.weight) for target in route.targets.all()]


def test_a_route_leads_to_instances_and_providers(
    acme: Organization, alice: User, demo: Instance, away: Provider
) -> None:
    ways = [Way(demo, weight=3), Way(provider=away, provider_model="gpt", tier=1)]
    route = Route.make(acme, alice, name="chat", ways=ways, data_may_leave=True)
    assert targets(route) == [("demo", 0, 3), ("away/gpt", 1, 1)]
    assert route.data_may_leave


def test_tiers_are_counted_from_0_without_gaps(
    acme: Organization, alice: User, demo: Instance
) -> None:
    ways = [Way(demo, tier=7), Way(demo, tier=2), Way(demo, tier=7)]
    route = Route.make(acme, alice, name="chat", ways=ways)
    assert [target.tier for target in route.targets.all()] == [0, 1, 1]


def test_a_route_and_an_instance_never_share_a_name(
    acme: Organization, umbrella: Organization, alice: User, demo: Instance
) -> None:
    with pytest.raises(ValidationError, match="An instance has this name"):
        Route.make(acme, alice, name="demo", ways=[Way(demo)])
    Route.make(acme, alice, name="chat", ways=[Way(demo)])
    with pytest.raises(ValidationError, match="A route with this name"):
        Route.make(acme, alice, name="chat", ways=[Way(demo)])
    facts = {"model_source": "bundled", "model_id": "demo", "model_revision": "1"}
    with pytest.raises(ValidationError, match="A route has this name"):
        Instance.request(acme, alice, name="chat", **facts)
    Instance.request(umbrella, alice, name="chat", **facts)  # elsewhere it is free


def test_a_deleted_instances_name_is_free(acme: Organization, alice: User, demo: Instance) -> None:
    Instance.objects.update(deleted_at="2026-01-01T00:00:00Z")
    other = an_instance(acme, "other")
    assert Route.make(acme, alice, name="demo", ways=[Way(other)]).targets.count() == 1


def test_a_route_without_a_sound_target_is_not_made(
    acme: Organization, umbrella: Organization, alice: User, charlie: User, away: Provider
) -> None:
    theirs, gone = an_instance(umbrella, "theirs"), an_instance(acme, "gone")
    gone.deleted_at = "2026-01-01T00:00:00Z"
    demo = an_instance(acme, "demo")
    wrong: list[list[Way]] = [
        [],
        [Way()],
        [Way(theirs)],
        [Way(gone)],
        [Way(demo, away, "gpt")],
        [Way(provider=a_provider(umbrella, charlie), provider_model="gpt")],
        [Way(provider=away, provider_model=" ")],
        [Way(demo, weight=0)],
        [Way(demo, weight=1001)],
        [Way(demo)] * (MOST_TARGETS + 1),
        [Way(demo), Way(theirs)],
    ]
    for ways in wrong:
        with pytest.raises(ValidationError) as refused:
            Route.make(acme, alice, name="chat", ways=ways)
        assert set(refused.value.message_dict) == {"targets"}
    assert not Route.objects.exists()


@pytest.mark.parametrize("name", ["", "Chat", "-chat", "a b", "x" * 64])
def test_a_routes_name_is_a_models_name(
    acme: Organization, alice: User, demo: Instance, name: str
) -> None:
    with pytest.raises(ValidationError) as refused:
        Route.make(acme, alice, name=name, ways=[Way(demo)])
    assert "name" in refused.value.message_dict


def test_changing_puts_other_targets_in_their_place_or_nothing(
    acme: Organization, alice: User, demo: Instance
) -> None:
    route = Route.make(acme, alice, name="chat", ways=[Way(demo)])
    other = an_instance(acme, "other")
    route.change(ways=[Way(other, weight=2)], data_may_leave=True)
    assert targets(route) == [("other", 0, 2)]
    with pytest.raises(ValidationError):
        route.change(ways=[], data_may_leave=False)
    route.refresh_from_db()
    assert targets(route) == [("other", 0, 2)] and route.data_may_leave


def test_a_key_may_be_kept_to_a_route(acme: Organization, alice: User, demo: Instance) -> None:
    Route.make(acme, alice, name="chat", ways=[Way(demo)])
    key, _ = ApiKey.issue(acme, alice, "k", models_allowed=["chat"])
    assert key.models_allowed == ["chat"]


@pytest.mark.django_db(transaction=True)
def test_of_a_route_and_an_instance_that_want_a_name_at_once_one_gets_it(
    acme: Organization, alice: User
) -> None:
    demo = an_instance(acme, "demo")
    start = threading.Barrier(2)
    refused: list[str] = []

    def attempt(verb: str) -> None:
        start.wait(20)
        try:
            if verb == "route":
                Route.make(acme, alice, name="chat", ways=[Way(demo)])
            else:
                facts = {"model_source": "bundled", "model_id": "demo", "model_revision": "1"}
                Instance.request(acme, alice, name="chat", **facts)
        except ValidationError:
            refused.append(verb)
        finally:
            connection.close()

    threads = [threading.Thread(target=attempt, args=[verb]) for verb in ("route", "instance")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 1
    assert Route.objects.count() + Instance.objects.filter(name="chat").count() == 1
