"""The charts of the metrics page."""

from collections.abc import Iterable
from datetime import datetime

from django.utils.translation import gettext as _

from inference.charts import Chart, chart
from inference.insights import Point
from inference.models import SloTarget

PERCENTILES = ((0.5, "p50"), (0.95, "p95"), (0.99, "p99"))
GIB = 1024**3


def charts(points: list[Point], target: SloTarget) -> list[Chart]:
    """All of them; a GPU's, or the processors' where there is none."""
    moments = [point.at for point in points]
    has_gpu = any(point.counts.get("gpu_looks") for point in points)
    speed = target.tokens_per_second
    return [
        chart(
            "requests",
            _("Requests"),
            "",
            moments,
            [
                (_("all"), [point.requests for point in points]),
                (_("failed"), [point.failed for point in points]),
            ],
        ),
        chart(
            "tokens",
            _("Tokens per second"),
            "",
            moments,
            [
                (_("output"), [point.rate("completion_tokens") for point in points]),
                (_("input"), [point.rate("prompt_tokens") for point in points]),
            ],
        ),
        chart(
            "ttft",
            _("Time to the first token"),
            "ms",
            moments,
            _percentiles(points, "ttft"),
            limit=target.ttft_ms,
            limit_label=_("target"),
        ),
        chart(
            "itl",
            _("Time between tokens"),
            "ms",
            moments,
            _percentiles(points, "itl"),
            limit=1000 / speed if speed else None,
            limit_label=_("target"),
        ),
        chart(
            "queue",
            _("Requests in the engine"),
            "",
            moments,
            [
                (_("running"), [point.mean("running_sum", "looks") for point in points]),
                (_("waiting, at most"), [point.highest("waiting_max") for point in points]),
            ],
        ),
        chart(
            "cache",
            _("Memory for conversations (KV cache)"),
            "%",
            moments,
            [
                (_("in use"), _hundred(point.mean("kv_sum", "kv_looks") for point in points)),
                (
                    _("prompts from it"),
                    _hundred(point.mean("prefix_hits", "prefix_queries") for point in points),
                ),
            ],
        ),
        _gpu_chart(points, moments, target) if has_gpu else _cpu_chart(points, moments),
    ]


def _gpu_chart(points: list[Point], moments: list[datetime], target: SloTarget) -> Chart:
    return chart(
        "gpu",
        _("GPU"),
        "%",
        moments,
        [
            (_("busy"), _hundred(p.mean("gpu_utilization_sum", "gpu_looks") for p in points)),
            (_("memory"), _hundred(p.mean("gpu_memory_sum", "gpu_looks") for p in points)),
        ],
        limit=target.gpu_utilization,
        limit_label=_("target"),
    )


def _cpu_chart(points: list[Point], moments: list[datetime]) -> Chart:
    memory = [point.highest("memory_max") for point in points]
    return chart(
        "cpu",
        _("Processor and memory"),
        "",
        moments,
        [
            (_("processor cores"), [point.rate("cpu_seconds") for point in points]),
            (_("memory, GiB"), [None if m is None else m / GIB for m in memory]),
        ],
    )


def _percentiles(points: list[Point], name: str) -> list[tuple[str, list[float | None]]]:
    lines = []
    for share, label in PERCENTILES:
        seconds = [point.percentile(name, share) for point in points]
        lines.append((label, [None if s is None else s * 1000 for s in seconds]))
    return lines


def _hundred(shares: Iterable[float | None]) -> list[float | None]:
    return [None if share is None else share * 100 for share in shares]
