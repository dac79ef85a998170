"""Connections to engines and providers: kept alive, pooled per address, callbacks only.

The reader of answers is our own, for it is on the way of every token: an answer is framed by its
length, by chunks, or by the end of the connection (RFC 9112, section 6). It is strict where two
readers could differ, and is held against httptools in the tests.
"""

import asyncio
import logging
import os
import re
import socket
import struct
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Protocol

log = logging.getLogger(__name__)

MOST_IDLE = 256  # connections kept per address
IDLE_SECONDS = 4.0  # vLLM closes a connection that was idle for 5 s
CONNECT_TIMEOUT = 5.0  # seconds
MAX_HEAD = 64 * 1024  # bytes
_CREDENTIALS = struct.Struct("3i")  # process, user, group
MAX_SIZE_LINE = 4096  # bytes of a chunk's size with its extensions; of a trailer
_BARE = frozenset({204, 304})  # statuses whose answers have no body
_HEX = frozenset(b"0123456789abcdefABCDEF")
_SIZES = {b"%x" % size: size + 2 for size in range(1, 4096)}  # of usual chunks, with their end

# How the rest of an answer is framed; what is not a mode is a number of bytes that are left.
_HEAD, _LENGTH, _SIZE, _DATA, _DATA_END, _TRAILER, _UNTIL_CLOSE, _DONE = range(8)


# As uvicorn answers for an engine: nothing in it that needs a second look.
_USUAL = re.compile(
    rb"HTTP/1\.1 (?!204|304)([2345]\d\d) [^\r\n]*(?:\r\n(?:date|server): [^\r\n]*){0,2}"
    rb"\r\ncontent-length: (\d{1,15})\r\ncontent-type: ([^\r\n]*)"
    rb"(?:\r\nx-request-id: [^\r\n]*)?",
    re.IGNORECASE,
).fullmatch


class BadAnswer(Exception):
    """What came is no answer that can be understood in one way only."""


class Listener(Protocol):
    """Who hears what an engine answers. All are called from the loop, none may block."""

    def upstream_head(self, status: int, content_type: bytes, retry_after: bytes) -> None: ...
    def upstream_body(self, data: bytes) -> None: ...
    def upstream_complete(self) -> None: ...

    def upstream_lost(self, answered: bool) -> None:
        """The connection ended early; `answered` if any byte of the answer had come."""
        ...


