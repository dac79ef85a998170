"""Does this model fit on this hardware. PURE: numbers in, numbers out; words are the pages'.

Thin on purpose and on the safe side: sliding windows are counted as full attention, and the
overheads are round figures. What an engine says after its start will correct them.
"""

from enum import StrEnum

import msgspec

from inference.model_card import ModelCard, Shape

GIB = 1024**3

# vLLM's default for --gpu-memory-utilization, and our setting's.
GPU_SHARE = 0.9
# Per GPU, within that share: CUDA context, activations of one batch, captured graphs. vLLM prints
# 1 to 2 GiB for models of 1 to 70 B at its default batch of 8192 tokens.
GPU_OVERHEAD = 2 * GIB
# Resident size of vLLM's processes on a CPU, without weights and KV cache: 2.8 GB measured.
CPU_OVERHEAD = 3 * GIB
CPU_KV_SPACE = 1 * GIB  # our default for VLLM_CPU_KVCACHE_SPACE
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


class Fit(msgspec.Struct, frozen=True, kw_only=True):
    """The answer. Sizes in bytes over all GPUs used; lengths in tokens."""

    verdict: Verdict
    gpu_count: int = 0  # GPUs that share the model; 0: main memory
    weight_bytes: int = 0
    kv_bytes_per_token: int | None = None
    overhead_bytes: int = 0
    needed_bytes: int = 0  # weights, overhead and the KV cache of one request of `context` tokens
    available_bytes: int = 0
    context: int | None = None  # what was asked for, else the model's own
    max_context: int | None = None  # the longest of one request that there is room for
    sequences: int | None = None  # requests of full `context` at the same time

    @property
    def runs(self) -> bool:
        return self.verdict in {Verdict.FITS, Verdict.SHORTER}


def estimate(
    card: ModelCard, hardware: Hardware, context: int | None = None, dtype: str = "auto"
) -> Fit:
    """Whether the model runs on this machine: at full context if possible, on few GPUs."""
    weights = weight_bytes(card, dtype)
    if not weights:
        return Fit(verdict=Verdict.UNKNOWN)
    tokens = context or card.context_length
    if not hardware.is_gpu:
        return _on_cpu(card, hardware, weights, tokens, dtype)
    tries = [
        _on_gpus(card, hardware, weights, tokens, dtype, count)
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
    """KV cache of one token, over `split` GPUs.

    Two (key and value) × layers × KV heads × head size × bytes: Ainslie et al. 2023 (GQA,
    arXiv:2305.13245). KV heads are replicated where GPUs outnumber them (vLLM's
    `ModelConfig.get_num_kv_heads`). With latent attention one vector of kv_lora_rank +
    qk_rope_head_dim per layer, on every GPU (DeepSeek-V2, arXiv:2405.04434, section 2.1).
    """
    if shape.latent_dim:
        return shape.layers * shape.latent_dim * dtype_bytes * split
    heads = max(1, shape.kv_heads // split) * split
    return 2 * shape.layers * heads * shape.head_dim * dtype_bytes


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
    card: ModelCard, hardware: Hardware, weights: int, context: int | None, dtype: str
) -> Fit:
    """Main memory: the KV cache has a fixed space of its own, taken at the start."""
    needed = weights + hardware.kv_space_bytes + CPU_OVERHEAD
    per_token = _per_token(card, dtype, 1)
    room = hardware.kv_space_bytes if needed <= hardware.memory_bytes else -1
    return _judge(
        Fit(
            verdict=Verdict.UNKNOWN,
            weight_bytes=weights,
            kv_bytes_per_token=per_token,
            overhead_bytes=CPU_OVERHEAD,
            needed_bytes=needed,
            available_bytes=hardware.memory_bytes,
            context=context,
        ),
        room,
    )


def _on_gpus(
    card: ModelCard,
    hardware: Hardware,
    weights: int,
    context: int | None,
    dtype: str,
    count: int,
) -> Fit:
    """GPU memory: what weights and overhead leave of the engine's share is the KV cache."""
    # The weights are cut into equal parts, so the smallest GPU of those used sets the measure.
    used = sorted(hardware.gpu_memory_bytes, reverse=True)[:count]
    available = int(used[-1] * GPU_SHARE) * count
    overhead = GPU_OVERHEAD * count
    per_token = _per_token(card, dtype, count)
    return _judge(
        Fit(
            verdict=Verdict.UNKNOWN,
            gpu_count=count,
            weight_bytes=weights,
            kv_bytes_per_token=per_token,
            overhead_bytes=overhead,
            needed_bytes=weights + overhead + (per_token or 0) * (context or 0),
            available_bytes=available,
            context=context,
        ),
        available - weights - overhead,
    )


def _per_token(card: ModelCard, dtype: str, split: int) -> int | None:
    # The cache has the format of the activations: 16 bits, unless somebody asked for 32.
    width = DTYPE_BYTES.get(dtype, 2)
    return kv_bytes_per_token(card.shape, width, split) if card.shape else None


def _judge(fit: Fit, room: int) -> Fit:
    """The verdict, given the bytes that are left for the KV cache (negative: not even weights)."""
    if room < 0:
        return msgspec.structs.replace(fit, verdict=Verdict.TOO_BIG)
    if fit.kv_bytes_per_token is None or fit.context is None:
        return msgspec.structs.replace(fit, verdict=Verdict.FITS)
    longest = room // fit.kv_bytes_per_token
    if longest >= fit.context:
        verdict = Verdict.FITS
    else:
        verdict = Verdict.SHORTER if longest >= LEAST_CONTEXT else Verdict.TOO_BIG
    return msgspec.structs.replace(
        fit,
        verdict=verdict,
        max_context=min(longest, fit.context),
        sequences=longest // fit.context,
    )


def _max_context(fit: Fit) -> int:
    return fit.max_context or 0
