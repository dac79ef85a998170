"""The five numbers that say how an instance does."""

from dataclasses import dataclass
from datetime import timedelta

from django.utils.translation import gettext as _

from inference import histograms, insights
from inference.charts import shown
from inference.insights import Point, Served
from inference.models import SloTarget


@dataclass(frozen=True)
class Number:
    """One of the five: a label, a value, and what it is to be compared with."""

    label: str
    value: str
    sub: str = ""
    tone: str = ""


def numbers(points: list[Point], served: Served, target: SloTarget) -> list[Number]:
    """The five that matter most, of the whole range."""
    seconds = sum(point.seconds for point in points)
    requests, failed = sum(p.requests for p in points), sum(p.failed for p in points)
    hits = insights.ratio(
        insights.total(points, "prefix_hits"), insights.total(points, "prefix_queries")
    )
    made = insights.total(points, "completion_tokens")
    uptime = served.share(timedelta(seconds=seconds))
    return [
        first_token(points, target),
        Number(
            _("Output tokens per second"),
            shown(made / seconds),
            _("%(count)s in all") % {"count": shown(made)},
        ),
        Number(
            _("Requests"),
            shown(requests),
            _("%(count)s failed") % {"count": shown(failed)},
            "warn" if failed else "",
        ),
        Number(_("Prompts from the cache"), percent(hits)),
        Number(_("Served"), percent(uptime), _("of the time")),
    ]


def first_token(points: list[Point], target: SloTarget) -> Number:
    """The 95th percentile of the time to the first token, against its target."""
    seconds = histograms.percentile(insights.whole(points, "ttft"), 0.95)
    label = _("First token, p95")
    if seconds is None:
        return Number(label, shown(None))
    value = f"{shown(seconds * 1000)}\N{NBSP}ms"
    if target.ttft_ms is None:
        return Number(label, value)
    met = seconds * 1000 <= target.ttft_ms
    words = _("Target: %(ms)s ms, met") if met else _("Target: %(ms)s ms, missed")
    return Number(label, value, words % {"ms": shown(target.ttft_ms)}, "ok" if met else "warn")


def percent(share: float | None) -> str:
    """`42.5 %`."""
    return shown(None) if share is None else f"{shown(share * 100)}\N{NBSP}%"
