"""Instances that cost by the hour: held for, warned about, stopped at zero, started again."""

from datetime import timedelta
from uuid import uuid4

import pytest
from django.core import mail
from django.test import Client
from django.utils import timezone

from accounts.models import Organization, User
from billing import holds, wallet
from billing.ledger import Kind
from billing.models import PriceBook
from inference import credit_watch, tasks
from inference.credit_watch import LOW, USED_UP
from inference.models import Instance
from inference.provisioners.fake import FakeProvisioner
from inference.reconciler import Reconciler
from tests.inference.making import a_wish, rounds

HOUR = 3600 * 10**6  # nano-units for an hour of one GPU


@pytest.fixture
def reconciler() -> Reconciler:
    return Reconciler(FakeProvisioner(gpus=4))


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What people are told."""
    said: list[str] = []
    monkeypatch.setattr(tasks, "announce_credit", lambda organization, what: said.append(what))
    return said


def priced(**rates: int) -> None:
    PriceBook.of_house("USD").set_rates(rates or {"gpu_second": HOUR}, gpu_type="Fake GPU")


def paid_in(organization: Organization, nano: int) -> None:
    wallet.pay_in(organization, nano, Kind.TOPUP, str(uuid4()))


@pytest.fixture
def instance(acme: Organization, alice: User, reconciler: Reconciler) -> Instance:
    """On two GPUs."""
    priced()
    paid_in(acme, 20 * HOUR)
    return rounds(reconciler, a_wish(acme, alice, gpu_count=2))


def watch(told: list[str], capture) -> None:
    with capture(execute=True):
        credit_watch.watch(lambda organization, what: told.append(what))


def spend_all_but(organization: Organization, nano: int) -> None:
    left = wallet.funds(organization).wallet - nano
    wallet.charge(organization, left, Kind.GPU, str(uuid4()))


def test_what_runs_has_a_quarter_of_an_hour_held_for_it(
    instance: Instance, told, django_capture_on_commit_callbacks
) -> None:
    watch(told, django_capture_on_commit_callbacks)
    standing = holds.standing(instance.organization)
    assert 2 * HOUR // 4 <= standing.running < 2 * HOUR // 4 + 2 * HOUR // 60
    assert told == []


def test_what_was_not_charged_yet_is_held_too(
    instance: Instance, told, django_capture_on_commit_callbacks
) -> None:
    instance.served.update(started_at=timezone.now() - timedelta(hours=1))
    watch(told, django_capture_on_commit_callbacks)
    assert holds.standing(instance.organization).running >= 2 * HOUR + 2 * HOUR // 4


def test_people_are_told_before_the_last_hour(
    instance: Instance, told, django_capture_on_commit_callbacks
) -> None:
    spend_all_but(instance.organization, HOUR)  # half an hour of two
    for _ in range(2):
        watch(told, django_capture_on_commit_callbacks)
    assert told == [LOW]
    assert instance.events.filter(reason="credit_low").count() == 1


def test_at_zero_it_is_stopped_with_the_reason_on_its_page(
    instance: Instance,
    reconciler: Reconciler,
    alice_client: Client,
    told,
    django_capture_on_commit_callbacks,
) -> None:
    spend_all_but(instance.organization, 0)
    watch(told, django_capture_on_commit_callbacks)
    assert told == [USED_UP]
    instance = rounds(reconciler, instance)
    assert (instance.state, instance.stopped_for_credit) == ("stopped", True)
    page = alice_client.get(instance.get_absolute_url()).content.decode()
    assert "The credit is used up" in page
    assert f"/o/{instance.organization.slug}/billing/" in page
    assert instance.events.filter(reason="credit_used_up").count() == 1


def test_what_is_free_goes_on(
    acme: Organization, alice: User, reconciler, told, django_capture_on_commit_callbacks
) -> None:
    priced()
    free = rounds(reconciler, a_wish(acme, alice))  # on processors
    costly = rounds(reconciler, a_wish(acme, alice, name="costly", gpu_count=1))
    watch(told, django_capture_on_commit_callbacks)
    free.refresh_from_db()
    costly.refresh_from_db()
    assert (free.desired, costly.desired) == ("running", "stopped")


def test_nobody_starts_it_before_there_is_credit(
    instance: Instance, alice: User, told, django_capture_on_commit_callbacks
) -> None:
    spend_all_but(instance.organization, 0)
    watch(told, django_capture_on_commit_callbacks)
    instance.refresh_from_db()
    assert not instance.request_start(alice)
    assert not instance.request_start(alice)
    assert instance.desired == "stopped"
    assert instance.events.filter(reason="start_requested").count() == 0
    paid_in(instance.organization, 20 * HOUR)
    assert instance.request_start(alice)
    assert not instance.stopped_for_credit


def test_one_that_is_asked_for_meanwhile_is_stopped_too(
    instance: Instance, alice: User, told, django_capture_on_commit_callbacks
) -> None:
    spend_all_but(instance.organization, 0)
    watch(told, django_capture_on_commit_callbacks)
    newer = a_wish(instance.organization, alice, name="newer", gpu_count=1)
    watch(told, django_capture_on_commit_callbacks)
    newer.refresh_from_db()
    assert (newer.desired, newer.stopped_for_credit) == ("stopped", True)


@pytest.mark.parametrize(("chosen", "after"), [(False, "stopped"), (True, "running")])
def test_after_a_top_up_it_starts_by_itself_only_where_that_was_chosen(
    instance: Instance, chosen: bool, after: str, told, django_capture_on_commit_callbacks
) -> None:
    acme = instance.organization
    profile = wallet.profile_of(acme)
    profile.restarts_instances = chosen
    profile.save()
    spend_all_but(acme, 0)
    watch(told, django_capture_on_commit_callbacks)
    with django_capture_on_commit_callbacks(execute=True):
        paid_in(acme, 20 * HOUR)
    instance.refresh_from_db()
    assert instance.desired == after
    profile.refresh_from_db()
    assert profile.suspended_at is None


def test_a_top_up_that_does_not_reach_a_while_starts_nothing(
    instance: Instance, told, django_capture_on_commit_callbacks
) -> None:
    acme = instance.organization
    wallet.profile_of(acme)
    type(wallet.profile_of(acme)).objects.update(restarts_instances=True)
    spend_all_but(acme, 0)
    watch(told, django_capture_on_commit_callbacks)
    with django_capture_on_commit_callbacks(execute=True):
        paid_in(acme, HOUR // 10)
    instance.refresh_from_db()
    assert instance.desired == "stopped"


def test_who_can_do_something_is_written_to(acme: Organization, bob: User) -> None:
    assert credit_watch.recipients(acme) == ["alice@acme.example"]
    for what in (LOW, USED_UP):
        credit_watch.mail(acme, what, "alice@acme.example")
    low, used_up = mail.outbox
    assert low.subject == "The credit of Acme lasts for less than an hour"
    assert "insufficient_quota" in low.body
    assert used_up.subject == "The credit of Acme is used up"
    assert f"/o/{acme.slug}/billing/" in used_up.body
