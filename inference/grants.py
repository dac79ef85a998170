"""Grants of limits to the gateways of this machine: the meter's side of `inference.gateway.leases`.

What all machines share is taken from the `arbiter`, a slice at a time. What a gateway does not need
goes back: when one is short and nothing is left, the others are asked for what they have not used.
With PostgreSQL away slices are granted by what was known last, and entered when it is back.

Requests at a time are counted by who is connected, within what this machine has claimed. A few
times a second we look what other machines want: our gateways are called back what they do not use,
and who holds more than all others lets go of one in use, too, when it becomes free.

Credit comes over the same socket and has its own keeper: `inference.credit`.
"""

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from socket import gethostname
from typing import TYPE_CHECKING, Any
from uuid import NAMESPACE_URL, UUID, uuid5

import msgspec

from inference.arbiter import Arbiter, Away
from inference.gateway.leases import (
    Calm,
    FromGateway,
    Give,
    Granted,
    Hello,
    Recall,
    Take,
    Wake,
    framed,
    read_message,
)
from inference.gateway.purse import CREDIT

if TYPE_CHECKING:
    from inference.credit import Credit

log = logging.getLogger(__name__)

NEVER = float("inf")
GRACE = 0.6  # seconds after its start in which gateways report to a meter that begins anew
TIDY_EVERY = 30.0  # seconds
KEEP_AFTER = 120.0  # seconds after a window's end, for clocks that differ
BEAT = 0.25  # seconds between looks at what other machines want of our claims
PATIENCE = 0.7  # seconds for other machines to let go of what they do not use

Waker = Callable[[UUID], object]  # blocks
_decode = msgspec.msgpack.Decoder(FromGateway).decode


