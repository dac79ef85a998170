"""Which weights may be served: safetensors, JSON and tokenizer files, and no code.

A pickle runs code when it is read, and `auto_map` asks the engine to run the repository's own. Both
are refused here, before an engine sees the folder, and no engine is ever told to trust them.
"""

import fnmatch
import json
from collections.abc import Iterable
from pathlib import Path

from inference.provisioners.base import Reason

ALLOWED = ("*.safetensors", "*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken")
CONFIGS = ("config.json", "tokenizer_config.json", "processor_config.json")


class WeightsProblem(Exception):
    """The model cannot be had or may not be served; the text says why, for people."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


def allowed(name: str) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in ALLOWED)


def check_names(names: Iterable[str]) -> None:
    """Raises WeightsProblem unless there are weights without code among these files."""
    names = list(names)
    if "config.json" not in names:
        raise WeightsProblem(
            Reason.BAD_ARGUMENTS, "There is no config.json: this is not a model that can be served."
        )
    if not any(name.endswith(".safetensors") for name in names):
        raise WeightsProblem(
            Reason.BAD_ARGUMENTS,
            "The weights are not in safetensors format. Other formats can hide code and are "
            "refused.",
        )


def check_config(name: str, text: str) -> None:
    """Raises WeightsProblem when this configuration asks for the repository's own code."""
    try:
        config = json.loads(text)
    except ValueError as error:
        raise WeightsProblem(Reason.BAD_ARGUMENTS, f"{name} is not valid JSON.") from error
    if isinstance(config, dict) and config.get("auto_map"):
        raise WeightsProblem(
            Reason.BAD_ARGUMENTS,
            "The model wants to run code of its own (auto_map), which is refused here.",
        )


def check_folder(folder: Path) -> int:
    """Bytes of the weights in a model's folder. Raises WeightsProblem."""
    if not folder.is_dir():
        raise WeightsProblem(Reason.BAD_ARGUMENTS, f"There is no folder {folder} on this machine.")
    names = [path.name for path in folder.iterdir()]
    check_names(names)
    for name in CONFIGS:
        if name in names:
            check_config(name, (folder / name).read_text())
    return sum((folder / name).stat().st_size for name in names if name.endswith(".safetensors"))
