"""The controller's loop, and the bell that wakes it."""

import contextlib
import logging
import threading
import time
from typing import Any

import psycopg
from django.conf import settings
from django.db import InterfaceError, OperationalError, connection

from inference.models.instance import CONTROLLER_CHANNEL
from inference.reconciler.place import provisioner
from inference.reconciler.rounds import Reconciler

BUSY_ROUND = 1.0  # seconds between rounds while something is on its way
QUIET_ROUND = 5.0

log = logging.getLogger(__name__)


def run(stop: threading.Event) -> None:
    """Reconcile until asked to stop: at once when a person wants something, else by the clock."""
    reconciler = Reconciler(provisioner())
    with contextlib.closing(_Bell(settings.ENV.database)) as bell:
        while not stop.is_set():
            try:
                busy = reconciler.round()
            except (OperationalError, InterfaceError) as error:
                log.warning("instances wait for the database: %s", error)
                connection.close()
                busy = True
            bell.wait(BUSY_ROUND if busy else QUIET_ROUND, stop)


class _Bell:
    """Rings when someone notifies the controller's channel."""

    SLICE = 0.25  # seconds; how soon a stop is noticed

    def __init__(self, database: str) -> None:
        self._database = database
        self._connection: psycopg.Connection[tuple[Any, ...]] | None = None

    def wait(self, seconds: float, stop: threading.Event) -> None:
        deadline = time.monotonic() + seconds
        while not stop.is_set() and time.monotonic() < deadline:
            try:
                if any(self._listening().notifies(timeout=self.SLICE, stop_after=1)):
                    return
            except psycopg.OperationalError:
                self.close()
                stop.wait(self.SLICE)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _listening(self) -> "psycopg.Connection[tuple[Any, ...]]":
        if self._connection is None:
            self._connection = psycopg.connect(self._database, autocommit=True, connect_timeout=5)
            self._connection.execute(f"LISTEN {CONTROLLER_CHANNEL}")
        return self._connection
