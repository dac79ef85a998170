"""What a serving engine says of itself, and what it takes of the machine.

The engine's adapter names the metrics; only their lines are parsed, since an engine prints
hundreds that nobody here reads.
"""

import csv
import shutil
import subprocess
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import psutil
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from inference.node.hardware import MIB
from inference.node.processes import Identity
from inference.provisioners.base import Figures, GpuFigures, Histogram

LOOK_EVERY = 15.0  # seconds between two questions to the driver or about processes
COUNTERS = (
    *("prompt_tokens", "completion_tokens", "requests", "preemptions"),
    *("prefix_queries", "prefix_hits"),
)
Names = Mapping[str, str | tuple[str, ...]]  # our name → the engine's, or those to add up
_GAUGES = ("running", "waiting")
_HISTOGRAMS = ("ttft", "itl", "e2e", "queue_time")


@dataclass(frozen=True)
class Load:
    """What the replica's processes and GPUs take."""

    gpus: list[GpuFigures] = field(default_factory=list)
    cpu_seconds: float | None = None
    memory_bytes: int | None = None


def parse(text: str, names: Names, process: str, load: Load) -> Figures:
    """The figures in an engine's Prometheus text; what is not there stays unsaid."""
    theirs = {ours: (said,) if isinstance(said, str) else said for ours, said in names.items()}
    samples = _samples(text, [name for said in theirs.values() for name in said])
    read: dict[str, Any] = {}
    for ours in (*COUNTERS, *_GAUGES):
        if values := [s for name in theirs.get(ours, ()) for s in samples.get(name, [])]:
            read[ours] = int(sum(sample.value for sample in values))
    for name in theirs.get("kv_cache_usage", ()):
        if usage := samples.get(name, []):
            read["kv_cache_usage"] = max(sample.value for sample in usage)
    for ours in _HISTOGRAMS:
        for name in theirs.get(ours, ()):
            read[ours] = _histogram(samples, name)
    return Figures(
        process=process,
        gpus=load.gpus,
        cpu_seconds=load.cpu_seconds,
        memory_bytes=load.memory_bytes,
        **read,
    )


def _samples(text: str, wanted: Iterable[str]) -> dict[str, list[Sample]]:
    """Samples by their name. Without the lines of types each is a family of its own."""
    beginnings = tuple(wanted)
    lines = [line for line in text.splitlines() if line.startswith(beginnings)]
    found: dict[str, list[Sample]] = {}
    for family in text_string_to_metric_families("\n".join([*lines, ""])):
        for sample in family.samples:
            found.setdefault(sample.name, []).append(sample)
    return found


def _histogram(samples: Mapping[str, list[Sample]], name: str) -> Histogram | None:
    """Prometheus counts each bucket with all below it; ours counts each alone."""
    upto: dict[float, float] = {}
    for sample in samples.get(f"{name}_bucket", []):
        bound = float(sample.labels["le"])
        upto[bound] = upto.get(bound, 0.0) + sample.value  # of all the engine's own parts
    if not upto:
        return None
    bounds, counts, before = sorted(upto), [], 0.0
    for bound in bounds:
        counts.append(int(upto[bound] - before))
        before = upto[bound]
    total = sum(sample.value for sample in samples.get(f"{name}_sum", []))
    return Histogram(bounds[:-1], counts, total)  # the last bound is infinity


def idle_since(
    before: Figures | None, now: Figures, since: datetime | None, at: datetime
) -> datetime | None:
    """Since when it has had nothing to do; `since` is what was known at the look before."""
    if now.running or now.waiting:
        return None
    return since if since and before and not moved(before, now) else at


def moved(before: Figures, now: Figures) -> bool:
    """Whether it has computed between two looks, or is another process."""
    if before.process != now.process:
        return True
    return any(getattr(before, name) != getattr(now, name) for name in COUNTERS)


class LoadWatch:
    """Asks at most every so often: the driver's tool takes a while to answer."""

    def __init__(self) -> None:
        self.looked_at = 0.0
        self.last = Load()

    def look(self, process: Identity | None, gpu_indices: list[int]) -> Load:
        if time.monotonic() - self.looked_at >= LOOK_EVERY:
            self.looked_at = time.monotonic()
            gpus = gpu_figures(gpu_indices) if gpu_indices else []
            self.last = Load(gpus, *_taken_by(process))
        return self.last


def gpu_figures(indices: list[int]) -> list[GpuFigures]:
    """As the driver's own tool says; none where it does not answer."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    fields = "--query-gpu=index,memory.used,memory.total,utilization.gpu"
    which = f"--id={','.join(map(str, indices))}"
    command = [tool, which, fields, "--format=csv,noheader,nounits"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return parse_gpu_figures(said.stdout) if said.returncode == 0 else []


def parse_gpu_figures(text: str) -> list[GpuFigures]:
    """`index, MiB used, MiB in all, percent` per line; a GPU that does not say (in MIG mode the
    utilization is `[N/A]`) is left out."""
    found = []
    for row in csv.reader(text.splitlines(), skipinitialspace=True):
        if len(row) == 4 and all(value.isdecimal() for value in row):
            index, used, total, percent = map(int, row)
            found.append(GpuFigures(index, used * MIB, total * MIB, percent / 100))
    return found


def _taken_by(process: Identity | None) -> tuple[float | None, int | None]:
    """Processor seconds and resident bytes of it and all its children."""
    if process is None or not process.alive():
        return None, None
    seconds, resident = 0.0, 0
    try:
        first = psutil.Process(process.pid)
        for one in [first, *first.children(recursive=True)]:
            with one.oneshot():
                times = one.cpu_times()
                seconds += times.user + times.system
                resident += one.memory_info().rss
    except psutil.Error:  # one of them has just ended: the next look has the rest
        return None, None
    return seconds, resident
