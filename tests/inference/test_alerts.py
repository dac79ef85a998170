"""Targets that are missed: told once, and once more when they are met again."""

from datetime import UTC, datetime, timedelta

import pytest
from django.core import mail
from django.db import OperationalError

from accounts.models import Organization, User
from inference import alerts, tasks
from inference.alerts import MET, MISSED
from inference.models import Instance, MetricSample, SloAlert, SloTarget
from inference.samples import beginning
from tests.inference.making import an_instance

NOW = datetime(2026, 11, 28, 12, 30, 30, tzinfo=UTC)
SLOW = {"bounds": [0.5, 2.0], "counts": [0, 30, 0], "total": 30.0}
QUICK = {"bounds": [0.5, 2.0], "counts": [30, 0, 0], "total": 3.0}


@pytest.fixture
def target(acme: Organization) -> SloTarget:
    made = SloTarget.of(an_instance(acme, "demo"))
    made.set(enabled=True, ttft_ms=500, tokens_per_second=None, gpu_utilization=None)
    return made


def minutes(target: SloTarget, count: int, until: datetime = NOW, **measured: object) -> None:
    """So many minutes of the same, the last one complete."""
    for n in range(1, count + 1):
        at = beginning(until, 1) - timedelta(minutes=n)
        for span in (1, 60):
            MetricSample.objects.update_or_create(
                organization=target.organization,
                instance=target.instance,
                span=span,
                at=beginning(at, span),
                defaults=measured,
            )


class Told:
    """Remembers what was announced."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, str]] = []

    def __call__(self, alert: SloAlert, what: str) -> None:
        self.heard.append((alert.objective, what))


def test_one_alert_per_breach_and_one_when_it_is_over(target: SloTarget) -> None:
    told = Told()
    minutes(target, 60, ttft=SLOW)
    for _ in range(3):
        alerts.watch(told, NOW)
    assert told.heard == [("ttft", MISSED)]

    later = NOW + timedelta(hours=6)
    minutes(target, 359, until=later, ttft=QUICK)
    for _ in range(3):
        alerts.watch(told, later)

    assert told.heard == [("ttft", MISSED), ("ttft", MET)]
    events = target.instance.events.values_list("reason", flat=True)
    assert list(events) == ["slo_met", "slo_missed"]


def test_quick_answers_alarm_nobody(target: SloTarget) -> None:
    told = Told()
    minutes(target, 60, ttft=QUICK)
    alerts.watch(told, NOW)
    assert told.heard == []


def test_slow_tokens_are_missed_by_the_speed_of_one_answer(target: SloTarget) -> None:
    target.set(ttft_ms=None, tokens_per_second=30)
    told = Told()
    minutes(target, 60, itl={"bounds": [0.05, 0.2], "counts": [0, 900, 0], "total": 90.0})
    alerts.watch(told, NOW)
    assert told.heard == [("speed", MISSED)]


@pytest.mark.parametrize(
    ("hours", "busy", "missed"), [(6, 1.0, True), (6, 3.6, False), (2, 1.0, False)]
)
def test_a_gpu_must_be_idle_for_hours(
    target: SloTarget, hours: int, busy: float, missed: bool
) -> None:
    target.set(ttft_ms=None, gpu_utilization=80)
    told = Told()
    minutes(target, hours * 60, gpu_looks=4, gpu_utilization_sum=busy)
    alerts.watch(told, NOW)
    assert told.heard == ([("gpu", MISSED)] if missed else [])


@pytest.mark.parametrize("change", [{"enabled": False}, {"ttft_ms": None}])
def test_what_is_no_target_any_more_is_told_to_nobody(
    target: SloTarget, change: dict[str, object]
) -> None:
    told = Told()
    minutes(target, 60, ttft=SLOW)
    alerts.watch(told, NOW)

    target.set(**change)
    alerts.watch(told, NOW)

    assert told.heard == [("ttft", MISSED)]
    assert not SloAlert.objects.filter(ended_at=None).exists()


def test_where_it_cannot_be_announced_it_is_tried_again(target: SloTarget) -> None:
    def broken(alert: SloAlert, what: str) -> None:
        raise OperationalError("the broker is away")

    minutes(target, 60, ttft=SLOW)
    with pytest.raises(OperationalError):
        alerts.watch(broken, NOW)
    assert not SloAlert.objects.exists()

    told = Told()
    alerts.watch(told, NOW)
    assert told.heard == [("ttft", MISSED)]


def test_owners_and_admins_are_mailed(target: SloTarget, bob: User, alice: User) -> None:
    alert = SloAlert.begin(target, "ttft", 500)
    assert alert is not None
    assert alerts.recipients(alert) == [alice.email]
    bob.memberships.update(role="admin")
    assert alerts.recipients(alert) == [alice.email, bob.email]

    tasks.mail_alert(str(alert.id), MISSED, alice.email)
    alert.end()
    tasks.mail_alert(str(alert.id), MET, alice.email)

    missed, met = mail.outbox
    assert missed.subject == "demo misses a target: Time to the first token"
    assert "within 500 ms" in missed.body and "/metrics/" in missed.body
    assert "again" in met.subject and "Met again since" in met.body


def test_an_alert_that_is_no_more_is_told_to_nobody(target: SloTarget) -> None:
    alert = SloAlert.begin(target, "ttft", 500)
    assert alert is not None
    Instance.objects.all().delete()
    tasks.mail_alert(str(alert.id), MISSED, "alice@acme.example")
    tasks.post_alert(str(alert.id), MISSED)
    assert mail.outbox == []


def test_a_webhook_says_what_is_missed_and_since_when(target: SloTarget) -> None:
    alert = SloAlert.begin(target, "ttft", 500)
    assert alert is not None
    said = alerts.payload(alert, MISSED)
    assert (said["type"], said["objective"], said["target"]) == ("slo.missed", "ttft", 500)
    assert said["ended_at"] is None
    alert.end()
    said = alerts.payload(alert, MET)
    assert said["type"] == "slo.met" and said["ended_at"] is not None
    assert said["id"] == f"{alert.id}-met"
