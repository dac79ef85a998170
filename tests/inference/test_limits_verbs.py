"""Limits in the database: one per subject and meter, and the gateways hear of each."""

from collections.abc import Callable
from urllib.parse import urlsplit

import psycopg
import pytest
from django.conf import settings
from django.core.exceptions import PermissionDenied, ValidationError
from django.db import IntegrityError, connection, transaction

from accounts.models import ApiKey, Organization, User
from accounts.roles import Role
from inference.gateway.tables import Meter, Window
from inference.models import Instance, Limit, Route
from inference.models.route import Way
from tests.inference.making import a_provider, an_instance

RPM = (Meter.REQUESTS, Window.MINUTE)
SLOTS = (Meter.CONCURRENT, Window.NOW)


def test_what_is_not_named_stays(acme: Organization, alice: User) -> None:
    me = alice.memberships.get()
    Limit.set_for(acme, {RPM: 60, SLOTS: 4}, by=me)
    kept = Limit.objects.get(meter=Meter.REQUESTS).id
    Limit.set_for(acme, {RPM: 70}, by=me)
    assert Limit.amounts_of(acme) == {RPM: 70, SLOTS: 4}
    assert Limit.objects.get(meter=Meter.REQUESTS).id == kept  # what was used of it still counts
    Limit.set_for(acme, {RPM: None, SLOTS: None}, by=me)
    assert Limit.amounts_of(acme) == {}


@pytest.mark.parametrize(
    ("kind", "amount"),
    [(RPM, -1), (RPM, 10**16), ((Meter.SPEND, Window.DAY), 1), ((Meter.TOKENS, Window.NOW), 1)],
)
def test_nonsense_changes_nothing(
    acme: Organization, alice: User, kind: tuple[Meter, Window], amount: int
) -> None:
    with pytest.raises(ValidationError):
        Limit.set_for(acme, {SLOTS: 4, kind: amount}, by=alice.memberships.get())
    assert not Limit.objects.exists()


def test_who_may_set_what(
    acme: Organization, umbrella: Organization, alice: User, bob: User, charlie: User
) -> None:
    key, _ = ApiKey.issue(acme, bob, "his")
    instance, his = an_instance(acme, "demo"), bob.memberships.get()
    for subject in (acme, his, key):
        with pytest.raises(PermissionDenied):
            Limit.set_for(subject, {RPM: 1}, by=his)
    Limit.set_for(instance, {RPM: 1}, by=his)
    his.role = Role.VIEWER
    for subject in (acme, his, key, instance):
        Limit.set_for(subject, {RPM: 2}, by=alice.memberships.get())
        for stranger in (his, charlie.memberships.get()):
            with pytest.raises(PermissionDenied):
                Limit.set_for(subject, {RPM: 3}, by=stranger)
    assert set(Limit.objects.values_list("amount", flat=True)) == {2}


def test_the_database_itself_keeps_subject_and_scope_together(
    acme: Organization, alice: User
) -> None:
    key, _ = ApiKey.issue(acme, alice, "k")
    facts = {"organization": acme, "meter": "requests", "window": "minute", "amount": 1}
    Limit.objects.create(scope="key", api_key=key, **facts)
    for wrong in ({"scope": "key"}, {"scope": "organization", "api_key": key}, {"scope": "what"}):
        with pytest.raises(IntegrityError, match="subject_of_its_scope"), transaction.atomic():
            Limit.objects.create(**facts, **wrong)
    with pytest.raises(IntegrityError, match="one_limit_per"), transaction.atomic():
        Limit.objects.create(scope="key", api_key=key, **facts)


@pytest.mark.parametrize(
    ("table", "change"),
    [
        ("inference_limit", lambda: Limit.objects.update(amount=2)),
        ("inference_limit", lambda: Limit.objects.all().delete()),
        ("inference_route", lambda: Route.objects.get().change(data_may_leave=True)),
        ("inference_routetarget", lambda: Route.objects.get().targets.all().delete()),
        ("inference_provider", lambda: a_provider(Organization.objects.get(), User.objects.get())),
        ("inference_instance", lambda: Instance.objects.get().set_queue(5, 5)),
        ("accounts_apikey", lambda: ApiKey.objects.get().allow_origins(["*"])),
    ],
)
@pytest.mark.django_db(transaction=True)
def test_the_gateways_hear_of_each_change(
    acme: Organization, alice: User, table: str, change: Callable[[], object]
) -> None:
    Limit.set_for(acme, {RPM: 1}, by=alice.memberships.get())
    Route.make(acme, alice, name="chat", ways=[Way(an_instance(acme, "demo"))])
    ApiKey.issue(acme, alice, "k")
    path = f"/{connection.settings_dict['NAME']}"
    database = urlsplit(settings.ENV.database)._replace(path=path).geturl()
    with psycopg.connect(database, autocommit=True) as listener:
        listener.execute("LISTEN modelport_gateway")
        change()
        heard = [notice.payload for notice in listener.notifies(timeout=10, stop_after=1)]
    assert [payload.split(":")[0] for payload in heard] == [table]
