"""One active process each of beat and controller: a PostgreSQL advisory lock, others stand by."""

import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg.conninfo import make_conninfo

RETRY = 1.0  # seconds between tries of a process that stands by
CHECK = 2.0  # seconds between looks whether the lock's connection still lives
# A connection whose other end is gone must fail soon, not when TCP gives up: by then PostgreSQL has
# long given the lock to another process. Seconds, a count, milliseconds; sockets of Unix ignore it.
ALIVE = {
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}


class Leadership(threading.Event):
    """Set when the lock is lost or the process is asked to stop: leave off at once."""


def key_of(name: str) -> int:
    """The advisory lock's number: the same in every process of the installation."""
    return zlib.crc32(f"modelport:{name}".encode())


@contextmanager
def leadership(database: str, name: str, stop: threading.Event) -> Iterator[Leadership | None]:
    """Wait to be the only one called `name`; None if `stop` came first.

    The lock belongs to a connection of its own. Where that breaks, PostgreSQL may give the lock to
    another process, so the yielded event is set and the work must end.
    """
    connection = _acquire(database, name, stop)
    if connection is None:
        yield None
        return
    lost = Leadership()
    watch = threading.Thread(target=_watch, args=(connection, stop, lost), daemon=True)
    watch.start()
    try:
        yield lost
    finally:
        lost.set()
        watch.join()
        connection.close()


def _acquire(
    database: str, name: str, stop: threading.Event
) -> "psycopg.Connection[tuple[object, ...]] | None":
    connection: psycopg.Connection[tuple[object, ...]] | None = None
    while not stop.is_set():
        try:
            if connection is None:
                connection = psycopg.connect(
                    make_conninfo(database, **ALIVE), autocommit=True, connect_timeout=5
                )
            row = connection.execute("SELECT pg_try_advisory_lock(%s)", [key_of(name)]).fetchone()
            if row and row[0]:
                return connection
        except psycopg.OperationalError:
            if connection is not None:
                connection.close()
            connection = None
        stop.wait(RETRY)
    if connection is not None:
        connection.close()
    return None


def _watch(
    connection: "psycopg.Connection[tuple[object, ...]]", stop: threading.Event, lost: Leadership
) -> None:
    while not lost.is_set():
        if stop.is_set():
            lost.set()
            return
        try:
            connection.execute("SELECT 1")
        except psycopg.OperationalError:
            lost.set()
            return
        _wait_either(stop, lost)


def _wait_either(stop: threading.Event, lost: Leadership) -> None:
    waited = 0.0
    while waited < CHECK and not stop.is_set() and not lost.is_set():
        lost.wait(0.1)
        waited += 0.1
