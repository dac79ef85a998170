"""What of an instance's settings decides its memory. PURE.

The names are vLLM's, which other engines' settings share where they mean the same.
"""

from collections.abc import Mapping
from typing import Self

import msgspec

from inference.fit.memory import GIB, usual_step

# vLLM's default for --gpu-memory-utilization, and our setting's.
GPU_SHARE = 0.9
CPU_KV_SPACE = 1 * GIB  # our default for VLLM_CPU_KVCACHE_SPACE


class Layout(msgspec.Struct, frozen=True):
    """How GPUs share a model: `tensor` × `pipeline` of them for each of so many copies."""

    tensor: int = 1
    pipeline: int = 1
    copies: int = 1

    @property
    def per_copy(self) -> int:
        return self.tensor * self.pipeline


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked of the engine. Lengths in tokens; None: as the model or the engine will."""

    context: int | None = None
    dtype: str = "auto"
    quantization: str = "auto"  # of the weights, while they are loaded
    kv_dtype: str = "auto"  # "auto" follows the activations, "fp8" halves it
    gpu_share: float = GPU_SHARE
    kv_space_bytes: int = CPU_KV_SPACE  # set aside for the KV cache where there is no GPU
    gpu_count: int | None = None  # None: as few as will do; 0: main memory
    tensor: int | None = None
    pipeline: int = 1
    copies: int = 1
    at_a_time: int | None = None  # requests that are computed side by side
    batch: int | None = None  # tokens of one step
    larger_steps: bool = False  # twice the usual where the last two are not said

    @classmethod
    def of(cls, settings: Mapping[str, object], gpu_count: int | None = None) -> Self:
        """What these settings say; what makes no sense is passed over, as if it were not said."""
        kv_gib = _whole(settings, "kv_cache_gib")
        # On CPUs the adapter casts for embeddings (inference.engines.vllm, `_dtype`).
        usual = "float32" if settings.get("runner") == "pooling" and gpu_count == 0 else "auto"
        dtype = _word(settings, "dtype")
        return cls(
            context=_whole(settings, "max_model_len"),
            dtype=usual if dtype == "auto" else dtype,
            quantization=_word(settings, "quantization"),
            kv_dtype=_word(settings, "kv_cache_dtype"),
            gpu_share=_share(settings.get("gpu_memory_utilization")),
            kv_space_bytes=kv_gib * GIB if kv_gib else CPU_KV_SPACE,
            gpu_count=gpu_count,
            tensor=_whole(settings, "tensor_parallel"),
            pipeline=_whole(settings, "pipeline_parallel") or 1,
            copies=_whole(settings, "data_parallel") or 1,
            at_a_time=_whole(settings, "max_num_seqs"),
            batch=_whole(settings, "max_num_batched_tokens"),
            larger_steps=settings.get("performance_mode") == "throughput",
        )

    def step(self, gpu_memory_bytes: int | None) -> tuple[int, int]:
        """Tokens and requests that one step computes at the most; None: on a CPU."""
        tokens, requests = usual_step(gpu_memory_bytes)
        factor = 2 if self.larger_steps else 1
        return self.batch or tokens * factor, self.at_a_time or requests * factor

    def layout(self, gpu_count: int) -> Layout | None:
        """So many GPUs, shared as was asked for; None where that does not come out even."""
        groups = self.pipeline * self.copies
        tensor = self.tensor or gpu_count // groups
        if not tensor or tensor * groups != gpu_count:
            return None
        return Layout(tensor, self.pipeline, self.copies)


def _whole(settings: Mapping[str, object], name: str) -> int | None:
    value = settings.get(name)
    known = isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**40
    return value if known else None  # type: ignore[return-value]


def _word(settings: Mapping[str, object], name: str) -> str:
    value = settings.get(name)
    return value if isinstance(value, str) and value else "auto"


def _share(value: object) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and 0 < value <= 1 else GPU_SHARE  # type: ignore[arg-type,operator]
