"""What pages are told of a range: points, rates, percentiles, and how long it served."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from accounts.models import Organization
from inference import insights
from inference.insights import Range, Span
from inference.models import Instance, MetricSample, Replica, ServingInterval
from tests.inference.making import an_instance

NOON = datetime(2026, 11, 28, 12, 0, 30, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.fixture
def instance(acme: Organization) -> Instance:
    return an_instance(acme, "demo")


def sample(instance: Instance, at: datetime, span: Span = Span.MINUTE, **counts: object) -> None:
    MetricSample.objects.create(
        organization=instance.organization, instance=instance, span=span, at=at, **counts
    )


def serving(
    instance: Instance, begins: datetime, ends: datetime | None, gpus: int = 1, index: int = 0
) -> None:
    replica = Replica.objects.create(
        organization=instance.organization, instance=instance, generation=1, index=index
    )
    ServingInterval.objects.create(
        organization=instance.organization,
        instance=instance,
        replica=replica,
        gpu_count=gpus,
        started_at=begins,
        ended_at=ends,
    )


@pytest.mark.parametrize("over", list(Range), ids=lambda over: over.key)
def test_a_range_is_whole_points_up_to_now(over: Range) -> None:
    moments = over.moments(NOON)

    assert moments[-1] <= NOON < moments[-1] + timedelta(minutes=over.minutes)
    assert over.length - timedelta(minutes=over.minutes) <= NOON - moments[0] <= over.length
    assert 60 <= len(moments) <= 96


def test_an_unknown_range_is_the_day() -> None:
    assert Range.of("a while") is Range.DAY


def test_minutes_are_added_up_to_points(instance: Instance) -> None:
    quarter = NOON.replace(hour=11, minute=15, second=0)
    ttft = {"bounds": [0.1, 0.5], "counts": [1, 1, 0], "total": 0.3}
    for minute in (0, 7):
        at = quarter + timedelta(minutes=minute)
        sample(instance, at, completion_tokens=450, looks=3, running_sum=6.0, ttft=ttft)
    sample(instance, quarter, Span.HOUR, completion_tokens=10**6)

    point = next(p for p in insights.points(instance, Range.DAY, NOON) if p.at == quarter)

    assert point.rate("completion_tokens") == 1.0
    assert point.mean("running_sum", "looks") == 2.0
    assert point.percentile("ttft", 0.5) == pytest.approx(0.1)


def test_where_nobody_watched_nothing_is_said(instance: Instance) -> None:
    point = insights.points(instance, Range.HOUR, NOON)[0]

    assert point.rate("completion_tokens") is None
    assert point.percentile("ttft", 0.5) is None
    assert point.requests == 0


def test_time_in_which_two_replicas_served_counts_once_and_their_gpus_twice(
    instance: Instance,
) -> None:
    serving(instance, NOON - 4 * HOUR, NOON - HOUR, gpus=2)
    serving(instance, NOON - 2 * HOUR, None, gpus=1, index=1)

    served = insights.served(instance, NOON - 3 * HOUR, NOON)

    assert served.seconds == 3 * 3600
    assert served.gpu_hours == Decimal(6)  # 2 hours of 2, and 2 hours of 1
    assert served.share(6 * HOUR) == 0.5


def test_what_was_over_before_does_not_count(instance: Instance) -> None:
    serving(instance, NOON - 4 * HOUR, NOON - 3 * HOUR)

    assert insights.served(instance, NOON - 2 * HOUR, NOON).seconds == 0
