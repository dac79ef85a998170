"""Puts models on a shelf and replicas into the records, without a hub or a supervisor."""

import hashlib
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

from inference.lifecycle import Stage
from inference.node.record import Record
from inference.node.store import Choice, File, Shelf
from inference.provisioners.base import Phase
from tests.fakes.hub import oid
from tests.inference.node.rig import spec


def choice(repository: str = "acme/tiny", revision: str = "one", model_file: str = "") -> Choice:
    return Choice(repository, oid(revision.encode()), model_file)


def stock_up(home: Path, wanted: Choice, files: dict[str, bytes], *, days_ago: float = 0) -> Shelf:
    """As if it had been fetched and used so long ago."""
    shelf = Shelf(home / "models", wanted.repository)
    begin(shelf, wanted, files)
    for content in files.values():
        _put(shelf, content)
    shelf.finish(wanted)
    used = (datetime.now(UTC) - timedelta(days=days_ago)).timestamp()
    os.utime(shelf.complete(wanted), (used, used))
    return shelf


def begin(shelf: Shelf, wanted: Choice, files: dict[str, bytes]) -> None:
    """As if its download had just begun."""
    shelf.want(wanted, [File(name, _sha(data), len(data)) for name, data in files.items()])


def _put(shelf: Shelf, content: bytes) -> None:
    blob = shelf.blob(_sha(content))
    if not blob.exists():
        blob.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(content)
        shelf.note(blob.name)


def _sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def replica(home: Path, wanted: Choice, phase: Phase = Phase.READY) -> Record:
    """A replica of it in the records."""
    facts = {
        "model_source": "hub",
        "model_id": wanted.repository,
        "model_revision": wanted.revision,
        "model_file": wanted.model_file,
        "model_path": "",
    }
    record = Record(
        spec=spec(home, **facts), variant="cpu", gpu_indices=[], memory_bytes=0, phase=phase
    )
    record.move(phase, Stage.NONE, "")
    keep(home, record)
    return record


def keep(home: Path, record: Record) -> None:
    folder = home / "instances" / record.spec.replica_id
    folder.mkdir(parents=True, exist_ok=True)
    record.save(folder)


def content(folder: Path) -> dict[str, bytes]:
    paths = (path for path in folder.rglob("*") if not path.is_dir())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
