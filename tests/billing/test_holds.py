"""What is held for gateways and running instances is nobody else's."""

import threading
from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from django.db import connection, transaction
from django.utils import timezone

from accounts.models import Organization
from billing import holds, usage, wallet
from billing.holds import Taken
from billing.ledger import Kind
from billing.models import BillingProfile, CreditLease
from billing.signals import organization_resumed, organization_suspended
from tests.billing.records import admit, final

MACHINE = uuid4()
HOUR = 3600


def paid_in(organization: Organization, nano: int) -> None:
    wallet.pay_in(organization, nano, Kind.TOPUP, str(uuid4()))


def take(organization: Organization, want: int, writer: str = "a", **given: int) -> Taken:
    given = {"held": 0, "least": want} | given
    return holds.take(organization, writer, machine=MACHINE, want=want, **given)


def test_what_one_gateway_holds_is_not_there_for_another(acme: Organization) -> None:
    paid_in(acme, 100)
    assert take(acme, 60) == Taken(60, 40)
    assert take(acme, 60, "b") == Taken(40, 0)
    assert take(acme, 1, "c") == Taken(0, 0)
    assert wallet.funds(acme).available == 100  # it is held, and still there


def test_beyond_what_is_needed_at_once_a_gateway_gets_its_share(acme: Organization) -> None:
    paid_in(acme, 100)
    assert take(acme, 80, least=10) == Taken(25, 75)
    assert take(acme, 80, "b", least=40) == Taken(40, 35)


def test_who_has_paid_nothing_in_gets_nothing(acme: Organization) -> None:
    assert take(acme, 1) == Taken(0, 0)


def test_who_pays_later_has_a_line(acme: Organization) -> None:
    BillingProfile.objects.create(
        organization=acme, currency="USD", postpaid=True, credit_line_nano=50
    )
    assert take(acme, 60) == Taken(50, 0)
    wallet.charge(acme, 30, Kind.USAGE, "used")
    holds.close({"a"})
    assert holds.available(acme) == 20


def test_a_line_is_of_those_who_pay_later(acme: Organization) -> None:
    BillingProfile.objects.create(organization=acme, currency="USD", credit_line_nano=50)
    assert take(acme, 60) == Taken(0, 0)


def test_what_was_granted_and_never_arrived_is_void(acme: Organization) -> None:
    paid_in(acme, 100)
    take(acme, 60)
    assert take(acme, 100, held=0) == Taken(100, 0)
    assert CreditLease.objects.get().granted == 100


def test_what_is_handed_back_is_there_for_others(acme: Organization) -> None:
    paid_in(acme, 100)
    take(acme, 100)
    holds.give_back(acme, "a", held=30)
    assert holds.available(acme) == 70
    holds.give_back(acme, "a", held=60)  # heard too late
    assert holds.available(acme) == 70


def test_settling_moves_what_was_held_into_what_is_gone(acme: Organization) -> None:
    paid_in(acme, 100)
    take(acme, 60)
    with transaction.atomic():
        wallet.charge(acme, 25, Kind.USAGE, "used")
        holds.settle("a", {acme.id: 25})
    assert holds.standing(acme) == holds.Standing(75, 0, 35, 0, 0)
    assert holds.available(acme) == 40
    assert holds.close({"a"}) == 1
    assert holds.available(acme) == 75


def test_a_gateway_whose_journal_has_ended_gets_no_more(acme: Organization) -> None:
    paid_in(acme, 100)
    take(acme, 10)
    holds.close({"a"})
    assert take(acme, 10, held=10) == Taken(0, 100)


def test_usage_counts_against_the_lease_once(acme: Organization) -> None:
    paid_in(acme, 100)
    take(acme, 60)
    request = admit(acme)
    end = final(request)
    end.spent = 7
    for _ in range(2):
        usage.ingest([(request, end)], "a")
    assert CreditLease.objects.get().spent == 7


