"""The journal: what the gateway knows of consumption, on disk before anyone can forget it.

The contract with the meter, the only reader:

Names     `<writer>-<sequence>.journal` in `Environment.journal_dir`; writer is 32 hex digits (a
          UUIDv7, one per gateway process), sequence six digits from 000000. Sorted by name, the
          files of one writer are one stream. Whatever ends otherwise (`.new`) is no journal yet.
Frames    `u32 length | u32 crc | payload`, little-endian; the payload is one record of
          `billing.usage_record` in MessagePack. The CRC32 runs over length and payload and starts
          from the CRC32 of the file's name, which no tenant can know: bytes that came in with a
          client's text, or from another file, are never taken for a record. Keep the names.
Order     ADMIT is written before the engine is contacted, CHECKPOINTs as a stream advances, FINAL
          before the last bytes of the answer are released and on disk (fdatasync) when they are.
Rotation  by size. Each new file begins with the ADMIT (and newest CHECKPOINT) of every request
          that is still open, so no file needs an earlier one. Records may thus repeat; the same
          request has one FINAL, in one file.
Liveness  a writer holds `flock` on its newest file from before it has its name until it ends.
          `is_alive(path)` asks about the writer of that file, whichever of its files it is.
Ending    what is still open when a writer is dead is settled by `usage_record.settle`.
Deletion  the meter may delete a file once all its records are shipped (committed to PostgreSQL)
          and it is not its writer's newest, or the writer is dead. Its ADMITs without a FINAL are
          in the next file again, so they need not be shipped first. A dead writer's newest file
          goes last, after its open requests were settled and committed.
Reading   `read(path, offset)` from 0 on, then from the offset it returned. It stops before a torn
          tail (`tail` bytes are left: more may come while the writer lives; a remnant of its death
          otherwise). Broken bytes with sound frames after them are skipped and counted in
          `damaged`: say so loudly, they may have been somebody's usage.
"""

import fcntl
import logging
import os
import queue
import struct
import threading
import time
import zlib
from asyncio import AbstractEventLoop, TimerHandle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from billing.usage_record import Admit, Checkpoint, Final, Record
from inference.gateway import disk
from portal.lib.ids import uuid7

log = logging.getLogger(__name__)

SUFFIX = ".journal"
ROTATE_BYTES = 64 * 1024 * 1024
MAX_PAYLOAD = 4096  # bytes; the strings in a record are bounded far below this
READ_BYTES = 1024 * 1024
GATHER = 0.002  # seconds that a FINAL may wait for others while many requests are under way

_HEADER = struct.Struct("<II")
_fdatasync = os.fdatasync
_decode = msgspec.msgpack.Decoder(Record).decode
_encode = msgspec.msgpack.Encoder().encode

Done = Callable[[bool], None]


class JournalProblem(Exception):
    """The journal cannot be written (disk full, folder gone): nothing may be served unmetered."""


# ---------------------------------------------------------------------------------- reading


class Batch(NamedTuple):
    records: list[Record]
    offset: int  # where to read on
    damaged: int  # bytes before offset that are no record and never will be
    tail: int  # bytes of the file after offset, as far as was looked


def writer_of(path: Path) -> str:
    return path.name.split("-", 1)[0]


def files(folder: Path) -> list[Path]:
    """All journals in the folder, each writer's in order."""
    return sorted(folder.glob(f"*-*{SUFFIX}"))


def read(path: Path, offset: int = 0, limit: int = READ_BYTES) -> Batch:
    """The records from `offset` on that lie within the next `limit` bytes. Raises OSError."""
    with path.open("rb") as file:
        file.seek(offset)
        data = file.read(limit)
    seed = _seed(path.name)
    records: list[Record] = []
    position = damaged = 0
    while found := _next_frame(data, position, seed):
        start, record, end = found
        damaged += start - position
        position = end
        records.append(record)
    # A whole window without one sound frame holds nothing but damage, save what may be the
    # beginning of a frame at its very end.
    if len(data) == limit and not records:
        position = damaged = limit - _HEADER.size - MAX_PAYLOAD
    return Batch(records, offset + position, damaged, len(data) - position)


def _next_frame(data: bytes, position: int, seed: int) -> tuple[int, Record, int] | None:
    """The first sound frame at or after `position`: its start, its record, its end."""
    for start in range(position, len(data) - _HEADER.size):
        if frame := _frame(data, start, seed):
            return start, *frame
    return None


def _frame(data: bytes, start: int, seed: int) -> tuple[Record, int] | None:
    """The record in the frame at `start` and where it ends; None if it is not whole and sound."""
    length, crc = _HEADER.unpack_from(data, start)
    begin = start + _HEADER.size
    if not 0 < length <= MAX_PAYLOAD or begin + length > len(data):
        return None
    payload = data[begin : begin + length]
    if zlib.crc32(payload, zlib.crc32(data[start : start + 4], seed)) != crc:
        return None
    try:
        return _decode(payload), begin + length
    except msgspec.DecodeError:  # sound bytes of a record kind that we do not know
        return None


