"""The meter of this machine: ships its gateways' journals into the usage table.

It keeps no notes of its own. What is shipped is known by the usage table (a replay is a no-op),
what is not is in the journals, so the meter may be killed anywhere and begins again by reading.
`inference.gateway.journal` states what the files promise and when one may be deleted.
"""

import fcntl
import logging
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from pathlib import Path
from uuid import UUID, uuid4

import msgspec
from django.db import InterfaceError, OperationalError, connection

from billing import holds, usage
from billing.usage_record import Admit, Checkpoint, Final, settle
from inference import grants
from inference.credit import Credit
from inference.gateway import journal
from inference.gateway.machine import REFUSED, mark_shipped
from inference.wake import wake

log = logging.getLogger(__name__)

INTERVAL = 0.25  # seconds between looks at the journals
LONGEST_WAIT = 5.0  # seconds between tries while PostgreSQL is away
BATCH = 4000  # requests in one transaction
CLOSE_EVERY = 60.0  # seconds between looks for leases of gateways that are no more
MACHINE = ".machine"  # in the folder of the journals: by which leases know it

Finished = tuple[Admit, Final]


@dataclass
class Stream:
    """What has been read of one gateway process's journal."""

    offsets: dict[Path, int] = field(default_factory=dict)
    open: dict[bytes, Admit] = field(default_factory=dict)
    checkpoints: dict[bytes, Checkpoint] = field(default_factory=dict)

    def read(self, path: Path) -> list[Finished]:
        """Take in at most one window of new records; the requests that they finish."""
        start = self.offsets.get(path, 0)
        batch = journal.read(path, start)
        if batch.damaged:
            log.error(
                "%s: %d bytes before offset %d are damaged; usage may have been lost there",
                path.name,
                batch.damaged,
                batch.offset,
            )
        self.offsets[path] = batch.offset
        finished = []
        for record in batch.records:
            match record:
                case Admit():
                    self.open[record.request_id] = record
                case Checkpoint():
                    self.checkpoints[record.request_id] = record
                case Final():
                    self.checkpoints.pop(record.request_id, None)
                    admit = self.open.pop(record.request_id, None)
                    if admit is None:
                        log.error("%s: a FINAL without its ADMIT", path.name)
                    else:
                        finished.append((admit, record))
        return finished

    def settle(self, died_at_us: int) -> list[Finished]:
        """The open requests of a dead gateway, each by its last CHECKPOINT."""
        settled = [
            (admit, settle(admit, self.checkpoints.get(request_id), died_at_us))
            for request_id, admit in self.open.items()
        ]
        self.open.clear()
        self.checkpoints.clear()
        return settled


class Meter:
    """Reads journals, ships what is finished, deletes what is shipped."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._streams: dict[str, Stream] = {}
        self._pending: dict[str, list[Finished]] = {}  # by writer: read, not yet committed
        self._machine = machine_of(folder)
        self._close_at = 0.0  # monotonic seconds

    def ship(self) -> int:
        """One round over all journals; how many requests it shipped. Raises OperationalError."""
        shipped = self._commit()  # what an earlier round could not
        for writer, group in groupby(journal.files(self._folder), key=journal.writer_of):
            shipped += self._ship_writer(writer, list(group))
        self._close_leases()
        return shipped

    def _close_leases(self) -> None:
        """Of gateways without a journal, should we have been killed before we could."""
        if time.monotonic() >= self._close_at:
            self._close_at = time.monotonic() + CLOSE_EVERY
            # Asked for first: a gateway has its journal before it has a lease.
            writers = holds.open_writers(self._machine)
            holds.close(writers - {journal.writer_of(path) for path in journal.files(self._folder)})

    def _ship_writer(self, writer: str, paths: list[Path]) -> int:
        # Asked before reading: a writer that is dead now has written all it ever will.
        alive = journal.is_alive(paths[-1])
        stream = self._streams.setdefault(writer, Stream())
        shipped = 0
        for path in paths:
            shipped += self._ship_file(writer, stream, path)
            if path != paths[-1]:  # rotated away: the next file has all that is still open
                self._forget(stream, path)
        if not alive:
            died_at_us = paths[-1].stat().st_mtime_ns // 1000
            self._pending.setdefault(writer, []).extend(stream.settle(died_at_us))
            shipped += self._commit()
            holds.close({writer})
            self._forget(stream, paths[-1])
            del self._streams[writer]
        return shipped

    def _ship_file(self, writer: str, stream: Stream, path: Path) -> int:
        shipped = 0
        while True:
            before = stream.offsets.get(path, 0)
            self._pending.setdefault(writer, []).extend(stream.read(path))
            shipped += self._commit()
            if stream.offsets[path] == before:
                return shipped

    def _commit(self) -> int:
        shipped = 0
        for writer, pending in list(self._pending.items()):
            while pending:
                batch = pending[:BATCH]
                self._set_aside(usage.ingest_or_set_aside(batch, writer))
                del pending[: len(batch)]
                shipped += len(batch)
            del self._pending[writer]
        return shipped

    def _forget(self, stream: Stream, path: Path) -> None:
        path.unlink(missing_ok=True)
        stream.offsets.pop(path, None)

    def _set_aside(self, refused: Sequence[tuple[Admit, Final, Exception]]) -> None:
        if not refused:
            return
        with (self._folder / REFUSED).open("ab") as file:
            for admit, final, error in refused:
                line = msgspec.json.encode({"admit": admit, "final": final, "why": str(error)})
                file.write(line + b"\n")


def machine_of(folder: Path) -> UUID:
    """Whose journals these are: the same for as long as the folder is there."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / MACHINE
    if not path.exists():
        draft = path.with_suffix(".new")
        draft.write_text(str(uuid4()))
        draft.replace(path)
    return UUID(path.read_text().strip())


@contextmanager
def only_meter(folder: Path, stop: threading.Event) -> Iterator[bool]:
    """Wait until no other meter works on this folder; False if asked to stop before."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (folder / ".meter.lock").open("w") as file:
        while not stop.is_set():
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                stop.wait(1)
            else:
                yield True
                return
        yield False


def run(stop: threading.Event, folder: Path, socket: Path, database: str) -> None:
    """Ship until asked to stop, then once more, so that a clean stop leaves nothing behind.

    Beside it gateways are granted their leases of limits and of credit, and may have instances
    woken, over the socket.
    """
    with only_meter(folder, stop) as mine:
        if not mine:
            return
        credit = partial(Credit, machine_of(folder))
        granting = grants.in_thread(socket, database, wake, stop, credit)
        meter = Meter(folder)
        wait = INTERVAL
        prepared = False
        while True:
            stopping = stop.is_set()
            try:
                if not prepared:
                    usage.ensure_partitions()
                    prepared = True
                meter.ship()
                mark_shipped(folder)
                wait = INTERVAL
            except (OperationalError, InterfaceError) as error:
                # PostgreSQL is away. Nothing is lost meanwhile: the journals keep it.
                log.warning("usage waits for the database: %s", error)
                connection.close()
                wait = min(wait * 2, LONGEST_WAIT)
            if stopping:
                granting.join()
                return
            stop.wait(wait)