def test_credit_that_has_expired_is_there_for_what_was_let_in_before(acme, alice) -> None:
    paid_in(acme, 10)
    soon = timezone.now() + timedelta(hours=1)
    gift = wallet.grant(acme, 50, alice, reason="trial", key="a", expires_at=soon)
    assert take(acme, 40) == Taken(40, 20)
    type(gift).objects.update(expires_at=timezone.now() - timedelta(hours=1))
    assert holds.available(acme) == 10
    assert take(acme, 30, "b") == Taken(10, 0)
    assert wallet.expire_grants() == 0  # 50 are held
    assert wallet.funds(acme).available == 60
    with transaction.atomic():
        wallet.charge(acme, 35, Kind.USAGE, "used")
        holds.settle("a", {acme.id: 35})
    holds.close({"a"})
    assert wallet.expire_grants() == 0
    assert wallet.funds(acme).available == 20  # what b holds may be paid by either
    holds.close({"b"})
    assert wallet.expire_grants() == 1
    assert wallet.funds(acme) == wallet.Funds("USD", 10, 0, 0)


@pytest.mark.django_db(transaction=True)
def test_never_more_is_granted_than_there_is(acme: Organization) -> None:
    paid_in(acme, 1000)
    granted: list[int] = []

    def gateway(writer: str) -> None:
        held = 0
        try:
            for _ in range(10):
                taken = take(acme, 30, writer, held=held)
                held += taken.nano
            granted.append(held)
        finally:
            connection.close()

    threads = [threading.Thread(target=gateway, args=(str(n),)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(granted) == 1000
    assert holds.available(acme) == 0


# running instances


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch):
    """What was told of whom; nobody is written to."""
    monkeypatch.setattr("inference.tasks.announce_credit", lambda organization, what: None)
    told: list[tuple[str, UUID]] = []

    def suspended(organization: Organization, **given: object) -> None:
        told.append(("suspended", organization.id))

    def resumed(organization: Organization, **given: object) -> None:
        told.append(("resumed", organization.id))

    organization_suspended.connect(suspended)
    organization_resumed.connect(resumed)
    yield told
    organization_suspended.disconnect(suspended)
    organization_resumed.disconnect(resumed)


def test_a_quarter_of_an_hour_of_running_instances_is_held(acme: Organization) -> None:
    paid_in(acme, 10 * HOUR)
    outlook = holds.keep_running(acme, HOUR)
    assert outlook == holds.Outlook(timedelta(hours=10), warn=False, suspended=False)
    assert holds.available(acme) == 10 * HOUR - 900
    holds.keep_running(acme, 0)
    assert holds.available(acme) == 10 * HOUR


def test_people_are_warned_once_before_the_last_hour(acme: Organization) -> None:
    paid_in(acme, 1800)
    assert holds.keep_running(acme, HOUR).warn
    assert not holds.keep_running(acme, HOUR).warn
    paid_in(acme, 2 * HOUR)
    assert not holds.keep_running(acme, HOUR).warn
    wallet.charge(acme, 2 * HOUR, Kind.GPU, "used")
    assert holds.keep_running(acme, HOUR).warn


def test_with_less_than_five_minutes_left_it_is_suspended_and_a_top_up_resumes_it(
    acme: Organization, heard, django_capture_on_commit_callbacks
) -> None:
    with django_capture_on_commit_callbacks(execute=True):
        paid_in(acme, 299)
        assert holds.keep_running(acme, HOUR).suspended
        assert holds.keep_running(acme, HOUR).suspended
    assert heard == [("suspended", acme.id)]
    assert take(acme, 1) == Taken(0, 0)
    holds.keep_running(acme, 0)  # it has stopped
    assert take(acme, 1) == Taken(0, 299)
    with django_capture_on_commit_callbacks(execute=True):
        paid_in(acme, 1)
    assert heard == [("suspended", acme.id), ("resumed", acme.id)]
    assert take(acme, 1) == Taken(1, 299)


def test_free_instances_hold_nothing_and_suspend_nobody(acme: Organization, heard) -> None:
    assert holds.keep_running(acme, 0) == holds.Outlook(None, warn=False, suspended=False)
    assert heard == []
