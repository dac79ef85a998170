"""Which weights may be served: safetensors or a chosen GGUF, JSON and tokenizer files, no code.

A pickle runs code when it is read, and `auto_map` asks the engine to run the repository's own. Both
are refused here, before an engine sees the folder, and no engine is ever told to trust them.

`model_file` names the GGUF where an engine reads one; empty, the weights are all the safetensors.
"""

import fnmatch
import glob
import json
import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from inference.provisioners.base import Reason

BESIDE = ("*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken")
ALLOWED = ("*.safetensors", *BESIDE)
CONFIGS = ("config.json", "tokenizer_config.json", "processor_config.json")
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


def check_config(name: str, text: str) -> None:
    """Raises WeightsProblem when this configuration asks for the repository's own code."""
    config = _parsed(name, text)
    if isinstance(config, dict) and config.get("auto_map"):
        raise WeightsProblem(
            Reason.BAD_ARGUMENTS,
            "The model wants to run code of its own (auto_map), which is refused here.",
        )


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
    for name in CONFIGS:
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
