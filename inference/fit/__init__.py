"""Does this model fit on this hardware. PURE: numbers in, numbers out; words are the pages'.

On the safe side: overheads are round figures until starts on the same hardware have corrected them
(`inference.fit.correction`).
"""

from enum import StrEnum

import msgspec

from inference.fit.correction import Correction
from inference.fit.memory import (
    DTYPE_BYTES,
    GIB,
    kv_bytes,
    kv_bytes_per_token,
    kv_width,
    longest,
    splits,
    weight_bytes,
)
from inference.fit.wish import CPU_KV_SPACE, GPU_SHARE, Layout, Wish
from inference.model_card import ModelCard
from inference.model_shape import Shape

# Per GPU, within the engine's share: CUDA context, activations of one batch, captured graphs. A
# round figure that no start of ours has confirmed yet. NVIDIA's aiconfigurator reckons with 3.5 GB
# of the whole GPU, the tenth outside the share included (ai-dynamo/aiconfigurator,
# src/aiconfigurator/systems/l40s.yaml, other_mem).
GPU_OVERHEAD = 2 * GIB
# Resident size of vLLM's processes on a CPU, without weights and KV cache: 2.8 GB measured.
CPU_OVERHEAD = 3 * GIB
# llama.cpp, which alone loads GGUF files, is smaller, and computes few requests side by side: these
# where a context length is set, else one (inference.engines.llama_cpp).
GGUF_CPU_OVERHEAD = GIB // 2
GGUF_AT_A_TIME = 4
USUAL_CONTEXTS = (4096, 8192, 32_768, 131_072)  # tokens, for "so many users"
CHAT = 8192  # tokens: of the usual lengths, that of a long chat
LEAST_CONTEXT = 512  # tokens; below that a model "fits" only by name


class Verdict(StrEnum):
    FITS = "fits"
    SHORTER = "shorter"  # fits, with a shorter context than was asked for
    TOO_BIG = "too_big"
    TOO_FEW = "too_few"  # more GPUs are asked for than there are
    UNEVEN = "uneven"  # so many GPUs cannot share the model's heads
    UNKNOWN = "unknown"  # the model does not say enough of itself


class Hardware(msgspec.Struct, frozen=True, kw_only=True):
    """One machine. Without GPUs, engines use its main memory. Sizes in bytes."""

    memory_bytes: int
    gpu_memory_bytes: tuple[int, ...] = ()  # one per GPU

    @property
    def is_gpu(self) -> bool:
        return bool(self.gpu_memory_bytes)


class Users(msgspec.Struct, frozen=True):
    """So many at the same time, each with a conversation of `context` tokens."""

    context: int
    count: int
    kv_bytes: int  # what one of them takes


class Fit(msgspec.Struct, frozen=True, kw_only=True):
    """The answer. Sizes in bytes over all GPUs used; lengths in tokens."""

    verdict: Verdict
    gpu_count: int = 0  # GPUs that share the model and its copies; 0: main memory
    memory_bytes: int = 0  # all that these GPUs, or the machine, have
    available_bytes: int = 0  # what of it an engine may take
    weight_bytes: int = 0
    kv_bytes_per_token: int | None = None
    overhead_bytes: int = 0
    kv_room_bytes: int = 0  # for the KV cache
    needed_bytes: int = 0  # weights, overhead and the KV cache of one request of `context` tokens
    request_bytes: int | None = None  # the KV cache of that request
    context: int | None = None  # what was asked for, else the model's own
    max_context: int | None = None  # the longest of one request that there is room for
    concurrency: float | None = None  # requests of full `context` that there is room for
    sequences: int | None = None  # of these, those that are computed at the same time
    users: tuple[Users, ...] = ()  # as `sequences`, for usual lengths up to `context`
    starts: int = 0  # how many measured starts have corrected it

    @property
    def runs(self) -> bool:
        return self.verdict in {Verdict.FITS, Verdict.SHORTER}

    @property
    def missing_bytes(self) -> int:
        """How much more memory the whole context would take; 0 where it fits."""
        return max(0, self.needed_bytes - self.available_bytes)

    @property
    def spare_bytes(self) -> int:
        """What the engine leaves to others."""
        taken = self.weight_bytes + self.overhead_bytes + self.kv_room_bytes
        return max(0, self.memory_bytes - taken)

    @property
    def least_bytes(self) -> int:
        """What it takes to run at all: with the longest context there is room for, if any."""
        if self.verdict is Verdict.FITS or not self.gpu_count:
            return self.needed_bytes
        shortest = (self.max_context or 0) * (self.kv_bytes_per_token or 0)
        return self.weight_bytes + self.overhead_bytes + shortest

    @property
    def kv_tokens(self) -> int | None:
        """Tokens of conversations that there is room for, reckoned as vLLM does: by requests of
        the whole context."""
        if self.concurrency is None or self.context is None:
            return None
        return int(self.concurrency * self.context)

    @property
    def chat(self) -> Users | None:
        """Those with a long chat each; where the whole context is shorter, with that."""
        if self.verdict is Verdict.FITS and self.context and self.context <= CHAT:
            return Users(self.context, self.sequences or 0, self.request_bytes or 0)
        return next((users for users in reversed(self.users) if users.context <= CHAT), None)


