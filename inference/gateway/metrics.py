"""What Prometheus may know of the gateway: counts and times per instance, never text.

On a request's way a series is plain arithmetic; names, buckets and text are made when somebody
asks. Each process answers on a Unix socket of its own in `run/gateway`, and `scrape` adds up those
of its machine.
"""

import asyncio
import os
from bisect import bisect_left
from collections.abc import Iterable
from pathlib import Path

import msgspec
from msgspec import field

from billing.usage_record import Usage

FOLDER = "gateway"  # in the run directory
SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
PER_TOKEN = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.033, 0.05, 0.1, 0.2, 0.5, 1.0)
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
decode = msgspec.msgpack.Decoder(Process).decode


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
