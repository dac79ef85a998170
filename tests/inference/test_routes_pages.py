"""Pages of routes and providers: made, changed and removed without JavaScript."""

from typing import Any

import pytest
from django.test import Client

from accounts.models import Organization, User
from inference.models import Instance, Provider, Route
from inference.models.route import MOST_TARGETS, Way
from tests.inference.making import a_provider, an_instance

ROUTES, NEW = "/o/acme/routes/", "/o/acme/routes/new/"
PROVIDERS = "/o/acme/providers/"


@pytest.fixture
def demo(acme: Organization) -> Instance:
    return an_instance(acme, "demo")


@pytest.fixture
def away(acme: Organization, alice: User) -> Provider:
    return a_provider(acme, alice)


def sent(*rows: dict[str, object], name: str = "chat", **more: str) -> dict[str, Any]:
    """What a browser sends for these rows."""
    body = {"name": name, "form-TOTAL_FORMS": str(len(rows)), "form-INITIAL_FORMS": "0", **more}
    for number, row in enumerate(rows):
        filled = {"tier": 0, "place": "", "provider_model": "", "weight": 1} | row
        body |= {f"form-{number}-{field}": str(value) for field, value in filled.items()}
    return body


def ways(route: Route) -> list[tuple[str, int, int]]:
    return [(str(target), target.tier, target.weight) for target in route.targets.all()]


def test_a_route_is_made_of_the_rows_that_lead_somewhere(
    bob_client: Client, demo: Instance, away: Provider
) -> None:
    rows: list[dict[str, object]] = [
        {},
        {"place": f"p-{away.id}", "provider_model": "gpt", "tier": 4},
        {"place": f"i-{demo.id}", "weight": 3},
    ]
    assert bob_client.post(NEW, sent(*rows, data_may_leave="on")).url == ROUTES
    route = Route.objects.get()
    assert ways(route) == [("demo", 0, 3), ("away/gpt", 1, 1)]
    assert route.data_may_leave
    assert "away" in bob_client.get(ROUTES).content.decode()


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({}, "A route needs a target."),
        ({"place": "p", "provider_model": ""}, "Name the model as the provider knows it."),
        ({"place": "i", "weight": 0}, "greater than or equal to 1"),
        ({"place": "i", "weight": ""}, "required"),
        ({"place": "elsewhere"}, "Select a valid choice"),
        ({"place": "i", "tier": 99}, "Select a valid choice"),
    ],
)
def test_wrong_rows_are_refused_in_place(
    bob_client: Client, demo: Instance, away: Provider, row: dict[str, object], words: str
) -> None:
    places = {"i": f"i-{demo.id}", "p": f"p-{away.id}"}
    place = str(row.get("place", ""))
    page = bob_client.post(NEW, sent(row | {"place": places.get(place, place)}))
    assert page.status_code == 422
    assert words in page.content.decode()
    assert not Route.objects.exists()


def test_another_organizations_places_are_no_choice(
    bob_client: Client, umbrella: Organization, charlie: User, demo: Instance
) -> None:
    for place in (
        f"i-{an_instance(umbrella, 'theirs').id}",
        f"p-{a_provider(umbrella, charlie).id}",
    ):
        page = bob_client.post(NEW, sent({"place": place, "provider_model": "gpt"}))
        assert page.status_code == 422
    assert not Route.objects.exists()


def test_an_instances_name_is_refused_beside_the_name(bob_client: Client, demo: Instance) -> None:
    page = bob_client.post(NEW, sent({"place": f"i-{demo.id}"}, name="demo"))
    assert page.status_code == 422
    assert page.context["form"].errors["name"] == ["An instance has this name already."]


def test_asking_for_more_rows_keeps_what_is_typed(bob_client: Client, demo: Instance) -> None:
    typed = sent({"place": f"i-{demo.id}", "weight": "many"}, name="Not yet", more="1")
    page = bob_client.post(NEW, typed | {"data_may_leave": "on"})
    assert page.status_code == 200
    rows = page.context["rows"].forms
    assert len(rows) == 3
    assert [rows[0][field].value() for field in ("place", "weight")] == [f"i-{demo.id}", "many"]
    assert page.context["form"]["name"].value() == "Not yet"
    assert page.context["form"]["data_may_leave"].value() == "on"
    full = bob_client.post(NEW, sent(*[{}] * MOST_TARGETS, more="1"))
    assert len(full.context["rows"].forms) == MOST_TARGETS
    assert b"More rows" not in full.content


