"""The pages of limits: one form for organization, member, key and instance."""

from decimal import Decimal

import pytest
from django.test import Client

from accounts.models import ApiKey, Organization, User
from accounts.roles import Role
from inference.gateway.tables import Meter, Window
from inference.models import Instance, Limit
from inference.views.limits import plain
from tests.cast import signed_in
from tests.inference.making import an_instance

RPM = (Meter.REQUESTS, Window.MINUTE)
TPD = (Meter.TOKENS, Window.DAY)
SPEND = (Meter.SPEND, Window.MONTH)
FORM = {"requests_minute": "60", "tokens_day": "100000", "spend_month": "12.5"}


@pytest.fixture
def instance(acme: Organization) -> Instance:
    return an_instance(acme, "demo")


@pytest.fixture
def places(acme: Organization, alice: User, bob: User, instance: Instance) -> dict[str, str]:
    key, _ = ApiKey.issue(acme, bob, "his")
    return {
        "organization": "/o/acme/settings/limits/",
        "member": f"/o/acme/members/{bob.memberships.get().id}/limits/",
        "key": f"/o/acme/keys/{key.id}/limits/",
        "instance": f"/o/acme/instances/{instance.id}/limits/",
    }


@pytest.mark.parametrize("scope", list(Limit.Scope))
def test_limits_are_set_changed_and_taken_away(
    alice_client: Client, places: dict[str, str], scope: str
) -> None:
    assert alice_client.post(places[scope], FORM).url == places[scope]
    assert {limit.scope for limit in Limit.objects.all()} == {scope}
    assert {(m, w): a for m, w, a in Limit.objects.values_list("meter", "window", "amount")} == {
        RPM: 60,
        TPD: 100_000,
        SPEND: 12_500_000_000,
    }
    form = alice_client.get(places[scope]).context["form"]
    assert form["requests_minute"].value() == 60
    assert form["spend_month"].value() == Decimal("12.5")
    alice_client.post(places[scope], {"requests_minute": "0"})
    assert [limit.amount for limit in Limit.objects.all()] == [0]


@pytest.mark.parametrize(
    ("field", "value"),
    [("requests_minute", "-1"), ("tokens_day", "1.5"), ("spend_month", "much")]
    + [("concurrent_now", "9" * 30), ("spend_month", "0.0000000001")],
)
def test_nonsense_is_refused_in_place(
    alice_client: Client, places: dict[str, str], field: str, value: str
) -> None:
    page = alice_client.post(places["key"], {field: value})
    assert page.status_code == 422
    assert page.context["form"].errors[field]
    assert not Limit.objects.exists()


def test_a_key_shows_all_that_holds_for_it(
    alice_client: Client, acme: Organization, alice: User, bob: User, places: dict[str, str]
) -> None:
    me = alice.memberships.get()
    Limit.set_for(acme, {RPM: 1_000}, by=me)
    Limit.set_for(bob.memberships.get(), {RPM: 50}, by=me)
    Limit.set_for(ApiKey.objects.get(name="his"), {RPM: 70}, by=me)
    page = alice_client.get(places["key"])
    row = page.context["rows"][0]
    assert [cell["text"] for cell in row["cells"]] == ["70", "50", "1,000"]
    assert [cell["first"] for cell in row["cells"]] == [False, True, False]


def test_a_member_sees_their_own_and_sets_none(
    bob_client: Client, alice: User, places: dict[str, str]
) -> None:
    for scope in ("organization", "member", "key"):
        page = bob_client.get(places[scope])
        assert page.status_code == 200
        assert b"Save the limits" not in page.content
        assert bob_client.post(places[scope], FORM).status_code == 403
    hers = f"/o/acme/members/{alice.memberships.get().id}/limits/"
    assert bob_client.get(hers).status_code == 403
    assert bob_client.post(places["instance"], FORM).status_code == 302
    assert {limit.scope for limit in Limit.objects.all()} == {"instance"}


@pytest.mark.parametrize("scope", list(Limit.Scope))
def test_strangers_see_nothing(
    charlie_client: Client, client: Client, places: dict[str, str], scope: str
) -> None:
    address = places[scope]
    for method in ("get", "post"):
        assert getattr(charlie_client, method)(address).status_code == 404
        if scope != "organization":
            in_theirs = address.replace("/acme/", "/umbrella/")
            assert getattr(charlie_client, method)(in_theirs).status_code == 404
        assert getattr(client, method)(address).url.startswith("/account/login/")


def test_the_line_of_an_instance_is_set(
    alice_client: Client, bob: User, instance: Instance, places: dict[str, str]
) -> None:
    alice_client.post(places["instance"], {"queue_size": "20", "queue_seconds": "45"})
    instance.refresh_from_db()
    assert (instance.queue_size, instance.queue_seconds) == (20, 45)
    page = alice_client.post(places["instance"], {"queue_size": "20", "queue_seconds": "0"})
    assert page.status_code == 422 and page.context["queue"].errors["queue_seconds"]
    bob.memberships.update(role=Role.VIEWER)
    asked = signed_in(bob).post(places["instance"], {"queue_size": "1", "queue_seconds": "1"})
    assert asked.status_code == 403
    instance.refresh_from_db()
    assert instance.queue_size == 20


def test_a_deleted_instance_has_no_such_page(
    alice_client: Client, instance: Instance, places: dict[str, str]
) -> None:
    Instance.objects.update(deleted_at="2026-01-01T00:00:00Z")
    assert alice_client.get(places["instance"]).status_code == 404


@pytest.mark.parametrize(
    ("amount", "shown"),
    [("12", "12"), ("12.5", "12.50"), ("1200", "1200"), ("0.0001", "0.0001"), ("0", "0")],
)
def test_money_is_written_as_people_do(amount: str, shown: str) -> None:
    assert str(plain(Decimal(amount))) == shown
