"""Downloaded models on this machine's disk, in the hub's own layout, with what was verified.

    models--owner--name/
        blobs/DIGEST                a file, named by its SHA-256 (large files) or git's SHA-1
        blobs/DIGEST.part           one that is not whole yet, and is taken up again
        snapshots/COMMIT/…          the model's folder: links into blobs/
        partial/CHOICE              what a download under way, or one that was cut off, wants
        complete/CHOICE             the same once all of it is there; its time is that of last use
        verified                    size and time of each blob when its digest was last computed
    .locks/models--owner--name.lock whoever changes any of it holds this

A blob gets its name only when its content has that digest. Files of several revisions may share
one, so a blob goes when the last choice that names it goes.
"""

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, unquote

import msgspec

DIGEST = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
COMMIT = re.compile(r"[0-9a-f]{40}")
PIECE = 1 << 20


class Choice(msgspec.Struct, frozen=True, order=True):
    """What a replica asks for: one repository at one commit, and which GGUF of it, if any."""

    repository: str
    revision: str
    model_file: str = ""

    @property
    def label(self) -> str:
        """Its name as a file."""
        chosen = f".{quote(self.model_file, safe='')}" if self.model_file else ""
        return self.revision + chosen


class File(msgspec.Struct, frozen=True):
    name: str
    digest: str
    size: int


class Verified(msgspec.Struct, frozen=True):
    """A blob's state when its content was last seen to be right."""

    size: int
    mtime_ns: int


class Busy(Exception):
    """Another process is changing this model's files."""


