"""The way from a gateway process to the meter of its machine: for leases of limits and of credit,
and to wake.

Over the Unix socket `run/meter.sock`: each message is its length (u32, little-endian) and a struct
of this module in MessagePack. The meter's side is `inference/grants.py`. With the meter away the
process goes on with what it holds (see `limits`), and reports that when it is back. Where a message
names `purse.CREDIT` instead of a window's start, it is about the credit of the organization whose
id stands in `limit_id`.
"""

import asyncio
import logging
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec

from inference.gateway.lease import Lease
from inference.gateway.limits import Limiter

log = logging.getLogger(__name__)

RECONNECT = 0.2  # seconds
MAX_MESSAGE = 16 * 1024 * 1024  # bytes
LENGTH = struct.Struct("<I")


class Held(msgspec.Struct, array_like=True):
    """One lease, as a process tells a meter that has begun anew."""

    limit_id: bytes
    start: int  # of the window, seconds since 1970-01-01 UTC
    end: float
    granted: int


class Hello(msgspec.Struct, array_like=True, tag="H"):
    held: list[Held]
    writer: str = ""  # of this process's journal


class Take(msgspec.Struct, array_like=True, tag="T"):
    """Ask for `want` units, of which `beyond` are used already and must be granted."""

    limit_id: bytes
    start: int
    end: float  # infinite for what has no window
    amount: int
    want: int
    beyond: int
    wait: bool  # answer when there is some, rather than that there is none
    least: int = 0  # of credit: so much is waited for, and less lets nobody in


class Give(msgspec.Struct, array_like=True, tag="G"):
    """Units handed back. 0 answers a recall: nothing is free."""

    limit_id: bytes
    start: int
    units: int


class Granted(msgspec.Struct, array_like=True, tag="g"):
    limit_id: bytes
    start: int
    units: int  # 0: there is no more
    left: int  # that nobody holds
    processes: int  # that share this machine's limits


class Recall(msgspec.Struct, array_like=True, tag="r"):
    limit_id: bytes
    start: int


class Calm(msgspec.Struct, array_like=True, tag="c"):
    limit_id: bytes


class Wake(msgspec.Struct, array_like=True, tag="W"):
    """A request waits for this instance, which sleeps."""

    instance_id: bytes


FromGateway = Hello | Take | Give | Wake
FromMeter = Granted | Recall | Calm
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(FromMeter).decode


def framed(message: msgspec.Struct) -> bytes:
    payload = _encode(message)
    return LENGTH.pack(len(payload)) + payload


async def read_message(reader: asyncio.StreamReader) -> bytes:
    """The next payload. Raises IncompleteReadError, ValueError."""
    (length,) = LENGTH.unpack(await reader.readexactly(LENGTH.size))
    if length > MAX_MESSAGE:
        raise ValueError("a message is too long")
    return await reader.readexactly(length)


class Leases:
    """This process's connection to the meter; the limiter's Broker."""

    def __init__(self, socket: Path, loop: asyncio.AbstractEventLoop, writer: str = "") -> None:
        """`writer` is of this process's journal, by which its credit is settled."""
        self._socket = socket
        self._journal_writer = writer
        self._loop = loop
        self._writer: asyncio.StreamWriter | None = None
        self._told_away = True  # until it has been there once: it may start after us
        self.processes = 1
        self.now: Callable[[], float] = time.time
        self.limiter = Limiter(self)

    def ask(
        self, lease: Lease, want: int, *, beyond: int = 0, wait: bool = False, least: int = 0
    ) -> None:
        limit = lease.limit
        self._send(Take(limit.id, lease.start, lease.end, limit.amount, want, beyond, wait, least))

    def give(self, lease: Lease, units: int) -> None:
        self._send(Give(lease.limit.id, lease.start, units))

    def wake(self, instance_id: bytes) -> bool:
        """Ask for an instance that sleeps; whether the meter is there to hear it."""
        self._send(Wake(instance_id))
        return self._writer is not None

    def later(self, seconds: float, call: Callable[[], None]) -> Callable[[], None]:
        return self._loop.call_later(seconds, call).cancel

    async def follow(self) -> None:
        """Keep the connection, for ever."""
        while True:
            try:
                await self._talk()
            except (OSError, EOFError, ValueError, msgspec.DecodeError) as error:
                if not self._told_away:
                    log.warning("limits go on without the meter until it is back: %s", error)
                    self._told_away = True
            await asyncio.sleep(RECONNECT)

    async def _talk(self) -> None:
        reader, writer = await asyncio.open_unix_connection(str(self._socket))
        try:
            held = [
                Held(lease.limit.id, lease.start, lease.end, lease.granted)
                for lease in self.limiter.held()
            ]
            writer.write(framed(Hello(held, self._journal_writer)))
            self._writer = writer
            self._told_away = False
            self.limiter.ask_again()
            while True:
                self._hear(_decode(await read_message(reader)))
        finally:
            self._writer = None
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    def _hear(self, message: FromMeter) -> None:
        match message:
            case Granted(limit_id, start, units, left, processes):
                self.processes = max(1, processes)
                self.limiter.granted(limit_id, start, units, left)
            case Recall(limit_id, start):
                self.limiter.recall(limit_id, start)
            case Calm(limit_id):
                self.limiter.calm(limit_id)

    def _send(self, message: FromGateway) -> None:
        if self._writer is not None:
            self._writer.write(framed(message))
