"""Replicas by hand and by schedule, falling asleep and waking."""

from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from django.core.exceptions import ValidationError
from django.utils import timezone

from accounts.models import Organization, User
from inference.lifecycle import Desired, InstanceState
from inference.models import Instance, Replica, ScheduleEntry
from inference.provisioners.fake import FakeProvisioner
from inference.reconciler import Reconciler
from inference.reconciler.schedule import none_since, wanted_replicas
from tests.inference.making import a_wish, rounds

MONDAY, FRIDAY, WEEK = 1, 16, 127


@dataclass
class Hours:
    starts: time
    ends: time
    replica_count: int
    weekdays: int = WEEK
    time_zone: str = "UTC"


def at(text: str, zone: str = "UTC") -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone))


DAY = Hours(time(9), time(18), 4)
NIGHT = Hours(time(22), time(6), 0)
FRIDAY_NIGHT = Hours(time(22), time(6), 0, weekdays=FRIDAY)
ALL_MONDAY = Hours(time(0), time(0), 3, weekdays=MONDAY)
BERLIN_NIGHT = Hours(time(1), time(5), 0, time_zone="Europe/Berlin")


@pytest.mark.parametrize(
    ("entry", "now", "expected"),
    [
        (DAY, at("2026-11-20 08:59:59"), 2),
        (DAY, at("2026-11-20 09:00"), 4),
        (DAY, at("2026-11-20 17:59:59"), 4),
        (DAY, at("2026-11-20 18:00"), 2),
        (NIGHT, at("2026-11-20 23:00"), 0),
        (NIGHT, at("2026-11-21 05:59"), 0),
        (NIGHT, at("2026-11-21 06:00"), 2),
        # It belongs to the day on which it begins: the 20th is a Friday.
        (FRIDAY_NIGHT, at("2026-11-20 05:00"), 2),
        (FRIDAY_NIGHT, at("2026-11-20 23:00"), 0),
        (FRIDAY_NIGHT, at("2026-11-21 05:00"), 0),
        (FRIDAY_NIGHT, at("2026-11-21 23:00"), 2),
        (ALL_MONDAY, at("2026-11-22 23:59"), 2),
        (ALL_MONDAY, at("2026-11-23 00:00"), 3),
        (ALL_MONDAY, at("2026-11-23 23:59"), 3),
        (ALL_MONDAY, at("2026-11-24 00:00"), 2),
        # By its own clock, whatever the asker's.
        (BERLIN_NIGHT, at("2026-11-20 00:30", "UTC"), 0),
        (BERLIN_NIGHT, at("2026-11-20 04:30", "UTC"), 2),
        # The clocks go forward at 2: the night of one to five is three hours long.
        (BERLIN_NIGHT, datetime(2026, 3, 29, 0, 0, tzinfo=UTC), 0),
        (BERLIN_NIGHT, datetime(2026, 3, 29, 2, 59, tzinfo=UTC), 0),
        (BERLIN_NIGHT, datetime(2026, 3, 29, 3, 0, tzinfo=UTC), 2),
        # They go back at 3: five hours.
        (BERLIN_NIGHT, datetime(2026, 10, 24, 23, 0, tzinfo=UTC), 0),
        (BERLIN_NIGHT, datetime(2026, 10, 25, 3, 59, tzinfo=UTC), 0),
        (BERLIN_NIGHT, datetime(2026, 10, 25, 4, 0, tzinfo=UTC), 2),
    ],
)
def test_so_many_are_wanted_at_that_hour(entry: Hours, now: datetime, expected: int) -> None:
    assert wanted_replicas(2, [entry], now) == expected


def test_of_overlapping_entries_the_one_made_last_holds() -> None:
    noon = at("2026-11-20 12:00")
    lunch = Hours(time(12), time(13), 1)
    assert wanted_replicas(2, [DAY, lunch], noon) == 1
    assert wanted_replicas(2, [lunch, DAY], noon) == 4
    assert wanted_replicas(2, [], noon) == 2


TWO_NIGHTS = [NIGHT, Hours(time(6), time(8), 0)]  # one after the other


@pytest.mark.parametrize(
    ("entries", "now", "expected"),
    [
        ([], at("2026-11-20 23:00"), None),
        ([DAY], at("2026-11-20 12:00"), None),
        ([NIGHT], at("2026-11-20 21:59:59"), None),
        ([NIGHT], at("2026-11-20 22:00"), at("2026-11-20 22:00")),
        ([NIGHT], at("2026-11-21 05:59"), at("2026-11-20 22:00")),
        (TWO_NIGHTS, at("2026-11-21 07:00"), at("2026-11-20 22:00")),
        ([NIGHT, Hours(time(23), time(1), 1)], at("2026-11-21 02:00"), at("2026-11-21 01:00")),
        ([BERLIN_NIGHT], at("2026-11-20 01:00"), at("2026-11-20 00:00")),
        ([Hours(time(0), time(0), 0)], at("2026-11-20 12:00"), at("2026-11-13 12:00")),
    ],
)
def test_none_is_wanted_since_then(
    entries: list[Hours], now: datetime, expected: datetime | None
) -> None:
    assert none_since(entries, now) == expected