@pytest.mark.parametrize("count", ["17", "1000000", "-1", "", "many"])
def test_an_invented_number_of_rows_does_no_harm(
    bob_client: Client, demo: Instance, count: str
) -> None:
    body = sent({"place": f"i-{demo.id}"}) | {"form-TOTAL_FORMS": count}
    assert bob_client.post(NEW, body).status_code == 422
    assert not Route.objects.exists()


def test_a_route_is_led_elsewhere(
    bob_client: Client, acme: Organization, bob: User, demo: Instance, away: Provider
) -> None:
    targets = [Way(demo, weight=3), Way(provider=away, provider_model="gpt", tier=1)]
    route = Route.make(acme, bob, name="chat", ways=targets)
    rows = bob_client.get(f"{ROUTES}{route.id}/").context["rows"].forms
    assert [rows[0][f].value() for f in ("tier", "place", "weight")] == [0, f"i-{demo.id}", 3]
    assert rows[1]["provider_model"].value() == "gpt"
    assert len(rows) == 4  # and two to fill in
    body = sent({"place": ""}, {"place": f"p-{away.id}", "provider_model": "gpt-2", "tier": 1})
    body["form-INITIAL_FORMS"] = "2"
    assert bob_client.post(f"{ROUTES}{route.id}/", body).url == ROUTES
    assert ways(route) == [("away/gpt-2", 0, 1)]
    assert Route.objects.get().name == "chat"


def test_a_deleted_instance_is_left_out(
    bob_client: Client, acme: Organization, bob: User, demo: Instance
) -> None:
    route = Route.make(acme, bob, name="chat", ways=[Way(demo)])
    Instance.objects.update(deleted_at="2026-01-01T00:00:00Z")
    assert "Leads nowhere" in bob_client.get(ROUTES).content.decode()
    assert len(bob_client.get(f"{ROUTES}{route.id}/").context["rows"].forms) == 2


def test_deleting_a_route_is_asked_first(
    bob_client: Client, acme: Organization, bob: User, demo: Instance
) -> None:
    address = f"{ROUTES}{Route.make(acme, bob, name='chat', ways=[Way(demo)]).id}/delete/"
    assert "Delete chat?" in bob_client.get(address).content.decode()
    assert Route.objects.exists()
    assert bob_client.post(address).url == ROUTES
    assert not Route.objects.exists()


def test_a_provider_is_added_and_its_key_never_shown(alice_client: Client) -> None:
    facts = {"name": "openai", "base_url": "https://api.example/v1", "secret": "sk-canary"}
    page = alice_client.post(f"{PROVIDERS}new/", facts | {"base_url": "http://api.example"})
    assert page.status_code == 422 and page.context["form"].errors["base_url"]
    assert b"canary" not in page.content
    assert alice_client.post(f"{PROVIDERS}new/", facts).url == PROVIDERS
    provider = Provider.objects.get()
    for address in ("", f"{provider.id}/secret/", f"{provider.id}/remove/"):
        page = alice_client.get(PROVIDERS + address)
        assert page.status_code == 200 and b"canary" not in page.content
    before = bytes(provider.encrypted)
    assert (
        alice_client.post(f"{PROVIDERS}{provider.id}/secret/", {"secret": "é"}).status_code == 422
    )
    assert alice_client.post(f"{PROVIDERS}{provider.id}/secret/", {"secret": "2"}).url == PROVIDERS
    provider.refresh_from_db()
    assert bytes(provider.encrypted) != before


def test_a_provider_that_a_route_needs_is_not_removed(
    alice_client: Client, acme: Organization, alice: User, away: Provider
) -> None:
    way = Way(provider=away, provider_model="gpt")
    route = Route.make(acme, alice, name="chat", ways=[way])
    page = alice_client.post(f"{PROVIDERS}{away.id}/remove/", follow=True)
    assert "Routes lead to this provider: chat." in page.content.decode()
    route.delete()
    alice_client.post(f"{PROVIDERS}{away.id}/remove/")
    assert not Provider.objects.exists()
