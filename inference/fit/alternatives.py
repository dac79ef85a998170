"""What to choose instead where a model does not fit, or not with its whole context. PURE."""

import msgspec
from msgspec.structs import replace

from inference.fit import Fit, Hardware, Verdict, Wish, estimate
from inference.fit.correction import Correction
from inference.fit.memory import EIGHT_BITS
from inference.model_card import ModelCard


class Alternatives(msgspec.Struct, frozen=True, kw_only=True):
    """Changes of which each alone lets the whole context fit; where nothing fits yet, lets the
    model run at all. None, False: that would not help."""

    gpu_count: int | None = None
    fp8_weights: bool = False
    fp8_cache: bool = False

    def __bool__(self) -> bool:
        return bool(self.gpu_count or self.fp8_weights or self.fp8_cache)


def alternatives(
    card: ModelCard,
    hardware: Hardware,
    wish: Wish,
    correction: Correction,
    fit: Fit,
    draft: ModelCard | None = None,
) -> Alternatives:
    """For this answer of `estimate`. Without GPUs there is nothing to choose."""
    if fit.verdict in {Verdict.FITS, Verdict.UNKNOWN} or not fit.gpu_count:
        return Alternatives()

    def with_change(**change: object) -> Fit | None:
        other = estimate(card, hardware, replace(wish, **change), correction, draft)
        helps = other.runs if fit.verdict is not Verdict.SHORTER else other.verdict is Verdict.FITS
        return other if helps else None

    other_count = with_change(gpu_count=None, tensor=None) if wish.gpu_count else None
    same = {"gpu_count": fit.gpu_count}  # a change of format must do without more GPUs
    if fit.verdict in {Verdict.TOO_FEW, Verdict.UNEVEN}:
        return Alternatives(gpu_count=other_count.gpu_count if other_count else None)
    plain = not card.quantization and wish.quantization not in EIGHT_BITS
    return Alternatives(
        gpu_count=other_count.gpu_count if other_count else None,
        fp8_weights=plain and with_change(**same, quantization="fp8") is not None,
        fp8_cache=not wish.kv_dtype.startswith("fp8")
        and with_change(**same, kv_dtype="fp8") is not None,
    )
