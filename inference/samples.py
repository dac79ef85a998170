"""What engines counted, minute by minute: written by the reconciler's rounds, read by pages.

Engines count from their own start. What is kept is what was new in each minute and hour, added up
over the replicas of an instance. It's OK to be a little inexact: of what an engine did before the
first look at it the counts are there, less its readiness probe's, and the durations are not; what
it did after the last look is missing.
"""

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from django.db import transaction
from django.utils import timezone

from inference import histograms
from inference.models import LastLook, MetricSample, Replica
from inference.provisioners.base import Figures, Observed

EVERY = timedelta(seconds=20)  # rounds are more frequent than there is news
KEPT = timedelta(days=30)
COUNTERS = (
    *("prompt_tokens", "completion_tokens", "requests", "preemptions"),
    *("prefix_queries", "prefix_hits", "cpu_seconds"),
)
HISTOGRAMS = ("ttft", "itl", "e2e", "queue_time")


def take(replica: Replica, observed: Observed | None, now: datetime) -> bool:
    """Take down what the engine says; False where there is nothing new. Cheap to call each round"""
    figures = observed.figures if observed else None
    if figures is None or (replica.sampled_at and now - replica.sampled_at < EVERY):
        return False
    with transaction.atomic():
        if not _claimed(replica, now):
            return False
        before = LastLook.objects.filter(replica=replica).first()
        if before is not None:
            seconds = (now - before.at).total_seconds()
            _add(replica, figures, new_counts(_figures(before), figures, seconds), now)
        elif observed is not None and observed.probe and observed.ready_at:
            # Who had waited for it to wake is answered at once, before anybody looks.
            seconds = (now - observed.ready_at).total_seconds()
            _add(replica, figures, new_counts(_when_ready(observed), figures, seconds), now)
        LastLook.objects.update_or_create(
            replica=replica, defaults={"at": now, "figures": msgspec.to_builtins(figures)}
        )
    replica.sampled_at = now
    return True


def prune(now: datetime | None = None) -> int:
    """Forget what is too old; returns how many rows that were."""
    before = (now or timezone.now()) - KEPT
    LastLook.objects.filter(at__lt=before).delete()
    return int(MetricSample.objects.filter(at__lt=before).delete()[0])


def new_counts(before: Figures, now: Figures, seconds: float) -> dict[str, Any]:
    """What was counted between two looks; all of it, where the engine has begun anew. PURE."""
    same = before.process == now.process
    counts: dict[str, Any] = {"watched_seconds": max(0.0, seconds)}
    for name in COUNTERS:
        earlier, later = (getattr(before, name) or 0) if same else 0, getattr(now, name) or 0
        # Processor time of a child that has ended is gone from the sum, which is no news.
        counts[name] = max(0, later - earlier)
    for name in HISTOGRAMS:
        counts[name] = histograms.difference(
            getattr(before, name) if same else None, getattr(now, name)
        )
    return counts


def _claimed(replica: Replica, now: datetime) -> bool:
    """Of two controllers, one takes it down."""
    same = Replica.objects.filter(id=replica.id, sampled_at=replica.sampled_at)
    return bool(same.update(sampled_at=now))


def _when_ready(observed: Observed) -> Figures:
    """What it had counted when it was ready: its probe. What is timed is taken as it is now."""
    figures, probe = observed.figures, observed.probe
    assert figures is not None and probe is not None  # noqa: S101  - asked for above
    return msgspec.structs.replace(
        figures,
        prompt_tokens=probe.prompt_tokens,
        completion_tokens=probe.completion_tokens,
        requests=probe.requests,
    )


def _figures(look: LastLook) -> Figures:
    return msgspec.convert(look.figures, Figures)


def _add(replica: Replica, figures: Figures, counts: dict[str, Any], now: datetime) -> None:
    for span in MetricSample.Span:
        sample, _made = MetricSample.objects.select_for_update().get_or_create(
            instance_id=replica.instance_id,
            span=span,
            at=beginning(now, span),
            defaults={"organization_id": replica.organization_id},
        )
        _count(sample, counts)
        _measure(sample, figures)
        sample.save()


def beginning(moment: datetime, minutes: int) -> datetime:
    """The start of the span of so many minutes that the moment is in; spans begin at midnight."""
    moment = moment.astimezone(UTC)
    midnight = moment.replace(hour=0, minute=0, second=0, microsecond=0)
    passed = int((moment - midnight).total_seconds() // 60)
    return midnight + timedelta(minutes=passed - passed % minutes)


def _count(sample: MetricSample, counts: dict[str, Any]) -> None:
    for name in (*COUNTERS, "watched_seconds"):
        setattr(sample, name, getattr(sample, name) + counts[name])
    for name in HISTOGRAMS:
        known = histograms.restored(getattr(sample, name))
        setattr(sample, name, histograms.stored(histograms.together([known, counts[name]])))


def _measure(sample: MetricSample, figures: Figures) -> None:
    sample.looks += 1
    sample.running_sum += figures.running
    sample.running_max = max(sample.running_max, figures.running)
    sample.waiting_sum += figures.waiting
    sample.waiting_max = max(sample.waiting_max, figures.waiting)
    sample.memory_max = max(sample.memory_max, figures.memory_bytes or 0)
    if figures.kv_cache_usage is not None:
        sample.kv_looks += 1
        sample.kv_sum += figures.kv_cache_usage
        sample.kv_max = max(sample.kv_max, figures.kv_cache_usage)
    for gpu in figures.gpus:
        sample.gpu_looks += 1
        sample.gpu_utilization_sum += gpu.utilization
        sample.gpu_memory_sum += gpu.memory_used / gpu.memory_total if gpu.memory_total else 0