@pytest.fixture
def place() -> FakeProvisioner:
    return FakeProvisioner()


@pytest.fixture
def reconciler(place: FakeProvisioner) -> Reconciler:
    return Reconciler(place)


@pytest.fixture
def instance(acme: Organization, alice: User, reconciler: Reconciler) -> Instance:
    return rounds(reconciler, a_wish(acme, alice, sleep_after_minutes=10))


def idle(place: FakeProvisioner, minutes: float) -> None:
    for replica in Replica.objects.filter(state=Replica.State.READY):
        place.rest(str(replica.id), timezone.now() - timedelta(minutes=minutes))


def always(count: int) -> ScheduleEntry:
    return ScheduleEntry(starts=time(0), ends=time(0), replica_count=count)


def test_it_sleeps_after_its_minutes_and_holds_nothing(
    instance: Instance, reconciler: Reconciler, place: FakeProvisioner
) -> None:
    idle(place, 9.5)
    assert rounds(reconciler, instance).state == InstanceState.READY
    idle(place, 10.5)
    assert rounds(reconciler, instance).state == InstanceState.ASLEEP
    assert not instance.replicas.exclude(state=Replica.State.GONE).exists()
    assert not instance.served.filter(ended_at=None).exists()
    assert instance.events.filter(reason="sleep_requested", by=None).exists()
    assert instance.is_settled


def test_it_does_not_sleep_while_one_of_its_replicas_computes(
    instance: Instance, alice: User, reconciler: Reconciler, place: FakeProvisioner
) -> None:
    instance.set_replicas(alice, 2)
    rounds(reconciler, instance)
    idle(place, 60)
    place.work(str(instance.replicas.get(index=1).id))
    assert rounds(reconciler, instance).state == InstanceState.READY


def test_people_see_since_when_it_rests(
    instance: Instance, reconciler: Reconciler, place: FakeProvisioner
) -> None:
    replica = instance.replicas.get()
    idle(place, 5)
    reconciler.round()
    replica.refresh_from_db()
    assert replica.idle_since == place.replicas[str(replica.id)].idle_since
    place.work(str(replica.id))
    reconciler.round()
    replica.refresh_from_db()
    assert replica.idle_since is None


def test_a_request_wakes_it_once(
    instance: Instance, reconciler: Reconciler, place: FakeProvisioner
) -> None:
    idle(place, 11)
    rounds(reconciler, instance)
    assert instance.request_wake(None)
    assert not instance.request_wake(None)
    assert rounds(reconciler, instance).state == InstanceState.READY
    assert instance.events.filter(reason="wake_requested").count() == 1


def test_a_request_that_comes_as_it_falls_asleep_wakes_it_again(
    instance: Instance, reconciler: Reconciler, place: FakeProvisioner
) -> None:
    idle(place, 11)
    reconciler.round()
    instance.refresh_from_db()
    assert instance.desired == Desired.ASLEEP
    reconciler.round()  # it is being stopped
    assert instance.request_wake(None)
    assert rounds(reconciler, instance).state == InstanceState.READY


def test_what_was_asked_meanwhile_is_not_undone_by_sleep(instance: Instance, alice: User) -> None:
    stale = Instance.objects.get(id=instance.id)
    instance.request_stop(alice)
    assert not stale.fall_asleep(by_schedule=False)
    stale = Instance.objects.get(id=instance.id)
    instance.request_start(alice)
    assert not stale.fall_asleep(by_schedule=False)
    assert Instance.objects.get(id=instance.id).desired == Desired.RUNNING


def test_the_schedule_sets_the_count_and_gives_it_back(
    instance: Instance, alice: User, reconciler: Reconciler
) -> None:
    instance.set_schedule(alice, [always(3)])
    rounds(reconciler, instance, 24)
    assert instance.replicas.filter(state=Replica.State.READY).count() == 3
    assert instance.state == InstanceState.READY
    instance.set_schedule(alice, [])
    rounds(reconciler, instance)
    assert instance.replicas.filter(state=Replica.State.READY).count() == 1


def serves_since(instance: Instance, **ago: float) -> None:
    instance.replicas.update(created_at=timezone.now() - timedelta(**ago))


def test_at_the_hour_it_sleeps_however_busy_and_in_the_morning_it_wakes(
    instance: Instance, alice: User, reconciler: Reconciler, place: FakeProvisioner
) -> None:
    instance.set_sleep(alice, None)
    serves_since(instance, days=8)
    place.work(str(instance.replicas.get().id))
    instance.set_schedule(alice, [always(0)])
    assert rounds(reconciler, instance).state == InstanceState.ASLEEP
    assert instance.sleeps_by_schedule
    instance.set_schedule(alice, [always(2)])  # it is day
    assert rounds(reconciler, instance, 24).state == InstanceState.READY
    assert instance.replicas.filter(state=Replica.State.READY).count() == 2


