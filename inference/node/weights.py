"""Which weights may be served: safetensors or a chosen GGUF, JSON and tokenizer files, no code.

A pickle runs code when it is read, `auto_map` asks the engine to run the repository's own, and
`speculators_config` to load another model in this one's place. All are refused here, before an
engine sees the folder, and no engine is ever told to trust them.

`model_file` names the GGUF where an engine reads one; empty, the weights are all the safetensors.
`adapter_model.safetensors` for it means a LoRA adapter: that file, its configuration, and no other.
"""

import fnmatch
import glob
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from inference.engines import lora
from inference.provisioners.base import Reason

BESIDE = ("*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken")
ALLOWED = ("*.safetensors", *BESIDE)
CONFIGS = ("config.json", "tokenizer_config.json", "processor_config.json")
LONGEST_HEADER = 100_000_000  # bytes; the safetensors library's own limit
INDEX = "model.safetensors.index.json"


class WeightsProblem(Exception):
    """The model cannot be had or may not be served; the text says why, for people."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


def allowed(name: str, model_file: str = "") -> bool:
    """Whether this file of a repository is fetched."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        return False
    if model_file == lora.WEIGHTS:
        return name in lora.FILES
    beside = any(fnmatch.fnmatchcase(name, pattern) for pattern in BESIDE)
    return beside or is_weights(name, model_file)


def is_weights(name: str, model_file: str = "") -> bool:
    pattern = _series(model_file) if model_file else "*.safetensors"
    return fnmatch.fnmatchcase(name, pattern)


def _series(model_file: str) -> str:
    """A large GGUF comes in numbered parts, and whoever names one of them means them all."""
    return re.sub(r"-\d{5}-of-(\d{5}\.gguf)$", r"-?????-of-\1", glob.escape(model_file))


def check_names(names: Iterable[str], model_file: str = "") -> None:
    """Raises WeightsProblem unless there are weights without code among these files."""
    names = list(names)
    if model_file == lora.WEIGHTS:
        _check_adapter_names(names)
        return
    if model_file:
        _check_model_file(names, model_file)
        return
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


def _check_adapter_names(names: list[str]) -> None:
    if missing := sorted(lora.FILES.difference(names)):
        raise WeightsProblem(
            Reason.BAD_ARGUMENTS,
            f"There is no {missing[0]}: this is not a LoRA adapter that can be loaded.",
        )


def _check_model_file(names: list[str], model_file: str) -> None:
    if not model_file.endswith(".gguf"):
        raise WeightsProblem(
            Reason.BAD_ARGUMENTS, f"{model_file} is not a GGUF file. Choose one that ends in .gguf."
        )
    if model_file not in names:
        raise WeightsProblem(Reason.BAD_ARGUMENTS, f"The model has no file {model_file}.")
    parts = re.search(r"-of-(\d{5})\.gguf$", model_file)
    there = sum(is_weights(name, model_file) for name in names)
    if parts and there != int(parts[1]):
        raise WeightsProblem(
            Reason.BAD_ARGUMENTS,
            f"{model_file} is one of {int(parts[1])} parts, of which {there} are there.",
        )


def configs(model_file: str = "") -> tuple[str, ...]:
    """The names of the files that could ask for code."""
    return (lora.CONFIG,) if model_file == lora.WEIGHTS else CONFIGS


def check_config(name: str, text: str) -> None:
    """Raises WeightsProblem when this configuration asks for the repository's own code, or for
    another model."""
    config = _parsed(name, text)
    if name == lora.CONFIG:
        _check_adapter(config)
    if isinstance(config, dict) and config.get("auto_map"):
        raise WeightsProblem(
            Reason.BAD_ARGUMENTS,
            "The model wants to run code of its own (auto_map), which is refused here.",
        )
    if isinstance(config, dict) and name == "config.json" and names_another(config):
        raise WeightsProblem(
            Reason.BAD_ARGUMENTS,
            "The model names another one to load in its place (speculators_config), which is "
            "refused here.",
        )


