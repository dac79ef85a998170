"""Models on this machine: the bundled demo, and folders that an operator filled (air-gapped).

A folder is known by its path below the operator's own roots (`MODELPORT_MODELS`, `<home>/models`),
one or two names deep (`mistral-7b`, `Qwen/Qwen3-8B`): nobody else's path can be asked for.

Copies of the hub's own cache in `MODELPORT_MODELS` are known by the hub's names. Those in
`<home>/models` are not offered: they were downloaded, perhaps with one organization's token.
"""

import contextlib
import functools
import hashlib
import io
import json
import struct
from collections import Counter
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

import msgspec
import yaml
from huggingface_hub import metadata_load

from inference import demo, gguf
from inference.engines import lora
from inference.model_card import (
    ModelCard,
    ModelFile,
    Refusal,
    editions,
    read_card,
    read_edition,
    read_gguf,
    read_json,
    weight_files,
)
from inference.node.weights import CONFIGS
from portal.lib.env import environment

LONGEST_HEADER = 100_000_000  # bytes; the safetensors library's own limit
LONGEST_JSON = 32 * 1024 * 1024
GGUF_FACTS = 1024 * 1024  # bytes, with all that a GGUF says before its vocabulary
GGUF_START = 64 * 1024  # bytes by which one GGUF is told from another of its name and size


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
    for pattern in ("*", "*/*"):
        for folder in sorted(root.glob(pattern)):
            names = folder.relative_to(root).parts
            cached = any(name.startswith((".", "models--")) for name in names)
            if folder.is_dir() and not cached and _is_model(folder):
                yield folder


def _is_model(folder: Path) -> bool:
    if next(folder.glob("*.gguf"), None):
        return True
    return (folder / "config.json").is_file() and bool(next(folder.glob("*.safetensors"), None))


def _hub_copies(root: Path) -> Iterator[tuple[str, Path]]:
    """Models as the hub's own cache lays them out: of each the main branch, else the newest."""
    for cached in sorted(root.glob("models--*")):
        refs = cached / "refs" / "main"
        main = refs.read_text().strip() if refs.is_file() else ""
        whole = sorted(
            (snapshot for snapshot in cached.glob("snapshots/*") if _is_model(snapshot)),
            key=lambda snapshot: (snapshot.name == main, snapshot.stat().st_mtime),
        )
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


def local_card(model_id: str, model_file: str = "") -> ModelCard | None:
    """The card of a folder, or of one GGUF in it; None where there is none of this id or name."""
    folder = folders().get(model_id)
    card = folder_card("local", model_id, folder) if folder else None
    if folder is None or card is None or not model_file:
        return card
    if model_file not in {edition.path for edition in card.editions}:
        return None
    path = folder / model_file
    header = _gguf_header(path, path.stat().st_mtime_ns)
    if header is None:
        bad = read_edition(card, model_file, gguf.Header(metadata={}))
        return msgspec.structs.replace(bad, refusal=Refusal.BAD_WEIGHTS)
    return read_edition(card, model_file, header)


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
    for edition in editions(files):
        digest.update(_start_of(folder / edition.path, GGUF_START))
    card = ModelCard(
        source=source,
        model_id=model_id,
        revision=revision or digest.hexdigest()[:40],
        files=files,
        licence=_licence(folder / "README.md"),
        refusal=refusal,
    )
    card = read_card(card, configs=configs, tensors=tensors)
    if card.refusal is Refusal.CHOOSE_FILE:
        start = _start_of(folder / card.editions[0].path, GGUF_FACTS)
        with contextlib.suppress(gguf.NotGguf):
            card = read_gguf(card, gguf.read(io.BytesIO(start)))
    return card


@functools.lru_cache(maxsize=256)
def _gguf_header(path: Path, state: int) -> gguf.Header | None:
    """None where it is none, in spite of its name. The same as long as `state` is."""
    try:
        with path.open("rb") as file:
            return gguf.read(file)
    except gguf.NotGguf:
        return None


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