def estimate(
    card: ModelCard,
    hardware: Hardware,
    wish: Wish | None = None,
    correction: Correction | None = None,
    draft: ModelCard | None = None,
) -> Fit:
    """Whether the model runs on this machine: at full context if possible, on few GPUs.

    The weights of a `draft` model lie beside its own.
    """
    wish, correction = wish or Wish(), correction or Correction()
    weights = correction.weight_bytes(weight_bytes(card, wish.dtype, wish.quantization))
    if not weights:
        return Fit(verdict=Verdict.UNKNOWN)
    if card.weights_format == "gguf" and wish.at_a_time is None:
        at_a_time = GGUF_AT_A_TIME if wish.context else 1
        wish = msgspec.structs.replace(wish, at_a_time=at_a_time)
    weights += weight_bytes(draft, wish.dtype) if draft else 0
    if wish.gpu_count == 0 or not hardware.is_gpu:
        return _on_cpu(card, hardware, weights, wish, correction)
    most = len(hardware.gpu_memory_bytes)
    if wish.gpu_count and wish.gpu_count > most:
        return Fit(verdict=Verdict.TOO_FEW, gpu_count=wish.gpu_count, weight_bytes=weights)
    tries = [
        _on_gpus(card, hardware, weights, wish, correction, layout)
        for count in ([wish.gpu_count] if wish.gpu_count else range(1, most + 1))
        if (layout := wish.layout(count)) and splits(card.shape, layout.tensor)
    ]
    if not tries:
        return Fit(verdict=Verdict.UNEVEN, gpu_count=wish.gpu_count or most, weight_bytes=weights)
    for verdict in (Verdict.FITS, Verdict.SHORTER):
        found = [fit for fit in tries if fit.verdict is verdict]
        if found:
            # The fewest GPUs for the whole context; for less than that, whichever gives the most.
            return found[0] if verdict is Verdict.FITS else max(found, key=_max_context)
    return tries[-1]


def _on_cpu(
    card: ModelCard, hardware: Hardware, weights: int, wish: Wish, correction: Correction
) -> Fit:
    """Main memory: the KV cache has a fixed space of its own, taken at the start."""
    overhead = GGUF_CPU_OVERHEAD if card.weights_format == "gguf" else CPU_OVERHEAD
    needed = weights + wish.kv_space_bytes + overhead
    fit = Fit(
        verdict=Verdict.UNKNOWN,
        memory_bytes=hardware.memory_bytes,
        available_bytes=hardware.memory_bytes,
        weight_bytes=weights,
        overhead_bytes=overhead,
        needed_bytes=needed,
        context=wish.context or card.context_length,
    )
    room = wish.kv_space_bytes if needed <= hardware.memory_bytes else -1
    return _judge(fit, card.shape, room, wish, correction, Layout(), wish.step(None))


