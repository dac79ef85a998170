"""What all machines share of a limit, in PostgreSQL: the arbiter between their meters.

Of a limit with a window `billing_limit_grant` knows how much all machines have handed out together;
the update that takes a slice decides, so a limit is never overshot, whoever dies. Of requests at a
time each machine claims as many as it needs in `billing_limit_slots`, and says there when it wants
more than is to be had; one that has not been seen for `CLAIM_HOLDS` seconds has lost its claim.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, TypeVar
from uuid import UUID

import psycopg

log = logging.getLogger(__name__)

QUERY_TIMEOUT = 0.8  # seconds; gateways wait for the meter a second, and it should know by then
AWAY_FOR = 1.0  # seconds between looks for a database that is away
CLAIM_HOLDS = 10  # seconds that a machine may be silent

_MAKE = """
    INSERT INTO billing_limit_grant (limit_id, window_start, granted) VALUES (%(id)s, %(start)s, 0)
    ON CONFLICT DO NOTHING
"""
_TAKE = """
    WITH old AS (
        SELECT granted FROM billing_limit_grant
        WHERE limit_id = %(id)s AND window_start = %(start)s FOR UPDATE
    )
    UPDATE billing_limit_grant AS g
    SET granted = g.granted + GREATEST(
        %(beyond)s, LEAST(%(want)s, GREATEST(%(amount)s - old.granted, 0))
    )
    FROM old WHERE g.limit_id = %(id)s AND g.window_start = %(start)s
    RETURNING g.granted - old.granted, g.granted
"""
_FORGET = "DELETE FROM billing_limit_grant WHERE limit_id = %(id)s AND window_start = %(start)s"
_FORGET_OLD = "DELETE FROM billing_limit_grant WHERE window_start < now() - interval '40 days'"

_LOCK = "SELECT pg_advisory_xact_lock(hashtextextended('limit ' || %(id)s::text, 0))"
_CLAIM = """
    WITH others AS (
        SELECT COALESCE(sum(slots), 0)::bigint AS taken FROM billing_limit_slots
        WHERE limit_id = %(id)s AND machine <> %(machine)s
            AND seen_at > now() - make_interval(secs => %(holds)s)
    )
    INSERT INTO billing_limit_slots (limit_id, machine, slots, wanted, seen_at)
    SELECT %(id)s, %(machine)s, GREATEST(%(in_use)s, LEAST(%(ask)s, %(amount)s - taken)),
        %(need)s > %(amount)s - taken, now()
    FROM others
    ON CONFLICT (limit_id, machine) DO UPDATE
    SET slots = EXCLUDED.slots, wanted = EXCLUDED.wanted, seen_at = EXCLUDED.seen_at
    RETURNING slots, wanted, (SELECT taken FROM others)
"""
_SEEN = """
    UPDATE billing_limit_slots SET seen_at = now()
    WHERE machine = %(machine)s AND limit_id = ANY(%(ids)s)
"""
_WANTED = """
    SELECT DISTINCT limit_id FROM billing_limit_slots
    WHERE wanted AND machine <> %(machine)s AND limit_id = ANY(%(ids)s)
        AND seen_at > now() - make_interval(secs => %(holds)s)