class Gateway:
    """One gateway process that is connected."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self.writer = ""  # of its journal
        self.gone = False

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

    def __init__(self, arbiter: Arbiter, wake: Waker, credit: "Credit | None" = None) -> None:
        """Without `credit` no gateway is granted any."""
        self._arbiter = arbiter
        self._credit = credit
        self._wake = wake
        self._waking: set[bytes] = set()  # instances whose turn to be woken it is
        self._pools: dict[tuple[bytes, int], Pool] = {}
        self._gateways: set[Gateway] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._began = time.monotonic()

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
            self._leave(gateway)
            writer.close()

    def _hear(self, gateway: Gateway, message: FromGateway) -> None:
        match message:
            case Hello(held, writer):
                for other in [each for each in self._gateways if each.writer == writer != ""]:
                    self._leave(other)  # whose end is not heard yet
                gateway.writer = writer
                for lease in held:
                    if lease.start == CREDIT:
                        if self._credit is not None:
                            self._keep(self._credit.told(gateway, lease))
                        continue
                    pool = self._pool(lease.limit_id, lease.start, lease.end)
                    pool.held[gateway] = lease.granted
            case Take(start=start) if start == CREDIT:
                self._keep(self._grant_credit(gateway, message))
            case Take():
                pool = self._pool(message.limit_id, message.start, message.end)
                pool.amount = message.amount
                pool.wants.append((gateway, message))
                self._serve_soon(pool)
            case Give(limit_id, start, units) if start == CREDIT:
                if self._credit is not None:
                    self._keep(self._credit.given(gateway, limit_id, units))
            case Give(limit_id, start, units):
                pool_given = self._pools.get((limit_id, start))
                if pool_given is not None:
                    self._given(pool_given, gateway, units)
            case Wake(instance_id):
                if instance_id not in self._waking:
                    self._waking.add(instance_id)
                    self._keep(self._wake_up(instance_id))

    def _leave(self, gateway: Gateway) -> None:
        gateway.gone = True
        self._gateways.discard(gateway)
        self._gone(gateway)
        if self._credit is not None:
            self._credit.left(gateway)

    async def _grant_credit(self, gateway: Gateway, take: Take) -> None:
        if self._credit is not None and gateway.writer:
            units, left = await self._credit.take(gateway, take)
            gateway.send(Granted(take.limit_id, CREDIT, units, left, len(self._gateways)))

    async def _wake_up(self, instance_id: bytes) -> None:
        try:
            await asyncio.to_thread(self._wake, UUID(bytes=instance_id))
        except Exception:  # whatever it was: who waits for it asks again
            log.exception("an instance could not be woken")
        finally:
            self._waking.discard(instance_id)

    def _keep(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

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
        self._keep(self._serve(pool))

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
        now = time.monotonic()
        deadline = now if pool.scarce_until > now else now + PATIENCE
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
        try:
            pool.claim, pool.wanted, pool.others = await self._arbiter.claim(
                pool.limit_id, amount=pool.amount, in_use=in_use, need=need, ask=ask
            )
        except Away:
            pool.claim = max(pool.claim, pool.amount - pool.others)

    async def heed(self) -> None:
        """Let go of what other machines want and we do not use, for ever."""
        while True:
            await asyncio.sleep(BEAT)
            mine = [p for p in self._pools.values() if p.end == NEVER and (p.claim or p.wants)]
            if not mine:
                continue
            try:
                wanted = await self._arbiter.wanted([pool.limit_id for pool in mine])
                for pool in mine:
                    await self._heed(pool, wanted=pool.limit_id in wanted)
            except Away:
                pass
            except Exception:  # whatever it was, the next look is taken
                log.exception("what other machines want could not be heeded")

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
        try:
            taken, pool.known = await self._arbiter.take(
                pool.limit_id,
                pool.start,
                amount=pool.amount,
                want=want + owed,
                beyond=beyond + owed,
            )
        except Away:
            units = max(beyond, min(want, max(0, pool.amount - pool.known - pool.owed)))
            pool.owed += units
            return units
        pool.owed = 0
        return taken - owed

    async def tidy(self) -> None:
        """Forget windows that are over, for ever."""
        over: list[Pool] = []
        while True:
            with suppress(Away):
                await self._arbiter.forget([(pool.limit_id, pool.start) for pool in over])
            await asyncio.sleep(TIDY_EVERY)
            past = time.time() - KEEP_AFTER
            over = [pool for pool in self._pools.values() if pool.end < past and not pool.busy]
            for pool in over:
                del self._pools[pool.limit_id, pool.start]

    async def close(self) -> None:
        for gateway in self._gateways:
            gateway.close()
        while self._gateways:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        await self._arbiter.close()
        if self._credit is not None:
            self._credit.close()


def machine_of(socket: Path) -> UUID:
    """The same for every meter that has its gateways on this socket, until the machine restarts."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    started = boot.read_text().strip() if boot.exists() else ""
    return uuid5(NAMESPACE_URL, f"{gethostname()} {started} {socket}")


async def serve(
    socket: Path,
    database: str,
    wake: Waker,
    stop: threading.Event,
    credit: Callable[[], "Credit"] | None = None,
) -> None:
    """Answer the gateways of this machine until asked to stop."""
    keeper = credit() if credit else None
    grants = Grants(Arbiter(database, machine_of(socket)), wake, keeper)
    server = await asyncio.start_unix_server(grants.welcome, path=str(socket))
    tidying, heeding = asyncio.create_task(grants.tidy()), asyncio.create_task(grants.heed())
    try:
        while not stop.is_set():  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    finally:
        tidying.cancel()
        heeding.cancel()
        server.close()
        await grants.close()


def in_thread(
    socket: Path,
    database: str,
    wake: Waker,
    stop: threading.Event,
    credit: Callable[[], "Credit"] | None = None,
) -> threading.Thread:
    """`serve` in a thread of its own, beside the shipping of journals."""
    socket.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    socket.unlink(missing_ok=True)  # of a meter that was killed; the meter's lock is ours

    def run() -> None:
        while not stop.is_set():
            try:
                asyncio.run(serve(socket, database, wake, stop, credit))
            except Exception:  # limits must not stay without their meter
                log.exception("grants of limits begin anew")
                stop.wait(1)
            socket.unlink(missing_ok=True)

    thread = threading.Thread(target=run, name="grants", daemon=True)
    thread.start()
    return thread
