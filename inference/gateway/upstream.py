"""Connections to engines: kept alive, pooled per address, callbacks only."""

import asyncio
import logging
from collections import deque
from typing import Protocol

import httptools

log = logging.getLogger(__name__)

MOST_IDLE = 256  # connections kept per address
IDLE_SECONDS = 4.0  # vLLM closes a connection that was idle for 5 s
CONNECT_TIMEOUT = 5.0  # seconds


class Listener(Protocol):
    """Who hears what an engine answers. All are called from the loop, none may block."""

    def upstream_head(self, status: int, content_type: bytes) -> None: ...
    def upstream_body(self, data: bytes) -> None: ...
    def upstream_complete(self) -> None: ...

    def upstream_lost(self, answered: bool) -> None:
        """The connection ended early; `answered` if any byte of the answer had come."""
        ...


class Upstream(asyncio.Protocol):
    """One connection to an engine; one request at a time."""

    def __init__(self, pool: "Pool") -> None:
        self._pool = pool
        self.listener: Listener | None = None
        self.transport: asyncio.Transport | None = None
        self.reused = False
        self.idle_since = 0.0  # the loop's time
        self._answered = False
        self._content_type = b""
        self._parser = httptools.HttpResponseParser(self)

    def send(self, listener: Listener, request: bytes) -> None:
        """Put a whole request on the wire; the answer goes to the listener."""
        self.listener = listener
        self._answered = False
        self._content_type = b""
        self._transport().write(request)

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

    def _transport(self) -> asyncio.Transport:
        if self.transport is None:
            raise RuntimeError("not connected")
        return self.transport

    # asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        if self.listener is None:  # an engine that talks unasked
            self._transport().abort()
            return
        self._answered = True
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            if isinstance(error, httptools.HttpParserCallbackError):
                log.error("an answer could not be passed on", exc_info=error.__context__)
            self._transport().abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._pool.forget(self)
        self.transport = None
        listener, self.listener = self.listener, None
        if listener is not None:
            listener.upstream_lost(self._answered)

    # httptools

    def on_message_begin(self) -> None:
        if self.listener is None:  # a second answer to one request
            self._transport().abort()

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"content-type":
            self._content_type = value

    def on_headers_complete(self) -> None:
        if self.listener is not None:
            self.listener.upstream_head(self._parser.get_status_code(), self._content_type)

    def on_body(self, data: bytes) -> None:
        if self.listener is not None:
            self.listener.upstream_body(data)

    def on_message_complete(self) -> None:
        # Asked here: once the parser is past the message it answers for the next one.
        keep = self._parser.should_keep_alive()
        listener, self.listener = self.listener, None
        if self.transport is None or self.transport.is_closing():
            pass
        elif keep:
            self.resume()  # it may have been paused for a slow client who needs no more of it
            self._pool.put(self)
        else:
            self.transport.close()
        if listener is not None:
            listener.upstream_complete()


class Pool:
    """The connections to one address, `unix:/path` or `http://host:port`."""

    def __init__(self, address: str, loop: asyncio.AbstractEventLoop) -> None:
        self.address = address
        self._loop = loop
        self._idle: deque[Upstream] = deque()
        self.opened = 0  # connections made so far: tells whether they are reused

    def take(self) -> Upstream | None:
        """An idle connection, the one used last; None where one must be opened."""
        fresh = self._loop.time() - IDLE_SECONDS
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
            if self.address.startswith("unix:"):
                path = self.address.removeprefix("unix:")
                _, upstream = await self._loop.create_unix_connection(lambda: Upstream(self), path)
            else:
                host, _, port = self.address.removeprefix("http://").rpartition(":")
                _, upstream = await self._loop.create_connection(
                    lambda: Upstream(self), host.strip("[]"), int(port)
                )
        return upstream

    def put(self, upstream: Upstream) -> None:
        upstream.idle_since = self._loop.time()
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