def names_another(config: Mapping[str, Any]) -> bool:
    """Whether vLLM would load another model, which nobody has looked at, from wherever this
    config.json says (its `maybe_override_with_speculators`)."""
    return config.get("speculators_config") is not None


def _check_adapter(config: object, max_rank: int = max(lora.RANKS)) -> None:
    try:
        lora.adapter_from(config if isinstance(config, dict) else {}, lora.FILES, max_rank)
    except lora.BadAdapter as problem:
        raise WeightsProblem(Reason.BAD_ARGUMENTS, str(problem)) from problem


def check_adapter(folder: Path, max_rank: int, model: Path) -> None:
    """Whether the adapter in this folder may go onto the model in that one. Raises
    WeightsProblem."""
    check_folder(folder, lora.WEIGHTS)
    _check_adapter(_parsed(lora.CONFIG, _text(folder / lora.CONFIG)), max_rank)
    if not (model / "config.json").is_file():
        return
    base = _parsed("config.json", _text(model / "config.json"))
    try:
        shapes = tensor_shapes(folder / lora.WEIGHTS)
        lora.check_base(shapes, base if isinstance(base, dict) else {})
    except lora.BadAdapter as problem:
        raise WeightsProblem(Reason.BAD_ARGUMENTS, str(problem)) from problem


def tensor_shapes(path: Path) -> dict[str, list[int]]:
    """By name, as a safetensors file's header has them: 8 bytes little-endian length, then JSON.
    Raises WeightsProblem."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        text = file.read(length) if length <= LONGEST_HEADER else b""
    try:
        header = json.loads(text)
        return {
            name: [int(side) for side in tensor["shape"]]
            for name, tensor in header.items()
            if name != "__metadata__"
        }
    except (ValueError, RecursionError, TypeError, KeyError, AttributeError) as error:
        raise WeightsProblem(
            Reason.BAD_ARGUMENTS, f"{path.name} is damaged, or is no safetensors file."
        ) from error


def _parsed(name: str, text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise WeightsProblem(Reason.BAD_ARGUMENTS, f"{name} is not valid JSON.") from error


def check_folder(folder: Path, model_file: str = "") -> int:
    """Bytes of the weights in a model's folder. Raises WeightsProblem."""
    if not folder.is_dir():
        raise WeightsProblem(Reason.BAD_ARGUMENTS, f"There is no folder {folder} on this machine.")
    names = _names(folder, model_file)
    check_names(names, model_file)
    for name in configs(model_file):
        if name in names:
            check_config(name, _text(folder / name))
    if not model_file and INDEX in names:
        _check_shards(names, _parsed(INDEX, _text(folder / INDEX)))
    return sum((folder / name).stat().st_size for name in names if is_weights(name, model_file))


def _names(folder: Path, model_file: str) -> list[str]:
    """Of the folder itself, and of the one below it that the GGUF may lie in."""
    if not model_file:
        below = folder
    elif allowed(model_file, model_file):
        below = (folder / model_file).parent
    else:
        raise WeightsProblem(Reason.BAD_ARGUMENTS, f"{model_file} is not in the model's folder.")
    found = {path for place in {folder, below} if place.is_dir() for path in place.iterdir()}
    # Not links to files that are gone: a copied folder may have left its files behind.
    return sorted(path.relative_to(folder).as_posix() for path in found if path.is_file())


def _text(path: Path) -> str:
    return path.read_text(errors="replace")


def _check_shards(names: list[str], index: object) -> None:
    """A copy that was cut short has its index and not all that the index names."""
    files = index.get("weight_map", {}) if isinstance(index, dict) else {}
    missing = sorted({str(name) for name in files.values()} - set(names))
    if missing:
        raise WeightsProblem(
            Reason.BAD_ARGUMENTS,
            f"The model's folder is not complete: {missing[0]} is missing"
            + (f", and {len(missing) - 1} more." if len(missing) > 1 else "."),
        )
