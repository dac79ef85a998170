"""May this LoRA adapter be loaded onto this model? PURE: what its files say in, its facts out.

An adapter is a folder as PEFT writes it: `adapter_config.json` and `adapter_model.safetensors`. An
engine would refuse most of what is refused here, later and in its own words; adapters for a smaller
model it takes without a word, and answers nonsense.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from inference.engines.base import gettext_noop

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
FILES = frozenset({CONFIG, WEIGHTS})  # all that an engine needs, and all that it gets
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # what vLLM's kernels are built for
DEFAULT_RANK = 16

TOO_HIGH = gettext_noop(
    "Its rank is %(rank)d, and the instance takes adapters of rank %(most)d at most."
)
# Of PEFT's features those that change what an adapter means and that vLLM does not know.
UNKNOWN = {
    "use_dora": "DoRA",
    "lora_bias": "lora_bias",
    "alora_invocation_tokens": "aLoRA",
    "layer_replication": "layer_replication",
    "use_bdlora": "BD-LoRA",
    "use_qalora": "QALoRA",
}
# Ways to begin a training that leave the base model's weights as they were.
PLAIN_BEGINNINGS = frozenset({"gaussian", "eva", "orthogonal", "mica", "lora_ga"})
READS_HIDDEN = frozenset({"q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"})
WRITES_HIDDEN = frozenset({"o_proj", "down_proj"})
_TENSOR = re.compile(r"(?:.*\.)?layers\.(\d+)\..*?(\w+)\.lora_([AB])\.weight")


class BadAdapter(ValueError):
    """It cannot be loaded; the text says why. `sentence` and `facts` are the same before they are
    put together, for whoever translates."""

    def __init__(self, sentence: str, **facts: object) -> None:
        super().__init__(sentence % facts)
        self.sentence = sentence
        self.facts = facts


@dataclass(frozen=True)
class Adapter:
    rank: int
    base_model: str  # what its maker says it was trained on; empty: not said


def adapter_from(config: Mapping[str, Any], files: Collection[str], max_rank: int) -> Adapter:
    """Its facts, from its parsed config and the names of its files. Raises BadAdapter."""
    if WEIGHTS not in files:
        raise BadAdapter(
            gettext_noop("There is no %(file)s; adapters in other formats are not loaded."),
            file=WEIGHTS,
        )
    if config.get("peft_type") != "LORA":
        raise BadAdapter(gettext_noop("This is no LoRA adapter."))
    if _needs_code(config):
        raise BadAdapter(gettext_noop("It needs code of its own, which never runs here."))
    if config.get("modules_to_save"):
        raise BadAdapter(
            gettext_noop("It brings whole layers of its own (modules_to_save), not only LoRA.")
        )
    if feature := _unknown_feature(config):
        raise BadAdapter(
            gettext_noop("It uses %(feature)s, which the engine does not know."), feature=feature
        )
    if not config.get("target_modules") or not isinstance(config.get("lora_alpha"), int | float):
        raise BadAdapter(gettext_noop("%(file)s is not complete."), file=CONFIG)
    base = config.get("base_model_name_or_path")
    return Adapter(_rank(config, max_rank), base if isinstance(base, str) else "")


def _needs_code(config: Mapping[str, Any]) -> bool:
    """PEFT notes the class that the base model had; one that is not transformers' own is code."""
    if config.get("auto_map"):
        return True
    noted = config.get("auto_mapping")
    if not noted:
        return False
    library = noted.get("parent_library", "") if isinstance(noted, Mapping) else ""
    return not (isinstance(library, str) and library.split(".")[0] == "transformers")


def _unknown_feature(config: Mapping[str, Any]) -> str:
    """Its name; empty where there is none."""
    for name, said in UNKNOWN.items():
        if config.get(name):
            return said
    if config.get("bias", "none") != "none":
        return "bias"
    beginning = config.get("init_lora_weights", True)
    if isinstance(beginning, str) and beginning.lower() not in PLAIN_BEGINNINGS:
        return beginning[:32]
    return ""


def _rank(config: Mapping[str, Any], max_rank: int) -> int:
    """The largest: `rank_pattern` may give some layers more than `r`."""
    pattern = config.get("rank_pattern") or {}
    given = [config.get("r"), *(pattern.values() if isinstance(pattern, Mapping) else ())]
    ranks = [rank for rank in given if isinstance(rank, int) and not isinstance(rank, bool)]
    if len(ranks) != len(given) or min(ranks) < 1:
        raise BadAdapter(gettext_noop("%(file)s does not say its rank."), file=CONFIG)
    if max(ranks) > max_rank:
        raise BadAdapter(TOO_HIGH, rank=max(ranks), most=max_rank)
    return max(ranks)


def check_base(shapes: Mapping[str, Sequence[int]], model: Mapping[str, Any]) -> None:
    """Whether its tensors, by name, belong on a model with this config.json.

    Raises BadAdapter. By shapes and not by the name of its base, because a model has many names: a
    quantized edition, a folder, a fine-tuned descendant. A model of several parts (`text_config`)
    is left to the engine.
    """
    hidden, layers = model.get("hidden_size"), model.get("num_hidden_layers")
    if "text_config" in model or not isinstance(hidden, int) or not isinstance(layers, int):
        return
    found = [(match, list(shapes[name])) for name in shapes if (match := _TENSOR.fullmatch(name))]
    if not found:
        raise BadAdapter(gettext_noop("Its weights are not those of a LoRA adapter."))
    for match, shape in found:
        layer, module, side = match.groups()
        width = _width(module, side, shape)
        if int(layer) >= layers or width not in {None, hidden}:
            raise BadAdapter(
                gettext_noop(
                    "It was made for another model: this one has %(layers)d layers of width "
                    "%(hidden)d."
                ),
                layers=layers,
                hidden=hidden,
            )


def _width(module: str, side: str, shape: list[int]) -> int | None:
    """The base model's, as this tensor has it; None where it does not say."""
    if len(shape) != 2:
        return None
    if side == "A" and module in READS_HIDDEN:  # rank × what goes in
        return shape[1]
    if side == "B" and module in WRITES_HIDDEN:  # what comes out × rank
        return shape[0]
    return None
