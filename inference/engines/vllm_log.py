"""vLLM's log after a start: what the model took, and what was left for the KV cache. PURE.

The texts are those of vLLM 0.32 and 0.33: `v1/core/kv_cache_utils.py` (update_kv_cache_capacity),
`v1/worker/gpu_model_runner.py` (load_model), `v1/worker/gpu_worker.py` (determine_available_memory)
and `v1/worker/cpu_worker.py`. Older versions put capacity and concurrency on lines of their own.
"""

import re
from collections.abc import Iterable

from inference.engines.base import GIB
from inference.measured import Measured

_COUNT = r"(\d[\d,]{0,20})"
_DECIMAL = r"(\d{1,9}(?:\.\d{1,9})?)"
_TOKENS = re.compile(rf"KV cache size: {_COUNT} tokens")
_CONCURRENCY = re.compile(rf"Maximum concurrency for {_COUNT} tokens per request: {_DECIMAL}x")
_WEIGHTS = re.compile(rf"Model loading took {_DECIMAL} GiB")
_KV_CACHE = re.compile(rf"Available KV cache memory: {_DECIMAL} GiB")
# "Explicitly set (1.0/15.62) GiB for KV cache on node 0.": taken of what the machine has
_KV_CACHE_ON_CPU = re.compile(rf"set \({_DECIMAL}/{_DECIMAL}\) GiB for KV cache")


def measured(lines: Iterable[str]) -> Measured:
    """The last of each figure: an engine that began anew has the newest word."""
    said: dict[str, float] = {}
    for line in lines:
        if found := _TOKENS.search(line):
            said["tokens"] = _number(found[1])
        if found := _CONCURRENCY.search(line):
            said["concurrency"] = _number(found[2])
        if found := _WEIGHTS.search(line):
            said["weights"] = _number(found[1]) * GIB
        if found := _KV_CACHE.search(line) or _KV_CACHE_ON_CPU.search(line):
            said["kv_cache"] = _number(found[1]) * GIB
    return Measured(
        kv_cache_tokens=_whole(said.get("tokens")),
        max_concurrency=said.get("concurrency"),
        weight_bytes=_whole(said.get("weights")),
        kv_cache_bytes=_whole(said.get("kv_cache")),
    )


def _number(text: str) -> float:
    return float(text.replace(",", ""))


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)
