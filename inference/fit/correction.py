"""What past starts teach the next estimate. PURE.

An estimate's weak part is the overhead: activations, graphs and contexts differ by engine, model
and GPU. Weights and KV cache follow from the architecture, but for what an engine pads or keeps in
another format. After a start the engine's own figures give all three, and the median of the ratios
is robust against one odd start.
"""

from collections.abc import Sequence
from statistics import median

import msgspec

from inference.measured import Measured

LEAST, MOST = 0.25, 4.0  # beyond these a figure was misread, or something else held the memory


class Start(msgspec.Struct, frozen=True, kw_only=True):
    """One start, of a model's architecture on a type of GPU. Bytes of one GPU, as estimated before
    any correction."""

    available_bytes: int  # the engine's share of the GPU; 0: it ran in main memory
    weight_bytes: int
    overhead_bytes: int
    request_bytes: int | None = None  # the KV cache of one request of the context that was served
    number_format: str = ""  # of the weights: a factor for one format says nothing of another
    measured: Measured


class Correction(msgspec.Struct, frozen=True):
    """Factors for the estimate."""

    overhead: float = 1.0
    weights: float = 1.0
    kv: float = 1.0
    starts: int = 0  # how many it is based on

    def overhead_bytes(self, estimated: int) -> int:
        return round(estimated * self.overhead)

    def weight_bytes(self, estimated: int) -> int:
        return round(estimated * self.weights)

    def kv_bytes(self, reckoned: int) -> int:
        """What a KV cache really takes that was reckoned to take so much."""
        return round(reckoned * self.kv)

    def reckoned(self, kv_bytes: int) -> int:
        """The KV cache for which there is really room in so many bytes, as it is reckoned."""
        return int(kv_bytes / self.kv)


def learn(starts: Sequence[Start], number_format: str = "") -> Correction:
    """The correction for the next estimate of the same kind; none without usable starts."""
    same = [start for start in starts if start.number_format == number_format]
    overheads, weights, kvs = (
        [ratio for start in chosen if (ratio := ratio_of(start)) is not None]
        for ratio_of, chosen in (
            (_overhead_ratio, starts),
            (_weight_ratio, same),
            (_kv_ratio, starts),
        )
    )
    return Correction(
        overhead=median(overheads) if overheads else 1.0,
        weights=median(weights) if weights else 1.0,
        kv=median(kvs) if kvs else 1.0,
        starts=max(len(overheads), len(weights), len(kvs)),
    )


def _overhead_ratio(start: Start) -> float | None:
    """What neither weights nor KV cache took of the engine's share, to what was estimated."""
    said = start.measured
    if said.weight_bytes is None or said.kv_cache_bytes is None:
        return None
    if start.overhead_bytes <= 0 or start.available_bytes <= 0:
        return None
    taken = start.available_bytes - said.weight_bytes - said.kv_cache_bytes
    return _credible(taken / start.overhead_bytes)


def _weight_ratio(start: Start) -> float | None:
    if not start.measured.weight_bytes or start.weight_bytes <= 0:
        return None
    return _credible(start.measured.weight_bytes / start.weight_bytes)


def _kv_ratio(start: Start) -> float | None:
    """What one request of full context takes of the engine's KV cache, to what was estimated."""
    said = start.measured
    if not start.request_bytes or not said.kv_cache_bytes or not said.max_concurrency:
        return None
    return _credible(said.kv_cache_bytes / said.max_concurrency / start.request_bytes)


def _credible(ratio: float) -> float | None:
    return ratio if LEAST <= ratio <= MOST else None
