"""Grants of limits to the gateways of this machine: the meter's side of `inference.gateway.leases`.

Of a limit with a window the table `billing_limit_grant` knows how much all machines have handed out
together; the update that takes a slice is the arbiter, so a limit is never overshot, whoever dies.
What a gateway does not need goes back: when one is short and nothing is left, the others are asked
for what they have not used. With PostgreSQL away slices are granted by what was known last, and
entered when it is back.

Of a limit on requests at a time each machine claims as many as it needs (`billing_limit_slots`),
and counts them by who is connected. A machine that wants more than is to be had says so there; the
others, which look a few times a second, call back what their gateways do not use, and who holds
more than all others lets go of one in use, too, when it becomes free. A machine that has not been
seen for `CLAIM_HOLDS` seconds has lost its claim.
"""

import asyncio
import logging
import threading
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from socket import gethostname
from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid5

import msgspec
import psycopg

from inference.gateway.leases import (
    Calm,
    FromGateway,
    Give,
    Granted,
    Hello,
    Recall,
    Take,
    framed,
    read_message,
)

log = logging.getLogger(__name__)

NEVER = float("inf")
QUERY_TIMEOUT = 2.0  # seconds; a database that takes longer is away
AWAY_FOR = 1.0  # seconds for which a database that was away is not asked
GRACE = 0.6  # seconds after its start in which gateways report to a meter that begins anew
TIDY_EVERY = 30.0  # seconds
KEEP_AFTER = 120.0  # seconds after a window's end, for clocks that differ
BEAT = 0.25  # seconds between looks at what other machines want of our claims
CLAIM_HOLDS = 10  # seconds that a machine may be silent
PATIENCE = 0.7  # seconds for other machines to let go of what they do not use

_MAKE = """
    INSERT INTO billing_limit_grant (limit_id, window_start, granted) VALUES (%s, %s, 0)
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
_FORGET = "DELETE FROM billing_limit_grant WHERE limit_id = %s AND window_start = %s"
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

_decode = msgspec.msgpack.Decoder(FromGateway).decode


class Gateway:
    """One gateway process that is connected."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer

    def send(self, message: msgspec.Struct) -> None:
        if not self._writer.is_closing():
            self._writer.write(framed(message))

    def close(self) -> None:
        self._writer.close()


@dataclass
class Pool:
    """One limit in one window, as far as this machine is concerned."""

    limit_id: bytes
    start: int
    end: float
    amount: int
    made: bool = False  # its row is there
    spare: int = 0  # taken, and in nobody's hands
    known: int = 0  # handed out over all machines, as was told last
    owed: int = 0  # handed out while the database was away
    held: dict[Gateway, int] = field(default_factory=dict)
    wants: deque[tuple[Gateway, Take]] = field(default_factory=deque)
    asked_back: set[Gateway] = field(default_factory=set)  # whose answer is due
    short: bool = False  # holders were told that it is scarce
    busy: bool = False  # its wants are being served
    # Of requests at a time:
    claim: int = 0  # that this machine may let in
    others: int = 0  # claimed by other machines, as was told last
    wanted: bool = False  # others were told that we want more
    called_back: bool = False  # our gateways were told that others want some
    scarce_until: float = 0.0  # monotonic seconds; until then nobody is asked again
    yields: bool = False  # the next that becomes free is for others
    holds_off: float = 0.0  # monotonic seconds; until then it claims no more

    @property
    def in_use(self) -> int:
        """In the gateways' hands."""
        return sum(self.held.values())

    @property
    def left(self) -> int:
        return max(0, self.amount - self.known - self.owed) + self.spare


