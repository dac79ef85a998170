"""The gateway as a process: its tables, its journal, its connections; alone or beside the pages.

Alone, N workers share one port by SO_REUSEPORT. Beside the pages it is `mounted` in their process.
"""

import asyncio
import gc
import logging
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Coroutine
from contextlib import suppress
from email.utils import formatdate
from typing import Any

import uvloop

from inference.gateway import metrics, providers
from inference.gateway.access import AccessLog
from inference.gateway.auth import Authenticator
from inference.gateway.connection import GatewayProtocol
from inference.gateway.heads import Heads
from inference.gateway.journal import Journal, JournalProblem
from inference.gateway.leases import Leases
from inference.gateway.snapshot import Snapshot
from inference.gateway.tables import Provider, Replica
from inference.gateway.tracing import tracer
from inference.gateway.upstream import Pool
from inference.gateway.waking import Waking
from portal.lib.env import Environment
from portal.lib.processes import die_with_parent

log = logging.getLogger(__name__)

LOAD_TIMEOUT = 30.0  # seconds to wait for the first look at the database
DRAIN_TIMEOUT = 25.0  # seconds that answers under way have to end, beside the pages
CHECKPOINT_EVERY = 0.25  # seconds between notes of what streams have used so far
LOOK_EVERY = 1.0  # seconds between looks for what has taken too long
BACKLOG = 4096
SHORT_LIFE = 3.0  # seconds; a worker that lives shorter may be one that cannot live
LONGEST_BACKOFF = 30.0  # seconds between two tries


class GatewayRuntime:
    """What all connections of a process share. Lives on one event loop."""

    def __init__(
        self, env: Environment, *, snapshot: Snapshot | None = None, durable: bool = True
    ) -> None:
        """Without `durable` nothing waits for the disk: for measuring what that costs."""
        self.loop = asyncio.get_running_loop()
        self._env = env
        self._telling: asyncio.Server | None = None
        self.snapshot = snapshot or Snapshot(
            env.database, env.secret("secret_key"), env.currency, url=env.public_url
        )
        self.authenticator = Authenticator(self.snapshot, env.secret("api_key_pepper"))
        self.heads = Heads()
        self.journal = Journal(env.journal_dir, self.loop, durable=durable)
        self.leases = Leases(env.meter_socket, self.loop, self.journal.writer)
        self.limiter = self.leases.limiter
        self.waking = Waking(self.snapshot, self.leases.wake, time.time)
        self.snapshot.on_change = self.waking.changed
        self.wake_wait = env.wake_wait
        self.connections: set[GatewayProtocol] = set()
        self.draining = False
        self.hurried = asyncio.Event()  # told to end once more: nothing is waited for any longer
        self.buffered = 0  # bytes of requests' bodies in memory
        self.access = AccessLog(env.access_log) if env.access_log else None
        self.tracer = tracer(os.environ)
        self.tells = self.access is not None or self.tracer is not None
        self.date = _date_header()
        self.provider_hosts = env.provider_hosts
        self.provider_tls: ssl.SSLContext | None = None  # None: the system's certificates
        self._pools: dict[str, Pool] = {}
        self._provider_pools: dict[Provider, Pool] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._later: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Load the tables; without a database it starts all the same, and knows nobody yet."""
        self._env.make_run_dir()
        folder = self._env.run_dir / metrics.FOLDER
        folder.mkdir(mode=0o700, exist_ok=True)
        self._told_at = metrics.socket_of(folder, os.getpid())
        self._told_at.unlink(missing_ok=True)
        self._telling = await asyncio.start_unix_server(self._tell, path=str(self._told_at))
        self._tasks = [
            self.loop.create_task(self.snapshot.follow()),
            self.loop.create_task(self.leases.follow()),
            self.loop.create_task(self._look()),
            self.loop.create_task(self._checkpoint()),
        ]
        with suppress(TimeoutError):
            async with asyncio.timeout(LOAD_TIMEOUT):
                await self.snapshot.loaded.wait()
        gc.freeze()  # what is here now stays: the collector need not walk it again

    async def stop(self, drain: float = DRAIN_TIMEOUT) -> None:
        """Let answers under way end within so many seconds, then close the books."""
        self.draining = True
        for connection in list(self.connections):
            connection.drain()
        with suppress(TimeoutError):
            async with asyncio.timeout(drain):
                while not self.hurried.is_set() and any(not c.idle for c in self.connections):  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
        for connection in list(self.connections):
            if connection.transport is not None:
                connection.transport.abort()
        for _ in range(10):  # their connection_lost writes what they owe to the journal
            await asyncio.sleep(0)
        await asyncio.gather(*self._later, return_exceptions=True)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for pool in (*self._pools.values(), *self._provider_pools.values()):
            pool.close()
        self.journal.close()
        if self.access is not None:
            self.access.close()
        if self.tracer is not None:
            await asyncio.to_thread(self.tracer.close)
        if self._telling is not None:
            self._telling.close()
            self._told_at.unlink(missing_ok=True)

    async def _tell(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Tell whoever is scraped what this process counts."""
        asked: list[Replica | Provider] = list(self.snapshot.providers.values())
        for instance in self.snapshot.instances.values():
            asked += instance.replicas
        now = time.monotonic()
        await metrics.tell(
            reader,
            writer,
            {
                "journal_syncs": self.journal.syncs,
                "journal_sync_seconds": self.journal.sync_seconds,
            },
            {
                "connections": len(self.connections),
                "open_requests": self.journal.open_requests,
                "waiting": self.limiter.waiting + self.waking.waiting,
                "open_breakers": sum(where.open_until > now for where in asked),
                "snapshot_age_seconds": now - self.snapshot.loaded_at,
            },
        )

    def later(self, work: Coroutine[Any, Any, None]) -> None:
        """Do this off the way of requests; a stop waits for it."""
        task = self.loop.create_task(work)
        self._later.add(task)
        task.add_done_callback(self._later.discard)

    def pool(self, address: str) -> Pool:
        """The connections to this engine."""
        pool = self._pools.get(address)
        if pool is None:
            pool = self._pools[address] = Pool(address, self.loop)
        return pool

    def pool_of(self, where: Replica | Provider) -> Pool:
        """The connections to a replica, or to a provider."""
        if isinstance(where, Replica):
            return self._pools.get(where.address) or self.pool(where.address)
        # Another address or secret is another provider to the snapshot, and gets another pool.
        pool = self._provider_pools.get(where)
        if pool is None:
            connect = providers.opener(where, self.provider_hosts, context=self.provider_tls)
            pool = self._provider_pools[where] = Pool(where.base_url, self.loop, connect)
        return pool

    async def _checkpoint(self) -> None:
        """Write down what streams have used so far: of all of them at once."""
        while True:
            await asyncio.sleep(CHECKPOINT_EVERY)
            told = [c.current.checkpoint() for c in self.connections if c.current is not None]
            records = [record for record in told if record is not None]
            try:
                if records:
                    self.journal.checkpoint(*records)
            except JournalProblem as problem:
                log.error("running usage was not written: %s", problem)  # FINALs will tell

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY)
            now = time.monotonic()
            self.date = _date_header()
            for connection in list(self.connections):
                connection.look(now)
            self._forget_pools()
            self.limiter.forget_old()
            self.limiter.look_after_credit()
            self.waking.look()
            metrics.BOOK.forget(self.snapshot.instances_by_id)
            if self.access is not None:
                self.access.write()

    def _forget_pools(self) -> None:
        """Engines that are gone take their addresses along."""
        live = {r.address for i in self.snapshot.instances.values() for r in i.replicas}
        for address in self._pools.keys() - live:
            self._pools.pop(address).close()
        for provider in self._provider_pools.keys() - set(self.snapshot.providers.values()):
            self._provider_pools.pop(provider).close()