def _on_gpus(
    card: ModelCard,
    hardware: Hardware,
    weights: int,
    wish: Wish,
    correction: Correction,
    layout: Layout,
) -> Fit:
    """GPU memory: what weights and overhead leave of the engine's share is the KV cache."""
    # The weights are cut into equal parts, so the smallest GPU of those used sets the measure.
    count = layout.per_copy * layout.copies
    smallest = sorted(hardware.gpu_memory_bytes, reverse=True)[count - 1]
    available = int(smallest * wish.gpu_share) * layout.per_copy
    overhead = correction.overhead_bytes(GPU_OVERHEAD) * layout.per_copy
    fit = Fit(
        verdict=Verdict.UNKNOWN,
        gpu_count=count,
        memory_bytes=smallest * layout.per_copy,
        available_bytes=available,
        weight_bytes=weights,
        overhead_bytes=overhead,
        needed_bytes=weights + overhead,
        context=wish.context or card.context_length,
    )
    room = available - weights - overhead
    return _judge(fit, card.shape, room, wish, correction, layout, wish.step(smallest))


def _judge(
    fit: Fit,
    shape: Shape | None,
    room: int,
    wish: Wish,
    correction: Correction,
    layout: Layout,
    step: tuple[int, int],
) -> Fit:
    """The verdict, given the bytes that are left for the KV cache of one copy (negative: not even
    weights), and the tokens and requests of one step."""
    fit = _all_copies(fit, max(0, room), layout.copies)
    fit = msgspec.structs.replace(fit, starts=correction.starts)
    context = fit.context
    if shape is None or context is None:
        verdict = Verdict.FITS if room >= 0 else Verdict.TOO_BIG
        return msgspec.structs.replace(fit, verdict=verdict)
    width = kv_width(wish.dtype, wish.kv_dtype)
    # A step for each group of layers, and one that is scheduled while they run (vLLM's
    # max_concurrent_batches).
    in_flight = (layout.pipeline + 1) * step[0]
    # In bytes as reckoned from the architecture: of these the room holds more or fewer.
    room_reckoned = correction.reckoned(max(0, room))

    def reckoned(tokens: int) -> int:
        return max(1, kv_bytes(shape, tokens, width, layout.tensor, in_flight))

    def at_once(tokens: int) -> int:
        return min(room_reckoned // reckoned(tokens), step[1]) * layout.copies

    request = correction.kv_bytes(reckoned(context))
    fit = msgspec.structs.replace(
        fit,
        kv_bytes_per_token=correction.kv_bytes(kv_bytes_per_token(shape, width, layout.tensor)),
        request_bytes=request,
        # On a CPU the space for the KV cache is among what is needed already.
        needed_bytes=fit.needed_bytes + (request if fit.gpu_count else 0),
    )
    if room < 0:
        return msgspec.structs.replace(fit, verdict=Verdict.TOO_BIG)
    most = longest(shape, room_reckoned, context, width, layout.tensor, in_flight)
    verdict = Verdict.SHORTER if most >= LEAST_CONTEXT else Verdict.TOO_BIG
    return msgspec.structs.replace(
        fit,
        verdict=Verdict.FITS if most == context else verdict,
        max_context=most,
        concurrency=room_reckoned / reckoned(context) * layout.copies,
        sequences=at_once(context),
        users=tuple(
            Users(n, at_once(n), correction.kv_bytes(reckoned(n)))
            for n in USUAL_CONTEXTS
            if n <= most
        ),
    )


def _all_copies(fit: Fit, room: int, copies: int) -> Fit:
    """The same for all copies of the model, from what one of them takes."""
    return msgspec.structs.replace(
        fit,
        memory_bytes=fit.memory_bytes * copies,
        available_bytes=fit.available_bytes * copies,
        weight_bytes=fit.weight_bytes * copies,
        overhead_bytes=fit.overhead_bytes * copies,
        needed_bytes=fit.needed_bytes * copies,
        kv_room_bytes=room * copies,
    )


def _max_context(fit: Fit) -> int:
    return fit.max_context or 0


__all__ = [
    "CPU_KV_SPACE",
    "CPU_OVERHEAD",
    "DTYPE_BYTES",
    "GIB",
    "GPU_OVERHEAD",
    "GPU_SHARE",
    "Fit",
    "Hardware",
    "Users",
    "Verdict",
    "Wish",
    "estimate",
    "kv_bytes",
    "kv_bytes_per_token",
    "longest",
    "splits",
    "weight_bytes",
]
