"""What engines counted, minute by minute and hour by hour."""

from datetime import UTC, datetime, timedelta

import pytest
from msgspec.structs import replace

from accounts.models import Organization
from inference import samples
from inference.models import Instance, MetricSample, Replica
from inference.provisioners.base import (
    Figures,
    GpuFigures,
    Histogram,
    Observed,
    Phase,
    ProbeUsage,
)
from tests.inference.making import an_instance

NOON = datetime(2026, 11, 28, 12, 0, 10, tzinfo=UTC)
START = Figures(process="one", prompt_tokens=6, completion_tokens=2, requests=1, cpu_seconds=5.0)
MORE = Figures(
    process="one",
    prompt_tokens=106,
    completion_tokens=52,
    requests=3,
    running=2,
    waiting=1,
    kv_cache_usage=0.5,
    ttft=Histogram([0.1, 0.5], [1, 1, 0], 0.3),
    gpus=[GpuFigures(0, 40, 80, 0.9)],
    cpu_seconds=15.0,
    memory_bytes=1 << 30,
)


@pytest.fixture
def instance(acme: Organization) -> Instance:
    return an_instance(acme, "demo")


@pytest.fixture
def replica(instance: Instance) -> Replica:
    return a_replica(instance)


def a_replica(instance: Instance, index: int = 0) -> Replica:
    return Replica.objects.create(
        organization=instance.organization, instance=instance, generation=1, index=index
    )


def seen(figures: Figures | None) -> Observed:
    return Observed(phase=Phase.READY, figures=figures)


def minute(instance: Instance) -> MetricSample:
    return MetricSample.objects.filter(instance=instance, span=1).latest("at")


def test_what_is_new_is_written_by_minute_and_by_hour(instance: Instance, replica: Replica) -> None:
    samples.take(replica, seen(START), NOON)
    assert not MetricSample.objects.exists(), "the probe is nobody's load"

    samples.take(replica, seen(MORE), NOON + timedelta(seconds=20))

    of_minute, of_hour = MetricSample.objects.order_by("span")
    assert (of_minute.at.second, of_hour.at.minute) == (0, 0)
    for sample in (of_minute, of_hour):
        assert (sample.prompt_tokens, sample.completion_tokens, sample.requests) == (100, 50, 2)
        assert (sample.running_max, sample.waiting_max, sample.kv_max) == (2, 1, 0.5)
        assert (sample.cpu_seconds, sample.watched_seconds) == (10.0, 20.0)
        assert (sample.gpu_utilization_sum, sample.gpu_memory_sum) == (0.9, 0.5)
        assert sample.ttft["counts"] == [1, 1, 0]


def test_who_waited_for_it_to_wake_counts_and_the_probe_does_not(
    instance: Instance, replica: Replica
) -> None:
    ready = NOON - timedelta(seconds=3)
    woken = replace(seen(MORE), probe=ProbeUsage(6, 2, 1), ready_at=ready)
    samples.take(replica, woken, NOON)
    sample = minute(instance)
    assert (sample.prompt_tokens, sample.completion_tokens, sample.requests) == (100, 50, 2)
    assert (sample.watched_seconds, sample.ttft) == (3.0, {})


def test_looks_that_are_too_soon_write_nothing(replica: Replica) -> None:
    assert samples.take(replica, seen(START), NOON)

    assert not samples.take(replica, seen(MORE), NOON + timedelta(seconds=2))
    assert not samples.take(replica, seen(None), NOON + timedelta(minutes=1))
    assert not samples.take(replica, None, NOON + timedelta(minutes=1))


def test_a_second_controller_adds_nothing(replica: Replica) -> None:
    same = Replica.objects.get(id=replica.id)
    assert samples.take(replica, seen(START), NOON)
    assert not samples.take(same, seen(START), NOON)


def test_replicas_and_looks_are_added_up(instance: Instance, replica: Replica) -> None:
    other = a_replica(instance, 1)
    for one in (replica, other):
        samples.take(one, seen(START), NOON)
        samples.take(one, seen(MORE), NOON + timedelta(seconds=20))
        samples.take(one, seen(MORE), NOON + timedelta(seconds=40))

    sample = minute(instance)
    assert (sample.prompt_tokens, sample.looks, sample.running_sum) == (200, 4, 8)
    assert sample.ttft["counts"] == [2, 2, 0]


def test_an_engine_that_began_anew_counts_from_nothing(
    instance: Instance, replica: Replica
) -> None:
    samples.take(replica, seen(MORE), NOON)
    samples.take(replica, seen(replace(START, process="two")), NOON + timedelta(seconds=20))

    assert minute(instance).prompt_tokens == 6


def test_old_samples_are_forgotten(instance: Instance, replica: Replica) -> None:
    samples.take(replica, seen(START), NOON)
    samples.take(replica, seen(MORE), NOON + timedelta(seconds=20))

    assert samples.prune(NOON + timedelta(days=29)) == 0
    assert samples.prune(NOON + timedelta(days=31)) == 2


@pytest.mark.parametrize(
    ("minutes", "begins"), [(1, "12:47"), (15, "12:45"), (60, "12:00"), (360, "12:00")]
)
def test_spans_begin_at_midnight(minutes: int, begins: str) -> None:
    found = samples.beginning(datetime(2026, 11, 28, 12, 47, 59, tzinfo=UTC), minutes)
    assert f"{found:%H:%M}" == begins
