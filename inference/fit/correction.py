"""What past starts teach the next estimate. PURE.

An estimate's weak part is the overhead: activations, graphs and contexts differ by engine, model
and GPU. After a start the engine's own figures give it, and the median of the ratios is robust
against one odd start.
"""

from collections.abc import Sequence
from statistics import median

import msgspec

from inference.measured import Measured

LEAST, MOST = 0.25, 4.0  # beyond these a figure was misread, or something else held the memory


class Start(msgspec.Struct, frozen=True, kw_only=True):
    """One start, of a model's architecture and number format on a type of GPU. Bytes, one GPU."""

    available_bytes: int  # the engine's share of the GPU
    weight_bytes: int  # as estimated
    overhead_bytes: int  # as estimated before any correction
    measured: Measured


class Correction(msgspec.Struct, frozen=True):
    overhead: float = 1.0  # factor for the estimate
    weights: float = 1.0
    starts: int = 0  # how many it is based on

    def overhead_bytes(self, estimated: int) -> int:
        return round(estimated * self.overhead)

    def weight_bytes(self, estimated: int) -> int:
        return round(estimated * self.weights)


def learn(starts: Sequence[Start]) -> Correction:
    """The correction for the next estimate of the same kind; none without usable starts."""
    overheads = [ratio for start in starts if (ratio := _overhead_ratio(start)) is not None]
    weights = [ratio for start in starts if (ratio := _weight_ratio(start)) is not None]
    return Correction(
        overhead=median(overheads) if overheads else 1.0,
        weights=median(weights) if weights else 1.0,
        starts=max(len(overheads), len(weights)),
    )


def _overhead_ratio(start: Start) -> float | None:
    """What neither weights nor KV cache took of the engine's share, to what was estimated."""
    said = start.measured
    if said.weight_bytes is None or said.kv_cache_bytes is None or start.overhead_bytes <= 0:
        return None
    taken = start.available_bytes - said.weight_bytes - said.kv_cache_bytes
    return _credible(taken / start.overhead_bytes)


def _weight_ratio(start: Start) -> float | None:
    if not start.measured.weight_bytes or start.weight_bytes <= 0:
        return None
    return _credible(start.measured.weight_bytes / start.weight_bytes)


def _credible(ratio: float) -> float | None:
    return ratio if LEAST <= ratio <= MOST else None