class Upstream(asyncio.Protocol):
    """One connection to an engine; one request at a time."""

    __slots__ = (
        "_answered",
        "_carry",
        "_keep",
        "_left",
        "_mode",
        "_pool",
        "idle_since",
        "listener",
        "reused",
        "transport",
    )

    def __init__(self, pool: "Pool") -> None:
        self._pool = pool
        self.listener: Listener | None = None
        self.transport: asyncio.Transport | None = None
        self.reused = False
        self.idle_since = 0.0  # the loop's time
        self._mode = _HEAD
        self._left = 0  # bytes of the body, or of the chunk
        self._carry = b""  # what cannot be understood before more of it is here
        self._answered = False
        self._keep = True

    def send(self, listener: Listener, request: bytes) -> None:
        """Put a whole request on the wire; the answer goes to the listener."""
        self.listener = listener
        self._mode = _HEAD
        self._answered = False
        if self.transport is None:
            raise RuntimeError("not connected")
        self.transport.write(request)

    def abort(self) -> None:
        """Hang up at once, which stops the engine's work on it."""
        self.listener = None
        if self.transport is not None:
            self.transport.abort()

    def pause(self) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.pause_reading()

    def resume(self) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.resume_reading()

    # asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def connection_lost(self, exc: Exception | None) -> None:
        self._pool.forget(self)
        self.transport = None
        listener, self.listener = self.listener, None
        if listener is None:
            return
        if self._mode == _UNTIL_CLOSE and exc is None:
            listener.upstream_complete()
        else:
            listener.upstream_lost(self._answered)

    def data_received(self, data: bytes) -> None:
        listener = self.listener
        if listener is None:  # an engine that talks unasked
            self._hang_up()
            return
        try:
            if self._mode == _SIZE and not self._carry:
                # One whole chunk, as engines send each event: the way of nearly every token.
                size, _, chunk = data.partition(b"\r\n")
                if _SIZES.get(size) == len(chunk) and chunk[-2:] == b"\r\n":
                    listener.upstream_body(chunk[:-2])
                    return
            self._answered = True
            if self._mode == _HEAD:
                if not self._carry and self._read_whole(data, listener):
                    return
                data = self._read_head(self._carry + data if self._carry else data, listener)
                if self.listener is not listener:
                    return
            body = self._read_body(data)
            if body:
                listener.upstream_body(body)
                if self.listener is not listener:
                    return
            if self._mode == _DONE:
                self._complete(listener)
        except BadAnswer as problem:
            log.warning("%s sent no HTTP answer: %s", self._pool.address, problem)
            self._hang_up()
        except Exception:  # a fault of ours may not take along whoever shares the loop
            log.exception("an answer could not be passed on")
            self._hang_up()

    def _hang_up(self) -> None:
        if self.transport is not None:
            self.transport.abort()

    def _complete(self, listener: Listener) -> None:
        self.listener = None
        if self.transport is None or self.transport.is_closing():
            pass
        elif self._keep and not self._carry:
            self.transport.resume_reading()  # it may have been paused for a slow client
            self._pool.put(self)
        else:
            self.transport.close()
        self._carry = b""
        listener.upstream_complete()

    # reading

    def _read_whole(self, data: bytes, listener: Listener) -> bool:
        """Whether this is a whole answer as uvicorn sends it; then the listener has it."""
        end = data.find(b"\r\n\r\n")
        usual = _USUAL(data, 0, end) if end > 0 else None
        if usual is None or end + 4 + int(usual[2]) != len(data) or end + 4 == len(data):
            return False
        self._keep, self._mode = True, _DONE
        listener.upstream_head(int(usual[1]), usual[3], b"")
        if self.listener is listener:
            listener.upstream_body(data[end + 4 :])
            if self.listener is listener:
                self._complete(listener)
        return True

    def _read_head(self, data: bytes, listener: Listener) -> bytes:
        """Tell the listener of the head; what follows it. Raises BadAnswer."""
        while True:
            end = data.find(b"\r\n\r\n")
            if end < 0:
                if len(data) > MAX_HEAD:
                    raise BadAnswer("its head has no end")
                self._carry = data
                return b""
            status, content_type, retry_after = self._understand(data[:end])
            data = data[end + 4 :]
            if status >= 200:
                break
            if status == 101:
                raise BadAnswer("it changes protocols unasked")
            self._mode = _HEAD  # that was an interim answer: the head is yet to come
        self._carry = b""
        listener.upstream_head(status, content_type, retry_after)
        return data

    def _understand(self, head: bytes) -> tuple[int, bytes, bytes]:
        """Status, Content-Type and Retry-After; sets the framing. Raises BadAnswer."""
        usual = _USUAL(head)
        if usual is not None:
            self._keep, self._left = True, int(usual[2])
            self._mode = _LENGTH if self._left else _DONE
            return int(usual[1]), usual[3], b""
        first, *lines = head.split(b"\r\n")
        if first[:7] != b"HTTP/1." or first[8:9] != b" " or not first[9:12].isdigit():
            raise BadAnswer("its status line is none")
        status = int(first[9:12])
        content_type = retry_after = b""
        length = -1
        chunked = False
        keep = first[7:8] == b"1"
        for line in lines:
            name, colon, value = line.partition(b":")
            if not colon or name[-1:].isspace() or name[:1].isspace() or b"\n" in line:
                raise BadAnswer("a header is none")
            name = name.lower()
            if name == b"content-length":
                value = value.strip()
                if not value.isdigit() or len(value) > 18 or length not in {-1, int(value)}:
                    raise BadAnswer("its Content-Length is no number")
                length = int(value)
            elif name == b"content-type":
                content_type = value.strip()
            elif name == b"transfer-encoding":
                if chunked or value.strip().lower() != b"chunked":
                    raise BadAnswer("its Transfer-Encoding is not 'chunked'")
                chunked = True
            elif name == b"connection":
                options = value.lower()
                keep = b"close" not in options and (keep or b"keep-alive" in options)
            elif name == b"retry-after":
                retry_after = value.strip()
            elif name == b"content-encoding" and value.strip().lower() not in {b"", b"identity"}:
                raise BadAnswer("it is compressed unasked")
        if chunked and length >= 0:
            raise BadAnswer("its length is given twice")
        self._keep = keep
        if status in _BARE or length == 0:
            self._mode = _DONE
        elif chunked:
            self._mode = _SIZE
        elif length > 0:
            self._mode, self._left = _LENGTH, length
        else:
            self._mode, self._keep = _UNTIL_CLOSE, False
        return status, content_type, retry_after

    def _read_body(self, data: bytes) -> bytes:
        """The body's bytes in these; what is left over is carried. Raises BadAnswer."""
        mode = self._mode
        if mode == _LENGTH:
            if len(data) < self._left:
                self._left -= len(data)
                return data
            body, self._carry = data[: self._left], data[self._left :]
            self._left = 0
            self._mode = _DONE
            return body
        if mode == _UNTIL_CLOSE:
            return data
        if mode in {_HEAD, _DONE}:
            if mode == _DONE:
                self._carry = data
            return b""
        return self._dechunk(data)

    def _dechunk(self, data: bytes) -> bytes:
        data, self._carry = self._carry + data, b""
        parts: list[bytes] = []
        at = 0
        while at < len(data) and self._mode != _DONE:
            if self._mode == _DATA:
                part = data[at : at + self._left]
                parts.append(part)
                at += len(part)
                self._left -= len(part)
                if not self._left:
                    self._mode = _DATA_END
                continue
            if self._mode == _DATA_END:
                if len(data) - at < 2 and data[at:] == b"\r":
                    break
                if data[at : at + 2] != b"\r\n":
                    raise BadAnswer("a chunk is longer than it says")
                at += 2
                self._mode = _SIZE
                continue
            end = data.find(b"\r\n", at)
            if end < 0:
                if len(data) - at > MAX_SIZE_LINE:
                    raise BadAnswer("a chunk's size has no end")
                break
            line, at = data[at:end], end + 2
            if self._mode == _TRAILER:
                if not line:
                    self._mode = _DONE
                continue
            self._left = _size(line)
            self._mode = _DATA if self._left else _TRAILER
        self._carry = data[at:]
        return parts[0] if len(parts) == 1 else b"".join(parts)