class Grants:
    """All pools, and who is connected. Lives on one event loop."""

    def __init__(self, database: str, machine: UUID) -> None:
        """`machine` is the same for as long as its gateways may live."""
        self._database = database
        self._machine = machine
        self._connection: psycopg.AsyncConnection[Any] | None = None
        self._away_until = 0.0
        self._lock = asyncio.Lock()
        self._pools: dict[tuple[bytes, int], Pool] = {}
        self._gateways: set[Gateway] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._began = self._seen_at = time.monotonic()

    async def welcome(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one gateway for as long as it is connected."""
        gateway = Gateway(writer)
        self._gateways.add(gateway)
        try:
            while True:
                self._hear(gateway, _decode(await read_message(reader)))
        except (EOFError, OSError, ValueError, msgspec.DecodeError) as error:
            if not isinstance(error, EOFError | OSError):
                log.error("a gateway was not understood: %s", error)
        finally:
            self._gateways.discard(gateway)
            self._gone(gateway)
            writer.close()

    def _hear(self, gateway: Gateway, message: FromGateway) -> None:
        match message:
            case Hello(held):
                for lease in held:
                    pool = self._pool(lease.limit_id, lease.start, lease.end)
                    pool.held[gateway] = lease.granted
            case Take():
                pool = self._pool(message.limit_id, message.start, message.end)
                pool.amount = message.amount
                pool.wants.append((gateway, message))
                self._serve_soon(pool)
            case Give(limit_id, start, units):
                pool_given = self._pools.get((limit_id, start))
                if pool_given is not None:
                    self._given(pool_given, gateway, units)

    def _pool(self, limit_id: bytes, start: int, end: float) -> Pool:
        pool = self._pools.get((limit_id, start))
        if pool is None:
            pool = self._pools[limit_id, start] = Pool(limit_id, start, end, 0)
        return pool

    def _given(self, pool: Pool, gateway: Gateway, units: int) -> None:
        pool.asked_back.discard(gateway)
        if units:
            pool.held[gateway] = pool.held.get(gateway, 0) - units
            if pool.end != NEVER:
                pool.spare += units
        if pool.wants:
            self._serve_soon(pool)

    def _gone(self, gateway: Gateway) -> None:
        """What it held of a window counts as used; its requests at a time are over."""
        for pool in list(self._pools.values()):
            held = pool.held.pop(gateway, 0)
            pool.asked_back.discard(gateway)
            pool.wants = deque(want for want in pool.wants if want[0] is not gateway)
            if (held and pool.end == NEVER) or pool.wants:
                self._serve_soon(pool)

    # serving

    def _serve_soon(self, pool: Pool) -> None:
        if pool.busy:
            return
        pool.busy = True
        task = asyncio.get_running_loop().create_task(self._serve(pool))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, pool: Pool) -> None:
        """Grant who wants, in the order in which they asked; ask others back where it is scarce."""
        try:
            while pool.wants:
                gateway, take = pool.wants[0]
                units = await self._take(pool, take)
                if not pool.wants or pool.wants[0][1] is not take:
                    pool.spare += units if pool.end != NEVER else 0
                    continue  # it has gone meanwhile
                if not units and (self._ask_back(pool, gateway) or take.wait):
                    return  # goes on when something is handed back
                pool.wants.popleft()
                pool.held[gateway] = pool.held.get(gateway, 0) + units
                gateway.send(
                    Granted(pool.limit_id, pool.start, units, pool.left, len(self._gateways))
                )
            if pool.short:
                pool.short = False
                for holder in pool.held:
                    holder.send(Calm(pool.limit_id))
        except Exception:  # whatever it was, the next question is heard
            log.exception("a limit could not be granted")
        finally:
            pool.busy = False

    def _ask_back(self, pool: Pool, asker: Gateway) -> bool:
        """Whether an answer of somebody else is due, who may hold what is not used."""
        if not pool.short:
            pool.short = True
            for holder, held in pool.held.items():
                if held > 0 and holder is not asker:
                    pool.asked_back.add(holder)
                    holder.send(Recall(pool.limit_id, pool.start))
            if pool.end == NEVER:
                asker.send(Recall(pool.limit_id, pool.start))  # who is short hands back as well
        elif not pool.asked_back and pool.end != NEVER:
            pool.short = False
            return False
        return bool(pool.asked_back)

    async def _take(self, pool: Pool, take: Take) -> int:
        if pool.end == NEVER:
            return await self._take_slots(pool, take)
        if pool.spare >= take.want and not take.beyond:
            pool.spare -= take.want
            return take.want
        spare, pool.spare = pool.spare, 0
        return spare + await self._take_slice(pool, take.want - spare, take.beyond)

    async def _take_slots(self, pool: Pool, take: Take) -> int:
        if (early := self._began + GRACE - time.monotonic()) > 0:
            await asyncio.sleep(early)  # until everybody has said what they hold
        deadline = max(time.monotonic() + PATIENCE, pool.scarce_until)
        if pool.scarce_until > time.monotonic():
            deadline = 0.0
        while True:
            need = pool.in_use + take.want
            if need > pool.claim and time.monotonic() >= pool.holds_off:
                await self._claim(pool, need, need + need // 4 + 4)
            in_use = pool.in_use
            pool.known = in_use + pool.others
            units = max(0, min(take.want, pool.claim - pool.yields - in_use))
            if units or take.wait or not pool.others:
                return units
            if time.monotonic() >= deadline:
                pool.scarce_until = time.monotonic() + PATIENCE
                return 0
            await asyncio.sleep(BEAT / 2)

    async def _claim(self, pool: Pool, need: int, ask: int) -> None:
        """Claim `ask` requests at a time for this machine, or what is to be had of them. Without
        the database: all that others had not claimed when it was there last."""
        in_use = pool.in_use
        pool.claim = min(pool.claim, max(ask, in_use))  # lowered here before it is lowered there
        asked = self._me(pool.limit_id)
        asked |= {"amount": pool.amount, "in_use": in_use, "need": need, "ask": ask}
        try:
            async with self._lock, asyncio.timeout(QUERY_TIMEOUT):
                connection = await self._connect()
                async with connection.transaction():
                    await connection.execute(_LOCK, asked)
                    cursor = await connection.execute(_CLAIM, asked)
                    row = await cursor.fetchone()
        except (psycopg.Error, OSError, TimeoutError) as error:
            self._lost(error)
            pool.claim = max(pool.claim, pool.amount - pool.others)
            return
        if row is not None:
            pool.claim, pool.wanted, pool.others = row

    def _me(self, *limits: bytes) -> dict[str, Any]:
        ids = [UUID(bytes=limit) for limit in limits]
        return {"machine": self._machine, "ids": ids, "id": ids[0], "holds": CLAIM_HOLDS}

    async def heed(self) -> None:
        """Let go of what other machines want and we do not use, for ever."""
        while True:
            await asyncio.sleep(BEAT)
            mine = [p for p in self._pools.values() if p.end == NEVER and (p.claim or p.wants)]
            if not mine:
                continue
            try:
                wanted = await self._wanted(mine)
            except (psycopg.Error, OSError, TimeoutError) as error:
                self._lost(error)
                continue
            try:
                for pool in mine:
                    await self._heed(pool, wanted=pool.limit_id in wanted)
            except Exception:  # whatever it was, the next look is taken
                log.exception("what other machines want could not be heeded")

    async def _wanted(self, pools: list[Pool]) -> set[bytes]:
        """Say that we are there; which of these others want more of."""
        asked = self._me(*(pool.limit_id for pool in pools))
        async with self._lock, asyncio.timeout(QUERY_TIMEOUT):
            connection = await self._connect()
            if time.monotonic() > self._seen_at + CLAIM_HOLDS / 4:
                await connection.execute(_SEEN, asked)
                self._seen_at = time.monotonic()
            cursor = await connection.execute(_WANTED, asked)
            return {row[0].bytes for row in await cursor.fetchall()}

    async def _heed(self, pool: Pool, *, wanted: bool) -> None:
        if wanted:
            if not pool.called_back:
                pool.called_back = True
                for holder in pool.held:
                    holder.send(Recall(pool.limit_id, pool.start))
            elif pool.claim > pool.in_use and (pool.yields or not pool.wants):
                pool.holds_off = time.monotonic() + PATIENCE if pool.yields else 0.0
                await self._claim(pool, pool.in_use, pool.in_use)
                pool.yields = False
            elif pool.wants and pool.claim > pool.others + 1:
                pool.yields = True
        elif pool.called_back:
            pool.called_back = pool.yields = False
            for holder in pool.held:
                holder.send(Calm(pool.limit_id))
        if pool.wants:
            self._serve_soon(pool)
        elif pool.wanted:
            await self._claim(pool, pool.in_use, pool.in_use)  # nobody waits here any more

    async def _take_slice(self, pool: Pool, want: int, beyond: int) -> int:
        """From what all machines share. Without the database: from what was known of it."""
        owed = pool.owed
        asked = {
            "id": UUID(bytes=pool.limit_id),
            "start": datetime.fromtimestamp(pool.start, UTC),
            "amount": pool.amount,
            "want": want + owed,
            "beyond": beyond + owed,
        }
        try:
            async with self._lock, asyncio.timeout(QUERY_TIMEOUT):
                connection = await self._connect()
                if not pool.made:
                    await connection.execute(_MAKE, [asked["id"], asked["start"]])
                    pool.made = True
                cursor = await connection.execute(_TAKE, asked)
                row = await cursor.fetchone()
        except (psycopg.Error, OSError, TimeoutError) as error:
            self._lost(error)
            units = max(beyond, min(want, max(0, pool.amount - pool.known - pool.owed)))
            pool.owed += units
            return units
        if row is None:  # an operator has emptied the table
            pool.made = False
            return await self._take_slice(pool, want, beyond)
        pool.owed = 0
        pool.known = row[1]
        return int(row[0]) - owed

    async def _connect(self) -> psycopg.AsyncConnection[Any]:
        """Raises psycopg.Error, also for a while after it could not be reached."""
        if self._connection is None or self._connection.closed:
            if time.monotonic() < self._away_until:
                raise psycopg.OperationalError("it was away a moment ago")
            self._connection = await psycopg.AsyncConnection.connect(
                self._database,
                autocommit=True,
                application_name="modelport meter",
                connect_timeout=2,
            )
        return self._connection

    def _lost(self, error: Exception) -> None:
        if time.monotonic() >= self._away_until:
            log.warning("limits are granted without the database until it is back: %s", error)
        self._away_until = time.monotonic() + AWAY_FOR
        connection, self._connection = self._connection, None
        if connection is not None:
            task = asyncio.get_running_loop().create_task(_closed(connection))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def tidy(self) -> None:
        """Forget windows that are over, for ever."""
        query, parameters = _FORGET_OLD, ()
        over: list[Pool] = []
        while True:
            with suppress(psycopg.Error, OSError, TimeoutError):
                async with self._lock, asyncio.timeout(QUERY_TIMEOUT):
                    connection = await self._connect()
                    await connection.execute(query, parameters)
                    await connection.execute(_FORGET_SILENT)
                    for pool in over:
                        start = datetime.fromtimestamp(pool.start, UTC)
                        await connection.execute(_FORGET, [UUID(bytes=pool.limit_id), start])
            await asyncio.sleep(TIDY_EVERY)
            query = "SELECT 1"
            past = time.time() - KEEP_AFTER
            over = [pool for pool in self._pools.values() if pool.end < past and not pool.busy]
            for pool in over:
                del self._pools[pool.limit_id, pool.start]

    async def close(self) -> None:
        for gateway in self._gateways:
            gateway.close()
        while self._gateways:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        if self._connection is not None:
            await self._connection.close()


async def _closed(connection: psycopg.AsyncConnection[Any]) -> None:
    with suppress(psycopg.Error, OSError):
        await connection.close()


def machine_of(socket: Path) -> UUID:
    """The same for every meter that has its gateways on this socket, until the machine restarts."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    started = boot.read_text().strip() if boot.exists() else ""
    return uuid5(NAMESPACE_URL, f"{gethostname()} {started} {socket}")


async def serve(socket: Path, database: str, stop: threading.Event) -> None:
    """Answer the gateways of this machine until asked to stop."""
    grants = Grants(database, machine_of(socket))
    server = await asyncio.start_unix_server(grants.welcome, path=str(socket))
    tidying = asyncio.gather(grants.tidy(), grants.heed())
    try:
        while not stop.is_set():  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    finally:
        tidying.cancel()
        server.close()
        await grants.close()


def in_thread(socket: Path, database: str, stop: threading.Event) -> threading.Thread:
    """`serve` in a thread of its own, beside the shipping of journals."""
    socket.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    socket.unlink(missing_ok=True)  # of a meter that was killed; the meter's lock is ours

    def run() -> None:
        while not stop.is_set():
            try:
                asyncio.run(serve(socket, database, stop))
            except Exception:  # limits must not stay without their meter
                log.exception("grants of limits begin anew")
                stop.wait(1)
            socket.unlink(missing_ok=True)

    thread = threading.Thread(target=run, name="grants", daemon=True)
    thread.start()
    return thread
