"""The controller's loop, and the bell that wakes it."""

import contextlib
import logging
import threading
import time
from collections.abc import Collection
from typing import Any
from uuid import UUID

import psycopg
from django.conf import settings
from django.db import InterfaceError, OperationalError, connection

from inference.models.instance import CONTROLLER_CHANNEL
from inference.provisioners.base import Provisioner
from inference.reconciler.place import provisioner
from inference.reconciler.rounds import Reconciler

BUSY_ROUND = 1.0  # seconds between rounds while something is on its way
QUIET_ROUND = 5.0
WATCH = 0.5  # seconds between glances at the place in between

log = logging.getLogger(__name__)


def run(stop: threading.Event, place: Provisioner | None = None) -> None:
    """Reconcile until asked to stop: at once when a person wants something, else by the clock."""
    reconciler = Reconciler(place or provisioner())
    with contextlib.closing(_Bell(settings.ENV.database)) as bell:
        about: Collection[UUID] = ()
        busy, due = True, 0.0  # monotonic seconds; then the whole is looked at again
        while not stop.is_set():
            whole = time.monotonic() >= due
            try:
                moves = reconciler.round(() if whole else about)
            except (OperationalError, InterfaceError) as error:
                log.warning("instances wait for the database: %s", error)
                connection.close()
                moves = True
            busy = moves if whole else busy or moves
            next_due = time.monotonic() + (BUSY_ROUND if busy else QUIET_ROUND)
            due = next_due if whole else min(due, next_due)
            about = _news(bell, reconciler, due, stop)
            if not about:
                due = 0.0


def _news(
    bell: "_Bell", reconciler: Reconciler, due: float, stop: threading.Event
) -> Collection[UUID]:
    """The instances that somebody wants something of; none where all are to be looked at."""
    while not stop.is_set() and (now := time.monotonic()) < due:
        called = bell.wait(min(due, now + WATCH), stop)
        if called is not None:
            return called
        if reconciler.stirs():
            break
    return ()


class _Bell:
    """Rings when someone notifies the controller's channel."""

    SLICE = 0.25  # seconds; how soon a stop is noticed

    def __init__(self, database: str) -> None:
        self._database = database
        self._connection: psycopg.Connection[tuple[Any, ...]] | None = None

    def wait(self, due: float, stop: threading.Event) -> set[UUID] | None:
        """Whom it rings for; nobody means all. None where it does not ring until then."""
        while not stop.is_set() and (left := due - time.monotonic()) > 0:
            try:
                heard = self._listening().notifies(timeout=min(left, self.SLICE), stop_after=1)
                called = [notice.payload for notice in heard]
            except psycopg.OperationalError:
                self.close()
                stop.wait(self.SLICE)
                continue
            if called:
                return {UUID(id_) for id_ in called if id_}
        return None

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _listening(self) -> "psycopg.Connection[tuple[Any, ...]]":
        if self._connection is None:
            self._connection = psycopg.connect(self._database, autocommit=True, connect_timeout=5)
            self._connection.execute(f"LISTEN {CONTROLLER_CHANNEL}")
        return self._connection
