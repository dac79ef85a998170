"""What Prometheus may know of the gateway: counts and times per instance, never text.

On a request's way a series is plain arithmetic; names, buckets and text are made when somebody
asks. Each process answers on a Unix socket of its own in `run/gateway`, and whoever is scraped
(`portal/metrics.py`) adds up those of its machine.
"""

import asyncio
import os
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
from msgspec import field
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from billing.usage_record import Usage
from inference.gateway import machine
from portal.lib.env import Environment

FOLDER = "gateway"  # in the run directory
SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
PER_TOKEN = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.033, 0.05, 0.1, 0.2, 0.5, 1.0)
SCRAPE_TIMEOUT = 2.0  # seconds for one process to answer
# Not "instance": Prometheus gives that label to what it scrapes, and ours would lose its name.
LABELS = ("organization_id", "instance_id", "model", "endpoint")
TOKENS = ("prompt", "cached", "completion", "reasoning")


class Figures(msgspec.Struct):
    """What one process has counted of one series. Histograms have a last bucket without bound."""

    labels: tuple[str, str, str, str]
    statuses: dict[int, int] = {}
    tokens: list[int] = field(default_factory=lambda: [0] * len(TOKENS))
    in_flight: int = 0
    ttft: list[int] = field(default_factory=lambda: [0] * (len(SECONDS) + 1))
    ttft_sum: float = 0.0
    whole: list[int] = field(default_factory=lambda: [0] * (len(SECONDS) + 1))
    whole_sum: float = 0.0
    per_token: list[int] = field(default_factory=lambda: [0] * (len(PER_TOKEN) + 1))
    per_token_sum: float = 0.0


class Process(msgspec.Struct):
    """What one process tells."""

    pid: int
    series: list[Figures]
    counters: dict[str, float]
    gauges: dict[str, float]


class Series:
    """One model's requests to one endpoint: begun, ended, withdrawn to be another's."""

    __slots__ = ("figures",)

    def __init__(self, labels: tuple[str, str, str, str]) -> None:
        self.figures = Figures(labels)

    def begin(self) -> None:
        self.figures.in_flight += 1

    def withdraw(self) -> None:
        self.figures.in_flight -= 1

    def refuse(self, status: int) -> None:
        """A request that ended before any engine was asked."""
        statuses = self.figures.statuses
        statuses[status] = statuses.get(status, 0) + 1

    def end(self, status: int, used: Usage, seconds: float, ttft: float) -> None:
        """`ttft` is negative where no content was sent."""
        figures = self.figures
        figures.in_flight -= 1
        figures.statuses[status] = figures.statuses.get(status, 0) + 1
        figures.whole[bisect_left(SECONDS, seconds)] += 1
        figures.whole_sum += seconds
        completion = used.completion_tokens
        tokens = figures.tokens
        tokens[0] += used.prompt_tokens
        tokens[1] += used.cached_tokens
        tokens[2] += completion
        tokens[3] += used.reasoning_tokens
        if ttft >= 0:
            figures.ttft[bisect_left(SECONDS, ttft)] += 1
            figures.ttft_sum += ttft
            if completion > 1 and seconds > ttft:
                each = (seconds - ttft) / (completion - 1)
                figures.per_token[bisect_left(PER_TOKEN, each)] += 1
                figures.per_token_sum += each


class Book:
    """All series of a process, and what it counts besides."""

    def __init__(self) -> None:
        self._series: dict[tuple[bytes, bytes, str, str], Series] = {}
        self.retries = 0  # attempts at another replica or way
        self.limited = 0  # requests refused by a limit

    def series(
        self, organization_id: bytes, instance_id: bytes, model: str, endpoint: str
    ) -> Series:
        """The series of these; made when it is first asked for."""
        key = (organization_id, instance_id, model, endpoint)
        series = self._series.get(key)
        if series is None:
            labels = (organization_id.hex(), instance_id.hex(), model, endpoint or "none")
            series = self._series[key] = Series(labels)
        return series

    def forget(self, instances: Iterable[bytes]) -> None:
        """Keep only the series of these instances, and those of none."""
        kept = {bytes(16), *instances}
        for key in [key for key in self._series if key[1] not in kept]:
            if not self._series[key].figures.in_flight:
                del self._series[key]

    def figures(self) -> list[Figures]:
        return [series.figures for series in self._series.values()]


BOOK = Book()
series = BOOK.series


# ---------------------------------------------------------------------------------- telling

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Process).decode


def socket_of(folder: Path, pid: int) -> Path:
    return folder / f"{pid}.sock"


async def tell(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    counters: dict[str, float],
    gauges: dict[str, float],
) -> None:
    """Say once what this process has counted."""
    more = {"retries": float(BOOK.retries), "limited": float(BOOK.limited)}
    writer.write(_encode(Process(os.getpid(), BOOK.figures(), counters | more, gauges)))
    writer.close()


async def ask_all(folder: Path) -> list[Process]:
    """What the gateway processes of this machine tell. One that is gone is passed over."""
    paths = await asyncio.to_thread(lambda: sorted(folder.glob("*.sock")))
    told = await asyncio.gather(*map(_ask, paths))
    return [each for each in told if each is not None]