def _size(line: bytes) -> int:
    """The size that a chunk's first line states. Raises BadAnswer."""
    digits = line.partition(b";")[0].rstrip(b" \t") if b";" in line else line
    if not digits or len(digits) > 15 or not _HEX.issuperset(digits):
        raise BadAnswer("a chunk's size is no number")
    return int(digits, 16)


Opener = Callable[["Pool"], Awaitable[Upstream]]


class Pool:
    """The connections to one address: `unix:/path` or `http://host:port` of an engine, or whatever
    the `opener` connects to."""

    def __init__(
        self, address: str, loop: asyncio.AbstractEventLoop, opener: Opener | None = None
    ) -> None:
        self.address = address
        self.loop = loop
        self._opener = opener or _open
        self._idle: deque[Upstream] = deque()
        self.opened = 0  # connections made so far: tells whether they are reused

    def take(self) -> Upstream | None:
        """An idle connection, the one used last; None where one must be opened."""
        fresh = self.loop.time() - IDLE_SECONDS
        while self._idle:
            upstream = self._idle.pop()
            if upstream.transport is None or upstream.transport.is_closing():
                continue
            if upstream.idle_since < fresh:
                upstream.transport.close()
                continue
            upstream.reused = True
            return upstream
        return None

    async def open(self) -> Upstream:
        """A new connection. Raises OSError, TimeoutError."""
        self.opened += 1
        async with asyncio.timeout(CONNECT_TIMEOUT):
            return await self._opener(self)

    def put(self, upstream: Upstream) -> None:
        upstream.idle_since = self.loop.time()
        if len(self._idle) < MOST_IDLE:
            self._idle.append(upstream)
        elif upstream.transport is not None:
            upstream.transport.close()

    def forget(self, upstream: Upstream) -> None:
        if upstream in self._idle:
            self._idle.remove(upstream)

    def close(self) -> None:
        for upstream in list(self._idle):
            if upstream.transport is not None:
                upstream.transport.close()


async def _open(pool: Pool) -> Upstream:
    """Connect to an engine. Raises OSError."""
    if pool.address.startswith("unix:"):
        path = pool.address.removeprefix("unix:")
        transport, upstream = await pool.loop.create_unix_connection(lambda: Upstream(pool), path)
        if _peer(transport) != os.stat(os.path.dirname(path)).st_uid:
            transport.abort()
            raise ConnectionRefusedError(f"{path} leads to somebody else")
    else:
        host, _, port = pool.address.removeprefix("http://").rpartition(":")
        _, upstream = await pool.loop.create_connection(
            lambda: Upstream(pool), host.strip("[]"), int(port)
        )
    return upstream


def _peer(transport: asyncio.BaseTransport) -> int:
    """Whose program listens there (unix(7), SO_PEERCRED).

    An engine may write in its socket's folder, and could put a link to another's socket there.
    """
    credentials = transport.get_extra_info("socket").getsockopt(
        socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size
    )
    return int(_CREDENTIALS.unpack(credentials)[1])


class _Whole:
    """Hears one whole answer."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.answer: asyncio.Future[tuple[int, bytes]] = loop.create_future()
        self._parts: list[bytes] = []
        self._status = 0

    def upstream_head(self, status: int, content_type: bytes, retry_after: bytes) -> None:
        self._status = status

    def upstream_body(self, data: bytes) -> None:
        self._parts.append(data)

    def upstream_complete(self) -> None:
        if not self.answer.done():
            self.answer.set_result((self._status, b"".join(self._parts)))

    def upstream_lost(self, answered: bool) -> None:
        if not self.answer.done():
            self.answer.set_exception(ConnectionError("the engine hung up"))


async def ask(pool: Pool, request: bytes, seconds: float) -> tuple[int, bytes]:
    """A request of our own: its status and body. Raises OSError, TimeoutError."""
    upstream = pool.take() or await pool.open()
    listener = _Whole(pool.loop)
    upstream.send(listener, request)
    try:
        async with asyncio.timeout(seconds):
            return await listener.answer
    except TimeoutError:
        upstream.abort()
        raise