def is_alive(path: Path) -> bool:
    """Whether the writer of this file still runs."""
    writer, seen = writer_of(path), None
    # A rotation between listing and asking would show us only files it has left; it makes and
    # locks the next one first, so looking again tells.
    while (names := sorted(path.parent.glob(f"{writer}-*{SUFFIX}"))) != seen:
        if any(_locked(name) for name in names):
            return True
        seen = names
    return False


def _locked(path: Path) -> bool:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


# ---------------------------------------------------------------------------------- writing


class Journal:
    """The one journal of this process. Used from its event loop's thread only.

    `admit` and `checkpoint` are written when they return. `final` is written and fdatasynced in a
    group with others; its callback then runs in the loop's thread, with False if that failed.
    """

    def __init__(
        self,
        folder: Path,
        loop: AbstractEventLoop,
        *,
        rotate_bytes: int = ROTATE_BYTES,
        durable: bool = True,
    ) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder = folder
        self._loop = loop
        self._rotate_bytes = rotate_bytes
        self._writer = uuid7().hex
        self._sequence = -1
        self.syncs = 0  # groups that reached the disk, and the seconds that this took
        self.sync_seconds = 0.0
        self._open: dict[bytes, list[bytes]] = {}  # request id → its ADMIT, newest CHECKPOINT
        self._admitting: list[tuple[bytes, bytes, Done]] = []
        self._waiting: list[tuple[bytes, bytes, Done]] = []
        self._owed: list[tuple[bytes, bytes]] = []  # FINALs that the disk would not take
        self._scheduled: TimerHandle | None = None
        self._soon = self._syncing = False
        self._retiring = 0  # files whose successor's name may not be on disk yet
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._sync: Callable[[int], None] = os.fdatasync if durable else lambda fd: None
        self._kernel = disk.kernel_sync(loop) if durable else None
        self._fd = -1
        self._begin_file()
        # For what the kernel does not do unasked. One of our own: the loop's default executor may
        # be busy with slow strangers.
        self._thread = threading.Thread(target=self._work, name="journal", daemon=True)
        self._thread.start()

    @property
    def writer(self) -> str:
        """By which the meter knows this process."""
        return self._writer

    @property
    def path(self) -> Path:
        return self._folder / f"{self._writer}-{self._sequence:06d}{SUFFIX}"

    @property
    def open_requests(self) -> int:
        """ADMITs without their FINAL."""
        return len(self._open)

    def admit(self, record: Admit, then: Done | None = None) -> None:
        """Written when it returns; raises JournalProblem, and the request must be refused.

        With `then` it is written in the next turn of the loop, with all others that came in this
        one, and `then` is told whether it was.
        """
        payload = _encode(record)
        if then is None:
            self._append(payload)
            self._open[record.request_id] = [payload]
            return
        if not self._admitting:
            self._loop.call_soon(self._write_admits)
        self._admitting.append((record.request_id, payload, then))

    def checkpoint(self, *records: Checkpoint) -> None:
        """Raises JournalProblem; the requests may go on, their FINALs will tell."""
        payloads = [_encode(record) for record in records]
        self._append(*payloads)
        for record, payload in zip(records, payloads, strict=True):
            if opened := self._open.get(record.request_id):
                opened[1:] = [payload]

    def final(self, record: Final, done: Done) -> None:
        self._waiting.append((record.request_id, _encode(record), done))
        if not (self._syncing or self._soon):
            self._schedule()

    def _schedule(self) -> None:
        """Write the group that waits: in the next turn of the loop if most of what is open has
        ended, else in a moment, so that others share the write and the sync."""
        if self._scheduled is None:
            self._scheduled = self._loop.call_later(GATHER, self._write_group)
        if not self._soon and 4 * len(self._waiting) >= 3 * len(self._open):
            self._soon = True
            self._loop.call_soon(self._write_group)

    def close(self) -> None:
        """Write what waits, sync, and let go of the lock. Blocks for one fdatasync."""
        if self._fd < 0:
            return
        self._write_admits()
        if self._kernel is not None:
            self._kernel.close()
        self._jobs.put(None)
        self._thread.join()
        group, self._waiting = self._waiting, []
        try:
            self._append(*[p for _, p in self._owed], *[p for _, p, _ in group])
            self._sync(self._fd)
            ok = True
        except (JournalProblem, OSError):
            ok = False  # the meter settles these from their last CHECKPOINTs
        finally:
            os.close(self._fd)
            self._fd = -1
        for _, _, done in group:
            done(ok)

    def _append(self, *payloads: bytes) -> None:
        if self._fd < 0:
            raise JournalProblem("the journal is closed")
        try:
            if self._size >= self._rotate_bytes:
                self._begin_file()
            data = b"".join(map(self._framed, payloads))
            self._size += _write_all(self._fd, data) if data else 0
        except OSError as error:
            raise JournalProblem(str(error)) from error

    def _framed(self, payload: bytes) -> bytes:
        length = len(payload).to_bytes(4, "little")
        crc = zlib.crc32(length + payload, self._crc_seed)
        return length + crc.to_bytes(4, "little") + payload

    def _begin_file(self) -> None:
        """Go on in a new file, which is locked before it has a name that a reader would heed."""
        old, self._sequence = self._fd, self._sequence + 1
        self._crc_seed = _seed(self.path.name)
        draft = self.path.with_suffix(".new")
        fd = os.open(
            draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600
        )
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            carried = b"".join(self._framed(p) for kept in self._open.values() for p in kept)
            self._size = _write_all(fd, carried) if carried else 0
            os.link(draft, self.path)  # fails where the name exists, unlike a rename
        except OSError:
            os.close(fd)
            self._sequence -= 1
            self._crc_seed = _seed(self.path.name)
            raise
        finally:
            os.unlink(draft)
        self._fd = fd
        if old < 0:
            _sync_folder(self._folder)
        else:
            self._retiring += 1
            self._jobs.put(lambda: self._retire(old))

    def _retire(self, fd: int) -> None:
        try:
            _sync_folder(self._folder)
            self._sync(fd)
        finally:
            os.close(fd)
            self._loop.call_soon_threadsafe(self._retired)

    def _retired(self) -> None:
        self._retiring -= 1

    def _write_admits(self) -> None:
        if not self._admitting:
            return  # they went before a FINAL that was in a hurry, or with the journal's end
        group, self._admitting = self._admitting, []
        try:
            self._append(*[payload for _, payload, _ in group])
        except JournalProblem as problem:
            log.error("nothing is served that cannot be metered: %s", problem)
            for _, _, then in group:
                then(False)
            return
        for request_id, payload, _ in group:
            self._open[request_id] = [payload]
        for _, _, then in group:
            then(True)

    def _write_group(self) -> None:
        self._soon = False
        if self._scheduled is not None:
            self._scheduled.cancel()
            self._scheduled = None
        if self._fd < 0 or self._syncing or not self._waiting:
            return  # closed meanwhile, which wrote what waited; or somebody was quicker
        # A timer may come before what the last turn put off, and a request that failed at once may
        # wait here while its ADMIT waits there; no FINAL may stand before its ADMIT.
        self._write_admits()
        group, self._waiting = self._waiting, []
        finals = self._owed + [(request_id, payload) for request_id, payload, _ in group]
        try:
            self._append(*[payload for _, payload in finals])
        except JournalProblem:
            self._owed = finals
            self._group_done(group, False)
            return
        self._owed = []
        for request_id, _ in finals:
            self._open.pop(request_id, None)
        self._syncing = True
        fd, began = self._fd, time.monotonic()

        def synced(ok: bool) -> None:
            if ok:
                self.syncs += 1
                self.sync_seconds += time.monotonic() - began
            self._group_done(group, ok)

        # A new file's name must be on disk before what it holds counts as kept: that is the
        # thread's work, and what is synced meanwhile stands in line behind it.
        if self._kernel is not None and not self._retiring and self._sync is _fdatasync:
            self._kernel.sync(fd, synced)
        else:
            self._jobs.put(lambda: self._sync_group(fd, synced))

    def _sync_group(self, fd: int, synced: Callable[[bool], None]) -> None:
        """In the journal's thread."""
        try:
            self._sync(fd)
            ok = True
        except OSError:
            ok = False
        self._loop.call_soon_threadsafe(synced, ok)

    def _group_done(self, group: list[tuple[bytes, bytes, Done]], ok: bool) -> None:
        self._syncing = False
        if self._waiting:
            self._schedule()
        for _, _, done in group:
            done(ok)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()


def _seed(name: str) -> int:
    return zlib.crc32(name.encode())


def _write_all(fd: int, data: bytes) -> int:
    """Append all of `data`, or nothing of it: a frame cut by a full disk would break the next."""
    written = os.write(fd, data)
    if written != len(data):
        os.ftruncate(fd, os.fstat(fd).st_size - written)
        raise OSError(f"the disk took {written} of {len(data)} bytes")
    return written


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def records(folder: Path) -> Iterator[tuple[Path, Record]]:
    """Every record of every journal in the folder: for tools and tests, not for shipping."""
    for path in files(folder):
        offset = 0
        while (batch := read(path, offset)).offset > offset:
            yield from ((path, record) for record in batch.records)
            offset = batch.offset


def now_us() -> int:
    """Microseconds since 1970-01-01 UTC, as records carry."""
    return time.time_ns() // 1000