async def _ask(path: Path) -> Process | None:
    try:
        async with asyncio.timeout(SCRAPE_TIMEOUT):
            reader, writer = await asyncio.open_unix_connection(str(path))
            try:
                return _decode(await reader.read(-1))
            finally:
                writer.close()
    except ConnectionRefusedError:
        await asyncio.to_thread(path.unlink, missing_ok=True)  # of one that was killed
    except (OSError, TimeoutError, msgspec.MsgspecError):
        pass
    return None


# ------------------------------------------------------------------------------------- text


async def scrape(env: Environment) -> bytes:
    """The text that Prometheus reads: all gateway processes of this machine, and its journals."""
    processes = await ask_all(env.run_dir / FOLDER)
    # Many instances make long texts; streams on this loop need not wait for them.
    return await asyncio.to_thread(lambda: exposition(processes, machine.figures(env.journal_dir)))


def exposition(processes: list[Process], of_machine: Mapping[str, float]) -> bytes:
    """The text over these processes and what `machine.figures` tells."""
    registry = CollectorRegistry()
    registry.register(_Collected(processes, of_machine))
    return generate_latest(registry)


class _Collected(Collector):
    def __init__(self, processes: list[Process], of_machine: Mapping[str, float]) -> None:
        self._processes = processes
        self._of_machine = of_machine

    def collect(self) -> Iterator[Metric]:
        merged: dict[tuple[str, ...], Figures] = {}
        for process in self._processes:
            for figures in process.series:
                known = merged.get(figures.labels)
                merged[figures.labels] = figures if known is None else _sum(known, figures)
        rows = [merged[labels] for labels in sorted(merged)]
        yield from _requests(rows)
        yield _histogram("ttft", "From a request's last byte to its answer's first.", rows)
        yield _histogram("whole", "From a request's last byte to its answer's.", rows)
        yield _histogram("per_token", "Between the tokens of an answer, per request.", rows)
        yield from self._of_processes()
        for name, value in self._of_machine.items():
            yield _gauge(f"modelport_{name}", machine.FIGURES[name], value)

    def _of_processes(self) -> Iterator[Metric]:
        yield _gauge(
            "modelport_gateway_processes",
            "Gateway processes on this machine.",
            len(self._processes),
        )
        for name, text in COUNTERS.items():
            total = sum(process.counters.get(name, 0) for process in self._processes)
            counter = CounterMetricFamily(f"modelport_gateway_{name}", text)
            counter.add_metric([], total)
            yield counter
        for name, text in GAUGES.items():
            values = [process.gauges.get(name, 0) for process in self._processes]
            joined = max(values, default=0) if name.endswith("_seconds") else sum(values)
            yield _gauge(f"modelport_gateway_{name}", text, joined)


COUNTERS = {
    "retries": "Attempts at another replica or another way of a route.",
    "limited": "Requests refused by a limit.",
    "journal_syncs": "Groups of usage records written to the disk.",
    "journal_sync_seconds": "Time spent on writing them.",
}
GAUGES = {
    "connections": "Connections of clients.",
    "open_requests": "Requests whose usage is not closed in the journal.",
    "waiting": "Requests that wait for their turn.",
    "open_breakers": "Replicas and providers that are left alone after failures.",
    "snapshot_age_seconds": "Since the tables were read in full.",
}
_NAMES = {
    "ttft": ("ttft_seconds", SECONDS),
    "whole": ("duration_seconds", SECONDS),
    "per_token": ("time_per_token_seconds", PER_TOKEN),
}


def _requests(rows: list[Figures]) -> Iterator[Metric]:
    requests = CounterMetricFamily(
        "modelport_gateway_requests", "Requests by status.", labels=[*LABELS, "status"]
    )
    in_flight = GaugeMetricFamily(
        "modelport_gateway_in_flight", "Requests under way.", labels=LABELS
    )
    tokens = CounterMetricFamily(
        "modelport_gateway_tokens",
        "Tokens by kind; cached are a part of prompt, reasoning a part of completion.",
        labels=[*LABELS, "kind"],
    )
    for row in rows:
        for status, count in sorted(row.statuses.items()):
            requests.add_metric([*row.labels, str(status)], count)
        in_flight.add_metric(row.labels, row.in_flight)
        for kind, count in zip(TOKENS, row.tokens, strict=True):
            tokens.add_metric([*row.labels, kind], count)
    yield from (requests, in_flight, tokens)


def _histogram(which: str, text: str, rows: list[Figures]) -> Metric:
    name, edges = _NAMES[which]
    metric = HistogramMetricFamily(f"modelport_gateway_{name}", text, labels=LABELS)
    for row in rows:
        total = 0
        buckets = []
        counts: list[int] = getattr(row, which)
        for edge, count in zip([*map(str, edges), "+Inf"], counts, strict=True):
            total += count
            buckets.append((edge, total))
        metric.add_metric(row.labels, buckets, getattr(row, f"{which}_sum"))
    return metric


def _gauge(name: str, text: str, value: float) -> Metric:
    gauge = GaugeMetricFamily(name, text)
    gauge.add_metric([], value)
    return gauge


def _sum(one: Figures, other: Figures) -> Figures:
    added: dict[str, Any] = {"labels": one.labels}
    for name in Figures.__struct_fields__[1:]:
        a, b = getattr(one, name), getattr(other, name)
        if isinstance(a, dict):
            added[name] = {key: a.get(key, 0) + b.get(key, 0) for key in a.keys() | b.keys()}
        elif isinstance(a, list):
            added[name] = [x + y for x, y in zip(a, b, strict=True)]
        else:
            added[name] = a + b
    return Figures(**added)
