"""The gateway as a process: its tables, its journal, its connections; alone or beside the pages.

Alone, N workers share one port by SO_REUSEPORT. In `modelport up` the same protocol class keeps
`/v1` for itself on uvicorn's port (`mounted`), so that one address serves everything.
"""

import asyncio
import logging
import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from typing import Any

import uvloop
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from inference.gateway.auth import Authenticator
from inference.gateway.journal import Journal
from inference.gateway.protocol import GatewayProtocol
from inference.gateway.snapshot import Snapshot
from inference.gateway.upstream import Pool
from portal.lib.env import Environment
from portal.lib.processes import die_with_parent

log = logging.getLogger(__name__)

LOAD_TIMEOUT = 30.0  # seconds to wait for the first look at the database
DRAIN_TIMEOUT = 25.0  # seconds that answers under way have to end
LOOK_EVERY = 1.0  # seconds between looks for what has taken too long
BACKLOG = 4096


class GatewayRuntime:
    """What all connections of a process share. Lives on one event loop."""

    def __init__(self, env: Environment) -> None:
        self.loop = asyncio.get_running_loop()
        self.snapshot = Snapshot(env.database)
        self.authenticator = Authenticator(self.snapshot, env.secret("api_key_pepper"))
        self.journal = Journal(env.journal_dir, self.loop)
        self.connections: set[GatewayProtocol] = set()
        self.draining = False
        self._pools: dict[str, Pool] = {}
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Load the tables; without a database it starts all the same, and knows nobody yet."""
        self._tasks = [
            self.loop.create_task(self.snapshot.follow()),
            self.loop.create_task(self._look()),
        ]
        with suppress(TimeoutError):
            async with asyncio.timeout(LOAD_TIMEOUT):
                await self.snapshot.loaded.wait()

    async def stop(self) -> None:
        """Let answers under way end, then close the books."""
        self.draining = True
        for connection in list(self.connections):
            connection.drain()
        with suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_TIMEOUT):
                while any(not c.idle for c in self.connections):  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
        for connection in list(self.connections):
            if connection.transport is not None:
                connection.transport.abort()
        await asyncio.sleep(0)  # their connection_lost writes what they owe to the journal
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for pool in self._pools.values():
            pool.close()
        self.journal.close()

    def pool(self, address: str) -> Pool:
        """The connections to this engine."""
        pool = self._pools.get(address)
        if pool is None:
            pool = self._pools[address] = Pool(address, self.loop)
        return pool

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY)
            now = asyncio.get_running_loop().time()
            for connection in list(self.connections):
                connection.look(now)
            self._forget_pools()

    def _forget_pools(self) -> None:
        """Engines that are gone take their addresses along."""
        live = {r.address for i in self.snapshot.instances.values() for r in i.replicas}
        for address in self._pools.keys() - live:
            self._pools.pop(address).close()


def mounted(runtime: GatewayRuntime) -> type[HttpToolsProtocol]:
    """uvicorn's protocol for pages, which leaves `/v1` to the gateway: for `Config(http=…)`."""

    class Mounted(HttpToolsProtocol):
        """Asks at each request's first bytes whose it is; both kinds may share a connection."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self._v1: GatewayProtocol | None = None
            self._peeked = b""
            self._in_message = False

        def data_received(self, data: bytes) -> None:
            if self._v1 is not None and not self._v1.idle:
                self._v1.data_received(data)
            elif self._pages_busy:
                super().data_received(data)
            else:
                self._dispatch(data)

        def _dispatch(self, data: bytes) -> None:
            data = self._peeked + data
            is_v1 = _is_v1(data)
            if is_v1 is None:
                self._peeked = data
                return
            self._peeked = b""
            if not is_v1:
                super().data_received(data)
                return
            self._unset_keepalive_if_required()  # its idle timer must not end our answer
            if self._v1 is None:
                self._v1 = GatewayProtocol(runtime)
                self._v1.connection_made(self.transport)
            self._v1.data_received(data)

        @property
        def _pages_busy(self) -> bool:
            return self._in_message or (self.cycle is not None and not self.cycle.response_complete)

        def on_message_begin(self) -> None:
            self._in_message = True
            super().on_message_begin()

        def on_message_complete(self) -> None:
            self._in_message = False
            super().on_message_complete()

        def connection_lost(self, exc: Exception | None) -> None:
            if self._v1 is not None:
                self._v1.connection_lost(exc)
            super().connection_lost(exc)

        def pause_writing(self) -> None:
            if self._v1 is not None:
                self._v1.pause_writing()
            super().pause_writing()

        def resume_writing(self) -> None:
            if self._v1 is not None:
                self._v1.resume_writing()
            super().resume_writing()

        def shutdown(self) -> None:
            """uvicorn asks idle connections to close; one that streams ends by itself."""
            if self._v1 is not None and not self._v1.idle:
                return
            super().shutdown()

    return Mounted


def _is_v1(data: bytes) -> bool | None:
    """Whether a request line begins a call to the gateway; None while too little of it is here."""
    data = data.lstrip(b"\r\n")
    method, space, target = data.partition(b" ")
    if not space:
        return None if len(method) < 16 else False
    if len(target) < 4 and b"/v1/".startswith(target):
        return None
    return target.startswith((b"/v1/", b"/v1 ", b"/v1?"))


async def serve(env: Environment, host: str, port: int) -> None:
    """One worker on the port, until SIGTERM or SIGINT; then it drains."""
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
    for number in (signal.SIGTERM, signal.SIGINT):
        runtime.loop.add_signal_handler(number, stop.set)
    log.info("the gateway listens on %s:%d", host, port)
    await stop.wait()
    server.close()
    await runtime.stop()


def run(env: Environment, host: str, port: int, workers: int) -> int:
    """`modelport gateway`: this process is a worker, or the parent of several."""
    if workers == 1:
        uvloop.run(serve(env, host, port))
        return 0
    argv = [sys.executable, "-m", "portal.cli", "gateway", "--host", host, "--port", str(port)]
    children = [
        subprocess.Popen(argv, env=os.environ, preexec_fn=die_with_parent) for _ in range(workers)
    ]

    def pass_on(number: int, frame: object) -> None:
        for child in children:
            child.send_signal(number)

    signal.signal(signal.SIGTERM, pass_on)
    signal.signal(signal.SIGINT, pass_on)
    return max(child.wait() for child in children)
