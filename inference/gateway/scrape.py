"""The text that Prometheus reads: what all gateway processes of this machine tell, added up.

Apart from `metrics`, so that no gateway holds the library that writes the text.
"""

import asyncio
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from inference.gateway import machine
from inference.gateway.metrics import FOLDER, PER_TOKEN, SECONDS, TOKENS, Figures, Process, decode
from portal.lib.env import Environment

TIMEOUT = 2.0  # seconds for one process to answer
# Not "instance": Prometheus gives that label to what it scrapes, and ours would lose its name.
LABELS = ("organization_id", "instance_id", "model", "endpoint")


async def ask_all(folder: Path) -> list[Process]:
    """What the gateway processes of this machine tell. One that is gone is passed over."""
    paths = await asyncio.to_thread(lambda: sorted(folder.glob("*.sock")))
    told = await asyncio.gather(*map(_ask, paths))
    return [each for each in told if each is not None]


async def _ask(path: Path) -> Process | None:
    try:
        async with asyncio.timeout(TIMEOUT):
            reader, writer = await asyncio.open_unix_connection(str(path))
            try:
                return decode(await reader.read(-1))
            finally:
                writer.close()
    except ConnectionRefusedError:
        await asyncio.to_thread(path.unlink, missing_ok=True)  # of one that was killed
    except (OSError, TimeoutError, msgspec.MsgspecError):
        pass
    return None


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
    "waiting": "Requests that wait for their turn, or for an instance to wake.",
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
