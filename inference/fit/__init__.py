"""Does this model fit on this hardware. PURE: numbers in, numbers out; words are the pages'.

On the safe side: overheads are round figures until starts on the same hardware have corrected them
(`inference.fit.correction`).
"""

from enum import StrEnum

import msgspec

from inference.model_card import ModelCard
from inference.model_shape import Shape

GIB = 1024**3

# vLLM's default for --gpu-memory-utilization, and our setting's.
GPU_SHARE = 0.9
# Per GPU, within that share: CUDA context, activations of one batch, captured graphs. vLLM prints
# 1 to 2 GiB for models of 1 to 70 B at its default batch of 8192 tokens.
GPU_OVERHEAD = 2 * GIB
# Resident size of vLLM's processes on a CPU, without weights and KV cache: 2.8 GB measured.
CPU_OVERHEAD = 3 * GIB
CPU_KV_SPACE = 1 * GIB  # our default for VLLM_CPU_KVCACHE_SPACE
# A layer with a sliding window also holds the batch in flight: vLLM's SlidingWindowSpec
# (v1/kv_cache_interface.py), with the largest default of max_num_batched_tokens.
BATCH = 8192  # tokens
STATE_BYTES = 4  # a recurrent layer's state is kept in float32 by some, so by all here
USUAL_CONTEXTS = (4096, 8192, 32_768, 131_072)  # tokens, for "so many users"
LEAST_CONTEXT = 512  # tokens; below that a model "fits" only by name

DTYPE_BYTES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "half": 2}


class Verdict(StrEnum):
    FITS = "fits"
    SHORTER = "shorter"  # fits, with a shorter context than was asked for
    TOO_BIG = "too_big"
    UNKNOWN = "unknown"  # the model does not say enough of itself


class Hardware(msgspec.Struct, frozen=True, kw_only=True):
    """One machine. Without GPUs, engines use its main memory. Sizes in bytes."""

    memory_bytes: int
    gpu_memory_bytes: tuple[int, ...] = ()  # one per GPU
    kv_space_bytes: int = CPU_KV_SPACE  # set aside for the KV cache where there is no GPU

    @property
    def is_gpu(self) -> bool:
        return bool(self.gpu_memory_bytes)


class Users(msgspec.Struct, frozen=True):
    """So many at the same time, each with a conversation of `context` tokens."""

    context: int
    count: int


class Fit(msgspec.Struct, frozen=True, kw_only=True):
    """The answer. Sizes in bytes over all GPUs used; lengths in tokens."""

    verdict: Verdict
    gpu_count: int = 0  # GPUs that share the model; 0: main memory
    weight_bytes: int = 0
    kv_bytes_per_token: int | None = None
    overhead_bytes: int = 0
    kv_room_bytes: int = 0  # what weights and overhead leave for the KV cache
    needed_bytes: int = 0  # weights, overhead and the KV cache of one request of `context` tokens
    available_bytes: int = 0
    context: int | None = None  # what was asked for, else the model's own
    max_context: int | None = None  # the longest of one request that there is room for
    sequences: int | None = None  # requests of full `context` at the same time
    users: tuple[Users, ...] = ()  # as `sequences`, for usual lengths up to `context`

    @property
    def runs(self) -> bool:
        return self.verdict in {Verdict.FITS, Verdict.SHORTER}

    @property
    def missing_bytes(self) -> int:
        """How much more memory the whole context would take; 0 where it fits."""
        return max(0, self.needed_bytes - self.available_bytes)


def estimate(
    card: ModelCard,
    hardware: Hardware,
    context: int | None = None,
    dtype: str = "auto",
    kv_dtype: str = "auto",
    draft: ModelCard | None = None,
) -> Fit:
    """Whether the model runs on this machine: at full context if possible, on few GPUs.

    The weights of a `draft` model lie beside its own.

    `kv_dtype` is vLLM's `--kv-cache-dtype`: "auto" follows the activations, "fp8" halves it.
    """
    weights = weight_bytes(card, dtype)
    if not weights:
        return Fit(verdict=Verdict.UNKNOWN)
    weights += weight_bytes(draft, dtype) if draft else 0
    tokens = context or card.context_length
    if not hardware.is_gpu:
        return _on_cpu(card, hardware, weights, tokens, _kv_width(dtype, kv_dtype))
    tries = [
        _on_gpus(card, hardware, weights, tokens, _kv_width(dtype, kv_dtype), count)
        for count in range(1, len(hardware.gpu_memory_bytes) + 1)
        if splits(card.shape, count)
    ]
    for verdict in (Verdict.FITS, Verdict.SHORTER):
        found = [fit for fit in tries if fit.verdict is verdict]
        if found:
            # The fewest GPUs for the whole context; for less than that, whichever gives the most.
            return found[0] if verdict is Verdict.FITS else max(found, key=_max_context)
    return tries[-1]


def weight_bytes(card: ModelCard, dtype: str = "auto") -> int:
    """Bytes of the weights in memory: parameters × bytes of the format that the engine casts to.

    Quantized weights are held as the files hold them. With `auto`, vLLM casts float32 to 16 bits
    (ModelConfig, `_resolve_auto_dtype`).
    """
    if card.quantization or not card.parameters:
        return card.weight_bytes
    return card.parameters * _dtype_bytes(card, dtype)


def kv_bytes_per_token(shape: Shape, dtype_bytes: int = 2, split: int = 1) -> int:
    """KV cache of one token more, over `split` GPUs, once all windows are full."""
    return shape.full_layers * _layer_bytes(shape, dtype_bytes, split)


