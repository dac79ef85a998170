"""May this LoRA adapter be loaded onto this model? PURE: what its files say in, its facts out.

An adapter is a folder as PEFT writes it: `adapter_config.json` and `adapter_model.safetensors`.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # what vLLM's kernels are built for


class BadAdapter(ValueError):
    """It cannot be loaded; the text says why."""


@dataclass(frozen=True)
class Adapter:
    rank: int
    base_model: str  # what its maker says it was trained on; empty: not said


def adapter_from(config: Mapping[str, object], files: Collection[str], max_rank: int) -> Adapter:
    """Its facts, from its parsed config and the names of its files. Raises BadAdapter."""
    if WEIGHTS not in files:
        raise BadAdapter(f"{WEIGHTS} is missing; adapters in other formats are not loaded.")
    if config.get("peft_type") != "LORA":
        raise BadAdapter("It is no LoRA adapter.")
    if config.get("auto_mapping") is not None and _custom(config["auto_mapping"]):
        raise BadAdapter("It needs code of its own, which is not run here.")
    if config.get("modules_to_save"):
        raise BadAdapter("It brings whole layers of its own (modules_to_save).")
    if config.get("use_dora") or config.get("bias", "none") != "none":
        raise BadAdapter("It uses DoRA or trained biases, which the engine does not know.")
    base = config.get("base_model_name_or_path")
    return Adapter(_rank(config, max_rank), base if isinstance(base, str) else "")


def _custom(mapping: object) -> bool:
    """PEFT notes the class that the base model had; one that is not transformers' own is code."""
    library = mapping.get("parent_library", "") if isinstance(mapping, Mapping) else ""
    return not (isinstance(library, str) and library.split(".")[0] == "transformers")


def _rank(config: Mapping[str, object], max_rank: int) -> int:
    """The largest: `rank_pattern` may give some layers more than `r`."""
    pattern = config.get("rank_pattern") or {}
    given = [config.get("r"), *(pattern.values() if isinstance(pattern, Mapping) else ())]
    ranks = [rank for rank in given if isinstance(rank, int) and not isinstance(rank, bool)]
    if len(ranks) != len(given) or min(ranks) < 1:
        raise BadAdapter(f"{CONFIG} does not say its rank.")
    if max(ranks) > max_rank:
        raise BadAdapter(
            f"Its rank is {max(ranks)}, and the instance takes adapters up to {max_rank}."
        )
    return max(ranks)
