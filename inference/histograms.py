"""Durations counted in buckets, and what is read from them. PURE.

An engine counts durations in buckets with fixed bounds, as Prometheus histograms do, so counts of
several replicas and minutes can be added up and percentiles be read from the sum. (Percentiles
themselves cannot be added up or averaged.)

Within a bucket durations are taken to lie evenly, as PromQL's histogram_quantile does
(https://prometheus.io/docs/prometheus/latest/querying/functions/#histogram_quantile): a percentile
is off by less than the width of its bucket. What lies above the last bound is said to lie at it.
"""

from collections.abc import Iterable, Sequence
from functools import reduce

from inference.provisioners.base import Histogram

EMPTY = Histogram([], [0])


def count(histogram: Histogram) -> int:
    """How many durations were counted."""
    return sum(histogram.counts)


def difference(before: Histogram | None, now: Histogram | None) -> Histogram:
    """What was counted between two looks at one that only grows. One that has shrunk or has other
    bounds began anew."""
    if now is None:
        return EMPTY
    if before is None or before.bounds != now.bounds:
        return now
    counts = [later - earlier for earlier, later in zip(before.counts, now.counts, strict=True)]
    if min(counts) < 0:
        return now
    return Histogram(now.bounds, counts, max(0.0, now.total - before.total))


def together(histograms: Iterable[Histogram]) -> Histogram:
    """The sum. Where bounds differ (another version of an engine), each count goes to its own
    upper bound, which may seem to narrow its bucket."""
    return reduce(_both, histograms, EMPTY)


def _both(one: Histogram, other: Histogram) -> Histogram:
    if not count(one) or not count(other):
        return one if count(one) else other
    if one.bounds == other.bounds:
        counts = [a + b for a, b in zip(one.counts, other.counts, strict=True)]
        return Histogram(one.bounds, counts, one.total + other.total)
    bounds = sorted({*one.bounds, *other.bounds})
    counts = [0] * (len(bounds) + 1)
    for histogram in (one, other):
        for bound, number in zip(histogram.bounds, histogram.counts, strict=False):
            counts[bounds.index(bound)] += number
        counts[-1] += histogram.counts[-1]
    return Histogram(bounds, counts, one.total + other.total)


def percentile(histogram: Histogram, share: float) -> float | None:
    """The duration in seconds that `share` (0 to 1) of all do not exceed; None without any."""
    rank, seen = share * count(histogram), 0
    if not count(histogram) or not histogram.bounds:
        return None
    lower = 0.0
    for bound, number in zip(histogram.bounds, histogram.counts, strict=False):
        if number and seen + number >= rank:
            return lower + (bound - lower) * (rank - seen) / number
        seen += number
        lower = bound
    return histogram.bounds[-1]


def above(histogram: Histogram, seconds: float) -> float:
    """How many took longer; of the bucket that it falls into, the part above it."""
    longer, lower = float(histogram.counts[-1]), 0.0
    for bound, number in zip(histogram.bounds, histogram.counts, strict=False):
        if lower >= seconds:
            longer += number
        elif bound > seconds:
            longer += number * (bound - seconds) / (bound - lower)
        lower = bound
    return longer


def stored(histogram: Histogram) -> dict[str, object]:
    """As JSON; nothing where nothing was counted."""
    if not count(histogram):
        return {}
    return {"bounds": histogram.bounds, "counts": histogram.counts, "total": histogram.total}


def restored(kept: dict[str, Sequence[float]] | None) -> Histogram:
    """What `stored` made."""
    return Histogram(**kept) if kept else EMPTY  # type: ignore[arg-type]