def kv_bytes(shape: Shape, tokens: int, dtype_bytes: int = 2, split: int = 1) -> int:
    """KV cache and states of one request of so many tokens, over `split` GPUs."""
    windowed = min(tokens, shape.window + BATCH)
    kept = shape.full_layers * tokens + shape.window_layers * windowed
    return kept * _layer_bytes(shape, dtype_bytes, split) + shape.state_numbers * STATE_BYTES


def longest(shape: Shape, room: int, limit: int, dtype_bytes: int = 2, split: int = 1) -> int:
    """The most tokens of one request, up to `limit`, whose KV cache there is room for."""
    low, high = 0, limit
    while low < high:
        middle = (low + high + 1) // 2
        if kv_bytes(shape, middle, dtype_bytes, split) <= room:
            low = middle
        else:
            high = middle - 1
    return low


def _layer_bytes(shape: Shape, dtype_bytes: int, split: int) -> int:
    """One token in one layer of attention, over `split` GPUs.

    Two (key and value) × KV heads × head size × bytes: Ainslie et al. 2023 (GQA,
    arXiv:2305.13245). KV heads are replicated where GPUs outnumber them (vLLM's
    `ModelConfig.get_num_kv_heads`). With latent attention one vector of kv_lora_rank +
    qk_rope_head_dim, on every GPU (DeepSeek-V2, arXiv:2405.04434, section 2.1).
    """
    if shape.latent_dim:
        return shape.latent_dim * dtype_bytes * split
    heads = max(1, shape.kv_heads // split) * split
    return 2 * heads * shape.head_dim * dtype_bytes


def splits(shape: Shape | None, count: int) -> bool:
    """Whether tensor parallelism over `count` GPUs divides the heads, as vLLM's layers demand."""
    if count == 1:
        return True
    if shape is None or shape.heads % count:
        return False
    few, many = sorted((shape.kv_heads, count))
    return bool(shape.latent_dim) or many % few == 0


def _dtype_bytes(card: ModelCard, dtype: str) -> int:
    if dtype != "auto":
        return DTYPE_BYTES.get(dtype, 2)
    return 1 if card.dtype.startswith("float8") else 2


def _on_cpu(
    card: ModelCard, hardware: Hardware, weights: int, context: int | None, width: int
) -> Fit:
    """Main memory: the KV cache has a fixed space of its own, taken at the start."""
    needed = weights + hardware.kv_space_bytes + CPU_OVERHEAD
    room = hardware.kv_space_bytes if needed <= hardware.memory_bytes else -1
    fit = Fit(
        verdict=Verdict.UNKNOWN,
        weight_bytes=weights,
        kv_bytes_per_token=kv_bytes_per_token(card.shape, width) if card.shape else None,
        overhead_bytes=CPU_OVERHEAD,
        needed_bytes=needed,
        available_bytes=hardware.memory_bytes,
        context=context,
    )
    return _judge(fit, card.shape, room, width)


def _on_gpus(
    card: ModelCard,
    hardware: Hardware,
    weights: int,
    context: int | None,
    width: int,
    count: int,
) -> Fit:
    """GPU memory: what weights and overhead leave of the engine's share is the KV cache."""
    # The weights are cut into equal parts, so the smallest GPU of those used sets the measure.
    used = sorted(hardware.gpu_memory_bytes, reverse=True)[:count]
    available = int(used[-1] * GPU_SHARE) * count
    overhead = GPU_OVERHEAD * count
    shape = card.shape
    request = kv_bytes(shape, context, width, count) if shape and context else 0
    fit = Fit(
        verdict=Verdict.UNKNOWN,
        gpu_count=count,
        weight_bytes=weights,
        kv_bytes_per_token=kv_bytes_per_token(shape, width, count) if shape else None,
        overhead_bytes=overhead,
        needed_bytes=weights + overhead + request,
        available_bytes=available,
        context=context,
    )
    return _judge(fit, shape, available - weights - overhead, width)


def _kv_width(dtype: str, kv_dtype: str) -> int:
    """Bytes of a number in the cache: those of the activations, unless somebody asked for 8 bits.

    Activations have 16 bits, unless somebody asked for 32.
    """
    return 1 if kv_dtype.startswith("fp8") else DTYPE_BYTES.get(dtype, 2)


def _judge(fit: Fit, shape: Shape | None, room: int, width: int) -> Fit:
    """The verdict, given the bytes that are left for the KV cache (negative: not even weights)."""
    if room < 0:
        return msgspec.structs.replace(fit, verdict=Verdict.TOO_BIG)
    if shape is None or fit.context is None:
        return msgspec.structs.replace(fit, verdict=Verdict.FITS, kv_room_bytes=room)
    split = max(1, fit.gpu_count)
    most = longest(shape, room, fit.context, width, split)
    verdict = Verdict.SHORTER if most >= LEAST_CONTEXT else Verdict.TOO_BIG

    def at_once(tokens: int) -> int:
        return room // max(1, kv_bytes(shape, tokens, width, split))

    return msgspec.structs.replace(
        fit,
        verdict=Verdict.FITS if most == fit.context else verdict,
        kv_room_bytes=room,
        max_context=most,
        sequences=at_once(fit.context),
        users=tuple(Users(n, at_once(n)) for n in USUAL_CONTEXTS if n <= most),
    )


def _max_context(fit: Fit) -> int:
    return fit.max_context or 0