def test_who_asks_at_night_wakes_it_until_it_has_been_idle_for_a_while(
    instance: Instance, alice: User, reconciler: Reconciler, place: FakeProvisioner
) -> None:
    instance.set_sleep(alice, None)
    serves_since(instance, days=8)
    instance.set_schedule(alice, [always(0)])
    rounds(reconciler, instance)
    instance.request_wake(None)
    assert rounds(reconciler, instance).state == InstanceState.READY
    idle(place, 14)
    assert rounds(reconciler, instance).state == InstanceState.READY
    idle(place, 16)
    assert rounds(reconciler, instance).state == InstanceState.ASLEEP


def test_the_morning_does_not_wake_what_a_person_put_to_sleep(
    instance: Instance, alice: User, reconciler: Reconciler
) -> None:
    instance.request_sleep(alice)
    rounds(reconciler, instance)
    instance.set_schedule(alice, [always(2)])
    assert rounds(reconciler, instance).state == InstanceState.ASLEEP


@pytest.fixture
def on_gpu(acme: Organization, alice: User, place: FakeProvisioner) -> Instance:
    place.gpus = 1
    wish = a_wish(acme, alice, sleep_after_minutes=10, gpu_count=1)
    return rounds(Reconciler(place), wish)


def test_on_a_gpu_it_sleeps_at_hand_and_the_same_engine_wakes(
    on_gpu: Instance, reconciler: Reconciler, place: FakeProvisioner
) -> None:
    idle(place, 11)
    assert rounds(reconciler, on_gpu).state == InstanceState.ASLEEP
    replica = on_gpu.replicas.get()
    assert replica.state == Replica.State.ASLEEP
    assert not on_gpu.served.filter(ended_at=None).exists()  # it is not billed
    assert place.check().nodes[0].gpus[0].replica_id == ""
    assert on_gpu.is_settled
    assert on_gpu.request_wake(None)
    assert rounds(reconciler, on_gpu).state == InstanceState.READY
    assert on_gpu.replicas.get() == replica
    assert on_gpu.served.count() == 2


def test_who_needs_the_gpu_gets_it_and_the_sleeper_starts_anew_later(
    on_gpu: Instance, acme: Organization, alice: User, place: FakeProvisioner
) -> None:
    reconciler = Reconciler(place)
    on_gpu.request_sleep(alice)
    rounds(reconciler, on_gpu)
    other = rounds(reconciler, a_wish(acme, alice, name="other", gpu_count=1))
    assert other.state == InstanceState.READY
    on_gpu.refresh_from_db()
    assert on_gpu.state == InstanceState.ASLEEP
    assert not on_gpu.replicas.exclude(state=Replica.State.GONE).exists()
    on_gpu.request_wake(None)
    assert rounds(reconciler, on_gpu).reason == "insufficient_capacity"
    other.request_stop(alice)
    rounds(reconciler, other)
    assert rounds(reconciler, on_gpu).state == InstanceState.READY


def test_a_change_made_in_its_sleep_is_what_wakes(
    on_gpu: Instance, alice: User, reconciler: Reconciler
) -> None:
    on_gpu.request_sleep(alice)
    rounds(reconciler, on_gpu)
    on_gpu.change(alice, settings={"max_model_len": 512})
    on_gpu.request_wake(None)
    assert rounds(reconciler, on_gpu).state == InstanceState.READY
    assert on_gpu.replicas.get(state=Replica.State.READY).revision.number == 2


def test_stopping_it_in_its_sleep_ends_what_was_at_hand(
    on_gpu: Instance, alice: User, reconciler: Reconciler, place: FakeProvisioner
) -> None:
    on_gpu.request_sleep(alice)
    rounds(reconciler, on_gpu)
    on_gpu.request_stop(alice)
    assert rounds(reconciler, on_gpu).state == InstanceState.STOPPED
    assert not on_gpu.replicas.exclude(state=Replica.State.GONE).exists()


@pytest.mark.parametrize(
    "entry",
    [
        ScheduleEntry(starts=time(9), ends=time(18), replica_count=1, time_zone="Mars/Olympus"),
        ScheduleEntry(starts=time(9), ends=time(18), replica_count=17),
        ScheduleEntry(starts=time(9), ends=time(18), replica_count=1, weekdays=0),
    ],
)
def test_a_schedule_that_makes_no_sense_is_refused_and_the_old_one_stays(
    instance: Instance, alice: User, entry: ScheduleEntry
) -> None:
    instance.set_schedule(alice, [always(1)])
    with pytest.raises(ValidationError):
        instance.set_schedule(alice, [entry])
    assert instance.schedule.get().replica_count == 1
