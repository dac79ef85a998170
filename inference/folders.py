"""Models on this machine: the bundled demo, and folders that an operator filled (air-gapped).

A folder is known by its path below the operator's own roots (`MODELPORT_MODELS`, `<home>/models`),
one or two names deep (`mistral-7b`, `Qwen/Qwen3-8B`): nobody else's path can be asked for.

Copies of the hub's own cache in `MODELPORT_MODELS` are known by the hub's names. Those in
`<home>/models` are not offered: they were downloaded, perhaps with one organization's token.
"""

import functools
import hashlib
import json
import struct
from collections import Counter
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import metadata_load

from inference import demo
from inference.engines import lora
from inference.model_card import (
    ModelCard,
    ModelFile,
    Refusal,
    read_card,
    read_json,
    weight_files,
)
from inference.node.weights import CONFIGS
from portal.lib.env import environment

LONGEST_HEADER = 100_000_000  # bytes; the safetensors library's own limit
LONGEST_JSON = 32 * 1024 * 1024


class NotSafetensors(Exception):
    """A file of that name which does not begin as the format says."""


def folders() -> dict[str, Path]:
    """Every folder with a model, by id. Where two roots have the same id the first root wins."""
    found: dict[str, Path] = {}
    own, downloads = environment().model_folders, environment().home / "models"
    for root in (*own, downloads):
        for folder in _models_below(root):
            found.setdefault(folder.relative_to(root).as_posix(), folder)
        if root != downloads:
            for name, folder in _hub_copies(root):
                found.setdefault(name, folder)
    return dict(sorted(found.items()))


def _models_below(root: Path) -> Iterator[Path]:
    for pattern in ("*/config.json", "*/*/config.json"):
        for config in sorted(root.glob(pattern)):
            if next(config.parent.glob("*.safetensors"), None):
                yield config.parent


def _hub_copies(root: Path) -> Iterator[tuple[str, Path]]:
    """Models as the hub's own cache lays them out: of each the main branch, else the newest."""
    for cached in sorted(root.glob("models--*")):
        refs = cached / "refs" / "main"
        main = refs.read_text().strip() if refs.is_file() else ""
        configs = sorted(
            cached.glob("snapshots/*/config.json"),
            key=lambda config: (config.parent.name == main, config.parent.stat().st_mtime),
        )
        whole = [c.parent for c in configs if next(c.parent.glob("*.safetensors"), None)]
        if whole:
            yield cached.name.removeprefix("models--").replace("--", "/"), whole[-1]


def adapter_folders() -> dict[str, Path]:
    """Every folder with a LoRA adapter, by id, in the same roots as models."""
    found: dict[str, Path] = {}
    for root in (*environment().model_folders, environment().home / "models"):
        for pattern in (f"*/{lora.CONFIG}", f"*/*/{lora.CONFIG}"):
            for config in sorted(root.glob(pattern)):
                found.setdefault(config.parent.relative_to(root).as_posix(), config.parent)
    return dict(sorted(found.items()))


def adapter_files(folder: Path) -> tuple[str, set[str], dict[str, Any]]:
    """A hash of an adapter's folder as it is now, the names in it, and what its config says.

    The hash goes by config and size: nobody waits for all of the weights to be read.
    """
    names = {path.name for path in folder.iterdir() if path.is_file()}
    config = _start_of(folder / lora.CONFIG, LONGEST_JSON)
    digest = hashlib.sha256(config)
    if lora.WEIGHTS in names:
        digest.update(str((folder / lora.WEIGHTS).stat().st_size).encode())
    return digest.hexdigest()[:40], names, read_json(config)


def local_card(model_id: str) -> ModelCard | None:
    """The card of a folder; None where there is none of this id."""
    folder = folders().get(model_id)
    return folder_card("local", model_id, folder) if folder else None


def bundled_card() -> ModelCard:
    """The card of the demo model."""
    return folder_card("bundled", demo.MODEL_ID, demo.MODEL_PATH, demo.model_revision())


def folder_card(source: str, model_id: str, folder: Path, revision: str = "") -> ModelCard:
    """What the files of this folder say. Weights' headers are read, the weights are not."""
    found = (path for path in folder.rglob("[!.]*") if path.is_file())
    # Not `.git` and `.cache`, which a clone or a download leaves.
    files = sorted(p for p in found if not any(_hidden(n) for n in p.relative_to(folder).parts))
    stats = [(path, path.stat()) for path in files]
    state = tuple((str(path), stat.st_size, stat.st_mtime_ns) for path, stat in stats)
    return _read(source, model_id, folder, revision, state)


@functools.lru_cache(maxsize=256)
def _read(
    source: str,
    model_id: str,
    folder: Path,
    revision: str,
    state: tuple[tuple[str, int, int], ...],  # as long as it is the same, so is the answer
) -> ModelCard:
    files = [ModelFile(Path(path).relative_to(folder).as_posix(), size) for path, size, _ in state]
    configs = {
        name: read_json(_start_of(folder / name, LONGEST_JSON))
        for name in CONFIGS
        if (folder / name).is_file()
    }
    refusal = None
    tensors: Counter[str] = Counter()
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.path}\0{file.size_bytes}\0".encode())
    for name in configs:
        digest.update(_start_of(folder / name, LONGEST_JSON))
    for file in weight_files(files):
        try:
            header = safetensors_header(folder / file.path)
        except NotSafetensors:
            refusal = Refusal.BAD_WEIGHTS
            break
        digest.update(header)
        tensors += tensors_of(header)
    card = ModelCard(
        source=source,
        model_id=model_id,
        revision=revision or digest.hexdigest()[:40],
        files=files,
        licence=_licence(folder / "README.md"),
        refusal=refusal,
    )
    return read_card(card, configs=configs, tensors=tensors)


def safetensors_header(path: Path) -> bytes:
    """The JSON text that begins a file: 8 bytes little-endian length, then so many bytes.

    https://huggingface.co/docs/safetensors/index#format. Raises NotSafetensors.
    """
    with path.open("rb") as file:
        start = file.read(8)
        if len(start) < 8:
            raise NotSafetensors(path.name)
        (length,) = struct.unpack("<Q", start)
        if length > LONGEST_HEADER:
            raise NotSafetensors(path.name)
        header = file.read(length)
    if len(header) < length or not header.startswith(b"{"):
        raise NotSafetensors(path.name)
    return header


def tensors_of(header: bytes) -> Counter[str]:
    """Parameters by number format, of one file's header."""
    counts: Counter[str] = Counter()
    for name, tensor in read_json(header).items():
        if name == "__metadata__" or not isinstance(tensor, dict):
            continue
        shape = tensor.get("shape")
        if isinstance(shape, list) and all(isinstance(side, int) for side in shape):
            counts[str(tensor.get("dtype"))] += prod(shape)
    return counts


def _licence(readme: Path) -> str:
    """The licence in the model card's front matter; empty where it says none."""
    try:
        said = (metadata_load(readme) or {}).get("license") if readme.is_file() else ""
    except (ValueError, OSError, yaml.YAMLError):  # front matter that is no mapping
        return ""
    return said if isinstance(said, str) else json.dumps(said) if said else ""


def _hidden(name: str) -> bool:
    return name.startswith(".")


def _start_of(path: Path, limit: int) -> bytes:
    with path.open("rb") as file:
        return file.read(limit)