def _date_header() -> bytes:
    return f"Date: {formatdate(usegmt=True)}\r\n".encode()


async def serve(env: Environment, host: str, port: int) -> None:
    """One worker on the port, until SIGTERM or SIGINT; then it drains, until told once more."""
    runtime = GatewayRuntime(env)
    await runtime.start()
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind((host, port))
    server = await runtime.loop.create_server(
        lambda: GatewayProtocol(runtime), sock=listener, backlog=BACKLOG
    )
    stop = asyncio.Event()

    def told() -> None:
        (runtime.hurried if stop.is_set() else stop).set()

    for number in (signal.SIGTERM, signal.SIGINT):
        runtime.loop.add_signal_handler(number, told)
    log.info("the gateway listens on %s:%d", host, port)
    await stop.wait()
    server.close()
    await runtime.stop(env.drain)


def run(env: Environment, host: str, port: int, workers: int) -> int:
    """`modelport gateway`: this process is a worker, or the parent of several."""
    if workers == 1:
        uvloop.run(serve(env, host, port))
        return 0
    argv = [sys.executable, "-m", "portal.cli", "gateway", "--host", host, "--port", str(port)]
    return Workers(argv, workers).run()


class Workers:
    """Several workers on one port. One that dies is replaced, at once the first time."""

    def __init__(self, argv: list[str], count: int) -> None:
        self._argv = argv
        self._count = count
        self._running: dict[subprocess.Popen[bytes], float] = {}  # since when, monotonic seconds
        self._short_lives = 0  # in a row
        self._stopping = False

    def run(self) -> int:
        """Until SIGTERM or SIGINT, which are passed on; the worst exit status of the last ones."""
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGINT, self._stop)
        for _ in range(self._count):
            self._start()
        worst = 0
        while self._running:
            for worker in list(self._running):
                with suppress(subprocess.TimeoutExpired):
                    status = abs(worker.wait(timeout=LOOK_EVERY / self._count))
                    worst = max(worst, status) if self._stopping else 0
                    self._ended(worker)
        return worst

    def _start(self) -> None:
        worker = subprocess.Popen(self._argv, env=os.environ, preexec_fn=die_with_parent)
        self._running[worker] = time.monotonic()

    def _ended(self, worker: subprocess.Popen[bytes]) -> None:
        lived = time.monotonic() - self._running.pop(worker)
        if self._stopping:
            return
        self._short_lives = self._short_lives + 1 if lived < SHORT_LIFE else 0
        log.error("a gateway worker ended with status %d and is replaced", worker.returncode)
        if self._short_lives > self._count:  # one that cannot live is not worth a core
            time.sleep(min(2.0 ** (self._short_lives - self._count), LONGEST_BACKOFF))
        if not self._stopping:
            self._start()

    def _stop(self, number: int, frame: object) -> None:
        self._stopping = True
        for worker in self._running:
            worker.send_signal(number)