"""
_FORGET_SILENT = "DELETE FROM billing_limit_slots WHERE seen_at < now() - interval '1 day'"

T = TypeVar("T")
Connection = psycopg.AsyncConnection[Any]


class Away(Exception):
    """The database cannot be asked right now."""


class Arbiter:
    """One connection, one question at a time. Every question raises Away."""

    def __init__(self, database: str, machine: UUID) -> None:
        """`machine` is the same for as long as its gateways may live."""
        self._database = database
        self._machine = machine
        self._connection: Connection | None = None
        self._away = False
        self._lock = asyncio.Lock()
        self._made: set[tuple[bytes, int]] = set()  # windows whose row is there
        self._seen_at = 0.0  # monotonic seconds; when our claims were renewed last
        self._forgot_old = False
        self._ending: set[asyncio.Task[Any]] = set()

    async def take(
        self, limit_id: bytes, start: int, *, amount: int, want: int, beyond: int
    ) -> tuple[int, int]:
        """Take up to `want` of the window, and `beyond` of them in any case, for they are used
        already; how many, and how much all machines have taken now."""
        asked = {"id": UUID(bytes=limit_id), "start": datetime.fromtimestamp(start, UTC)}
        given = {"amount": amount, "want": want, "beyond": beyond}

        async def question(connection: Connection) -> tuple[int, int] | None:
            if (limit_id, start) not in self._made:
                await connection.execute(_MAKE, asked)
                self._made.add((limit_id, start))
            return await (await connection.execute(_TAKE, asked | given)).fetchone()

        while (taken := await self._ask(question)) is None:
            self._made.discard((limit_id, start))  # an operator has emptied the table
        return taken

    async def claim(
        self, limit_id: bytes, *, amount: int, in_use: int, need: int, ask: int
    ) -> tuple[int, bool, int]:
        """Claim `ask` requests at a time, or what is to be had of them, but no fewer than are in
        use. What is ours now, whether we were seen to `need` more, and what others have."""
        asked: dict[str, Any] = self._me(limit_id)
        asked |= {"amount": amount, "in_use": in_use, "need": need, "ask": ask}

        async def question(connection: Connection) -> tuple[int, bool, int]:
            # Two statements in one go are one transaction; the second sees what others did before
            # they let go of the lock.
            cursor = psycopg.AsyncClientCursor(connection)
            await cursor.execute(f"{_LOCK}; {_CLAIM}", asked)
            cursor.nextset()
            (row,) = await cursor.fetchall()
            return row

        return await self._ask(question)

    async def wanted(self, limit_ids: list[bytes]) -> set[bytes]:
        """Say that we are there; which of these others want more of."""
        asked = self._me(*limit_ids)

        async def question(connection: Connection) -> set[bytes]:
            if time.monotonic() > self._seen_at + CLAIM_HOLDS / 4:
                await connection.execute(_SEEN, asked)
                self._seen_at = time.monotonic()
            rows = await (await connection.execute(_WANTED, asked)).fetchall()
            return {row[0].bytes for row in rows}

        return await self._ask(question)

    async def forget(self, windows: list[tuple[bytes, int]]) -> None:
        """These are over; and, the first time, what was left by others long ago."""

        async def question(connection: Connection) -> None:
            if not self._forgot_old:
                await connection.execute(_FORGET_OLD)
                await connection.execute(_FORGET_SILENT)
                self._forgot_old = True
            for limit_id, start in windows:
                self._made.discard((limit_id, start))
                moment = datetime.fromtimestamp(start, UTC)
                await connection.execute(_FORGET, {"id": UUID(bytes=limit_id), "start": moment})

        await self._ask(question)

    async def close(self) -> None:
        for task in self._ending:
            task.cancel()
        if self._connection is not None:
            await self._connection.close()

    def _me(self, *limits: bytes) -> dict[str, Any]:
        ids = [UUID(bytes=limit) for limit in limits]
        return {"machine": self._machine, "ids": ids, "id": ids[0], "holds": CLAIM_HOLDS}

    async def _ask(self, question: Callable[[Connection], Coroutine[Any, Any, T]]) -> T:
        """The answer, in turn. While the database is away nobody waits for it."""
        async with self._lock:
            if self._away:
                raise Away
            asking = asyncio.create_task(self._asked(question))
            done, _ = await asyncio.wait({asking}, timeout=QUERY_TIMEOUT)
            if not done:
                # Not waited for: the driver would cancel politely and hear the answer first, and
                # a frozen database gives none.
                asking.cancel()
                self._see_off(asking)
                raise self._lost("it does not answer")
            try:
                return asking.result()
            except (psycopg.Error, OSError) as error:
                raise self._lost(str(error)) from error

    async def _asked(self, question: Callable[[Connection], Coroutine[Any, Any, T]]) -> T:
        if self._connection is None or self._connection.closed:
            self._connection = await self._connect()
        return await question(self._connection)

    async def _connect(self) -> Connection:
        return await psycopg.AsyncConnection.connect(
            self._database, autocommit=True, application_name="modelport meter", connect_timeout=2
        )

    def _lost(self, problem: str) -> Away:
        log.warning("limits are granted without the database until it is back: %s", problem)
        self._away = True
        connection, self._connection = self._connection, None
        if connection is not None:
            self._see_off(asyncio.create_task(connection.close()))
        self._see_off(asyncio.create_task(self._come_back()))
        return Away(problem)

    async def _come_back(self) -> None:
        """Look for the database where nobody waits, until it is there."""
        while self._connection is None:
            await asyncio.sleep(AWAY_FOR)
            with suppress(psycopg.Error, OSError):
                self._connection = await self._connect()
        self._away = False

    def _see_off(self, task: asyncio.Task[Any]) -> None:
        """However it ends."""
        self._ending.add(task)
        task.add_done_callback(self._seen_off)

    def _seen_off(self, task: asyncio.Task[Any]) -> None:
        self._ending.discard(task)
        if not task.cancelled():
            task.exception()