class Shelf:
    """One repository's folder."""

    def __init__(self, models: Path, repository: str) -> None:
        self.repository = repository
        name = f"models--{repository.replace('/', '--')}"
        self.folder = models / name
        self._lock = models / ".locks" / f"{name}.lock"
        self._noting = threading.Lock()  # files of one model come at the same time

    @contextlib.contextmanager
    def locked(self, *, wait: bool = True) -> Iterator[None]:
        """Alone with it, among all processes. Raises Busy if it may not wait."""
        self._lock.parent.mkdir(parents=True, exist_ok=True)
        with self._lock.open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError as error:
                raise Busy(self.repository) from error
            yield

    def snapshot(self, revision: str) -> Path:
        return self.folder / "snapshots" / revision

    def blob(self, digest: str) -> Path:
        return self.folder / "blobs" / digest

    def part(self, digest: str) -> Path:
        return self.folder / "blobs" / f"{digest}.part"

    def complete(self, choice: Choice) -> Path:
        return self.folder / "complete" / choice.label

    def partial(self, choice: Choice) -> Path:
        return self.folder / "partial" / choice.label

    # What is there

    def choices(self) -> dict[Choice, bool]:
        """All that was ever asked for and is not removed, and whether it is whole."""
        return self._marked("partial", False) | self._marked("complete", True)

    def _marked(self, state: str, whole: bool) -> dict[Choice, bool]:
        names = sorted(path.name for path in (self.folder / state).glob("[!.]*"))
        parts = [name.partition(".") for name in names]
        return {Choice(self.repository, rev, unquote(chosen)): whole for rev, _, chosen in parts}

    def files(self, choice: Choice) -> list[File]:
        """What belongs to a choice; nothing if it is not known."""
        for marker in (self.complete(choice), self.partial(choice)):
            try:
                content = marker.read_bytes()
            except FileNotFoundError:
                continue
            # Versions before this one left the marker empty: the links say the same.
            return (
                msgspec.json.decode(content, type=list[File]) if content else self._linked(choice)
            )
        return []

    def _linked(self, choice: Choice) -> list[File]:
        snapshot = self.snapshot(choice.revision)
        links = [path for path in sorted(snapshot.rglob("*")) if path.is_symlink()]
        return [
            File(path.relative_to(snapshot).as_posix(), path.readlink().name, size_of(path))
            for path in links
            if DIGEST.fullmatch(path.readlink().name)
        ]

    def stored(self, digest: str) -> int:
        """Bytes of this blob that are on the disk, whole or in part."""
        found = (self.folder / "blobs").glob(f"{digest}*")  # the client has names of its own
        return max((size_of(path) for path in found), default=0)

    def missing(self, choice: Choice) -> int:
        """Bytes that are still to come."""
        sizes = {file.digest: file.size for file in self.files(choice)}
        return sum(max(size - self.stored(digest), 0) for digest, size in sizes.items())

    # Verifying

    def is_right(self, file: File, *, anew: bool = False) -> bool:
        """Whether the blob is there and its content has its digest. One that was not touched since
        it was last verified is not read again, unless `anew`."""
        blob = self.blob(file.digest)
        try:
            stat = blob.stat()
        except FileNotFoundError:
            return False
        state = Verified(stat.st_size, stat.st_mtime_ns)
        if not anew and self._verified().get(file.digest) == state:
            return True
        right = stat.st_size == file.size and digest_of(blob, file.digest) == file.digest
        self._note(file.digest, state if right else None)
        return right

    def note(self, digest: str) -> None:
        """This blob is right as it lies there."""
        stat = self.blob(digest).stat()
        self._note(digest, Verified(stat.st_size, stat.st_mtime_ns))

    def _note(self, digest: str, state: Verified | None) -> None:
        with self._noting:
            known = self._verified()
            known.pop(digest, None)
            _write(self.folder / "verified", known | ({digest: state} if state else {}))

    def _verified(self) -> dict[str, Verified]:
        try:
            content = (self.folder / "verified").read_bytes()
            return msgspec.json.decode(content, type=dict[str, Verified])
        except (FileNotFoundError, msgspec.DecodeError):  # then everything is read once more
            return {}

    def damaged(self, choice: Choice, *, anew: bool = False) -> list[File]:
        return [file for file in self.files(choice) if not self.is_right(file, anew=anew)]

    # Changing, with the lock held

    def want(self, choice: Choice, files: list[File]) -> None:
        """Begin to have it: from now on its blobs are not for cleaning."""
        _write(self.partial(choice), files)

    def link(self, choice: Choice) -> None:
        """Make the model's folder out of its blobs."""
        for file in self.files(choice):
            path = self.snapshot(choice.revision) / file.name
            target = os.path.relpath(self.blob(file.digest), path.parent)
            if path.is_symlink() and os.readlink(path) == target:
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            path.symlink_to(target)

    def finish(self, choice: Choice) -> None:
        """All of it is there."""
        self.link(choice)
        _write(self.complete(choice), self.files(choice))
        self.partial(choice).unlink(missing_ok=True)

    def reopen(self, choice: Choice, damaged: list[File]) -> None:
        """These files must be had anew."""
        _write(self.partial(choice), self.files(choice))
        self.complete(choice).unlink()
        for file in damaged:
            self.blob(file.digest).unlink(missing_ok=True)

    def touch(self, choice: Choice) -> None:
        """It is being used."""
        with contextlib.suppress(FileNotFoundError):
            os.utime(self.complete(choice))

    def remove(self, choice: Choice) -> None:
        """Forget a choice, with every file that no other choice names."""
        self.complete(choice).unlink(missing_ok=True)
        self.partial(choice).unlink(missing_ok=True)
        others = list(self.choices())
        if not others:
            shutil.rmtree(self.folder)
            return
        named = {file.digest for other in others for file in self.files(other)}
        for path in (self.folder / "blobs").iterdir():
            if path.name.partition(".")[0] not in named:
                path.unlink()
        self._unlink(choice.revision, others)

    def _unlink(self, revision: str, others: list[Choice]) -> None:
        same = [other for other in others if other.revision == revision]
        names = {file.name for other in same for file in self.files(other)}
        snapshot = self.snapshot(revision)
        for path in snapshot.rglob("*"):
            if path.is_symlink() and path.relative_to(snapshot).as_posix() not in names:
                path.unlink()
        if not same:
            shutil.rmtree(snapshot, ignore_errors=True)


def digest_of(path: Path, like: str) -> str:
    """Of a file's content: git's name of a blob where `like` is a SHA-1, else its SHA-256."""
    with path.open("rb") as file:
        if len(like) == 64:
            return hashlib.file_digest(file, "sha256").hexdigest()
        head = f"blob {path.stat().st_size}\0".encode()
        digest = hashlib.sha1(head, usedforsecurity=False)
        while piece := file.read(PIECE):
            digest.update(piece)
        return digest.hexdigest()


def shelves(models: Path) -> Iterator[Shelf]:
    """Of every repository that was ever fetched."""
    for folder in sorted(models.glob("models--*")):
        if (folder / "complete").is_dir() or (folder / "partial").is_dir():
            yield Shelf(models, folder.name.removeprefix("models--").replace("--", "/"))


def size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # a finished part was renamed meanwhile
        return 0


def _write(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.new")
    draft.write_bytes(msgspec.json.encode(content))
    draft.replace(path)
