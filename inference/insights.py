"""What the metrics page and the overview show of an instance: its samples, its usage rows and its
serving intervals, over a range that is in the page's address.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from enum import Enum

from django.db.models import Count, Q, QuerySet
from django.db.models.functions import TruncHour, TruncMinute
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from billing.analytics import FAILED
from billing.models import UsageEvent
from inference import histograms
from inference.models import Instance, MetricSample
from inference.provisioners.base import Histogram
from inference.samples import HISTOGRAMS, beginning
from portal.lib.ids import uuid7_floor

Span = MetricSample.Span


class Range(Enum):
    """How far back, out of which samples, and the minutes of one point in a chart."""

    HOUR = ("1h", _("1 hour"), timedelta(hours=1), Span.MINUTE, 1)
    DAY = ("24h", _("24 hours"), timedelta(days=1), Span.MINUTE, 15)
    WEEK = ("7d", _("7 days"), timedelta(days=7), Span.HOUR, 120)
    MONTH = ("30d", _("30 days"), timedelta(days=30), Span.HOUR, 480)

    def __init__(
        self, key: str, title: Promise, length: timedelta, span: Span, minutes: int
    ) -> None:
        self.key, self.title, self.length = key, title, length
        self.span, self.minutes = span, minutes

    @classmethod
    def of(cls, key: str) -> "Range":
        """The one of that name, else the day."""
        return next((one for one in cls if one.key == key), cls.DAY)

    def begins(self, now: datetime) -> datetime:
        """The first point's beginning."""
        return beginning(now - self.length + timedelta(minutes=self.minutes), self.minutes)

    def moments(self, now: datetime) -> list[datetime]:
        """The beginnings of all points, the present one last."""
        first, step = self.begins(now), timedelta(minutes=self.minutes)
        return [first + n * step for n in range(int((now - first) / step) + 1)]


@dataclass
class Point:
    """What happened from one moment to the next."""

    at: datetime
    seconds: float  # of it that have passed
    requests: int = 0
    failed: int = 0
    sampled: bool = False
    counts: dict[str, float] = field(default_factory=dict)
    durations: dict[str, Histogram] = field(default_factory=dict)

    def rate(self, name: str) -> float | None:
        """So many a second; None where nobody watched."""
        return self.counts[name] / self.seconds if self.sampled else None

    def mean(self, total: str, looks: str) -> float | None:
        """A gauge's mean over the looks."""
        return ratio(self.counts.get(total, 0), self.counts.get(looks, 0))

    def highest(self, name: str) -> float | None:
        """A gauge's highest value."""
        return self.counts[name] if self.sampled else None

    def percentile(self, name: str, share: float) -> float | None:
        """In seconds."""
        return histograms.percentile(self.durations.get(name, histograms.EMPTY), share)


_SUMS = (
    *("prompt_tokens", "completion_tokens", "prefix_queries", "prefix_hits", "preemptions"),
    *("cpu_seconds", "looks", "running_sum", "waiting_sum", "kv_looks", "kv_sum"),
    *("gpu_looks", "gpu_utilization_sum", "gpu_memory_sum"),
)
_HIGHEST = ("running_max", "waiting_max", "kv_max", "memory_max")


def ratio(part: float, whole: float) -> float | None:
    """Their quotient; None where there is no whole."""
    return part / whole if whole else None


def points(instance: Instance, over: Range, now: datetime) -> list[Point]:
    """A point for each moment of the range, also where nothing is known."""
    made = {}
    for at in over.moments(now):
        seconds = min((now - at).total_seconds(), over.minutes * 60.0)
        made[at] = Point(at, max(1.0, seconds))
    for sample in _samples(instance, over, now):
        if point := made.get(beginning(sample.at, over.minutes)):
            _add(point, sample)
    for at, requests, failed in _requests(instance, over, now):
        if point := made.get(beginning(at, over.minutes)):
            point.requests += requests
            point.failed += failed
    return list(made.values())


def _samples(instance: Instance, over: Range, now: datetime) -> QuerySet[MetricSample]:
    mine = MetricSample.objects.for_organization(instance.organization).filter(instance=instance)
    return mine.filter(span=over.span, at__gte=over.begins(now), at__lte=now)


def _add(point: Point, sample: MetricSample) -> None:
    point.sampled = True
    for name in _SUMS:
        point.counts[name] = point.counts.get(name, 0) + getattr(sample, name)
    for name in _HIGHEST:
        point.counts[name] = max(point.counts.get(name, 0), getattr(sample, name))
    for name in HISTOGRAMS:
        new = histograms.restored(getattr(sample, name))
        known = point.durations.get(name, histograms.EMPTY)
        point.durations[name] = histograms.together([known, new])


def usage(instance: Instance, since: datetime) -> QuerySet[UsageEvent]:
    """Its requests since then. The bound by id is what prunes partitions."""
    mine = UsageEvent.objects.for_organization(instance.organization)
    rows: QuerySet[UsageEvent] = mine.filter(
        request_id__gte=uuid7_floor(since), instance_id=instance.id
    )
    return rows


def _requests(
    instance: Instance, over: Range, now: datetime
) -> Iterable[tuple[datetime, int, int]]:
    trunc = TruncMinute if over.span == Span.MINUTE else TruncHour
    rows = usage(instance, over.begins(now)).order_by().annotate(moment=trunc("admitted_at"))
    counted = rows.values("moment").annotate(
        requests=Count("request_id"), failed=Count("request_id", filter=FAILED)
    )
    return counted.values_list("moment", "requests", "failed")


def whole(of: Iterable[Point], name: str) -> Histogram:
    """The durations of all points together."""
    return histograms.together(point.durations.get(name, histograms.EMPTY) for point in of)


def total(of: Iterable[Point], name: str) -> float:
    """A count of all points together."""
    return sum(point.counts.get(name, 0) for point in of)


@dataclass(frozen=True)
class Served:
    """How long it served in a period."""

    seconds: float  # in which at least one replica served
    gpu_hours: Decimal  # of all replicas

    def share(self, period: timedelta) -> float:
        """Of the period."""
        return min(1.0, self.seconds / period.total_seconds())


def served(instance: Instance, since: datetime, until: datetime) -> Served:
    """From its serving intervals; where replicas served at the same time, that time counts once,
    and the hours of each one's GPUs."""
    overlapping = instance.served.filter(Q(ended_at=None) | Q(ended_at__gt=since))
    rows = overlapping.filter(started_at__lt=until).order_by("started_at")
    cut = [
        (max(since, row.started_at), min(until, row.ended_at or until), row.gpu_count)
        for row in rows
    ]
    seconds, last = 0.0, since
    for begins, ends, _gpus in cut:
        seconds += max(0.0, (ends - max(begins, last)).total_seconds())
        last = max(last, ends)
    gpu_seconds = sum((ends - begins).total_seconds() * gpus for begins, ends, gpus in cut)
    return Served(seconds, Decimal(round(gpu_seconds)) / 3600)
