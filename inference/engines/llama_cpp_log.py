"""llama.cpp's log of a start: how far it is, and what room there is for conversations. PURE.

The texts are those of build 11549, `tools/server/server-context.cpp` (load_model, init). What the
model takes is told only to those who ask for more words.
"""

import re
from collections.abc import Iterable

from inference.lifecycle import Stage
from inference.measured import Measured

_SLOTS = re.compile(r"initializing, n_slots = (\d{1,9}), n_ctx_slot = (\d{1,9})")


def stage(line: str) -> Stage | None:
    if "load_model: loading model" in line:
        return Stage.LOADING
    return Stage.WARMING if "init: model loaded" in line else None


def measured(lines: Iterable[str]) -> Measured:
    """Each slot has the whole context of one request for itself."""
    found = [match for line in lines if (match := _SLOTS.search(line))]
    if not found:
        return Measured()
    slots, context = int(found[-1][1]), int(found[-1][2])
    return Measured(kv_cache_tokens=slots * context, max_concurrency=float(slots))
