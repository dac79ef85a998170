"""A client's connection: HTTP/1.1 as it must be, in time, one request after the other.

What could mean two things to two readers is refused and ends the connection. A request that is
refused by its head alone (key, path, size) is answered when its body has been thrown away, or at
once, and the connection with it, where the body is long.
"""

import asyncio
import logging
import time
from collections import deque
from typing import TYPE_CHECKING

import httptools

from inference.gateway.errors import Refusal, bad_request
from inference.gateway.heads import Head, split
from inference.gateway.intake import HEADERS
from inference.gateway.output import Output
from inference.gateway.protocol import Exchange
from inference.gateway.request import MAX_BODY

if TYPE_CHECKING:
    from inference.gateway.server import GatewayRuntime

log = logging.getLogger(__name__)

HEAD_TIMEOUT = 15.0  # seconds from the first byte of a head to its last
BODY_TIMEOUT = 60.0  # seconds from the head to the last byte of the body
IDLE_TIMEOUT = 75.0  # seconds between requests
LINGER = 2.0  # seconds to listen on, so that a client still sending can read why it was refused
FLUSH_TIMEOUT = 30.0  # seconds that a client has to read what was written before the end
MAX_HEAD = 32 * 1024  # bytes of a head, names and values
MAX_HEADERS = 100
MAX_BUFFER = 256 * 1024  # bytes that the loop reads at once; a head may lie anywhere in them
MAX_PIPELINED = 8  # requests that may wait behind the one under way
UNREADABLE = "This is no HTTP/1.1 request that can be understood."


class GatewayProtocol(asyncio.Protocol):
    """One client. Requests are answered in the order in which they came."""

    __slots__ = (
        "_closing",
        "_head_size",
        "_headers",
        "_known_by",
        "_parser",
        "_resuming",
        "_size",
        "_unread",
        "current",
        "deadline",
        "last",
        "reading",
        "runtime",
        "transport",
        "waiting",
        "write_paused",
    )

    def __init__(self, runtime: "GatewayRuntime") -> None:
        self.runtime = runtime
        self.transport: asyncio.Transport | None = None
        self.current: Exchange | None = None  # whose answer is due
        self.reading: Exchange | None = None  # whose bytes are coming in
        self.waiting: deque[Exchange] = deque()
        self.deadline = time.monotonic() + IDLE_TIMEOUT
        self.write_paused = False
        self.last = False  # no request after the one under way
        self._closing = False
        self._resuming = False  # a parser is being told of a head that was read already
        self._unread = False  # the client may still be sending what nobody will read
        self._known_by = b""  # of the head that is being read, if that is all there is
        self._head_size = self._headers = self._size = 0
        self._parser = httptools.HttpRequestParser(self)

    @property
    def idle(self) -> bool:
        """Between requests: nothing is being read, answered or waited for."""
        return self.reading is None and self.current is None and not self._closing

    # asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        self.runtime.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.runtime.connections.discard(self)
        self.transport = None
        for exchange in (self.current, self.reading, *self.waiting):
            if exchange is not None:
                exchange.client_gone()
        self.current = self.reading = None
        self.waiting.clear()

    def eof_received(self) -> bool:
        return False  # a client that has said its last word has hung up

    def data_received(self, data: bytes) -> None:
        if self._closing:
            return
        known_by = b""
        if self.current is None and self.reading is None:
            found = split(data)
            if found is not None:
                known_by, length, body = found
                head = self.runtime.heads.get(known_by)
                if head is not None and length == len(body):
                    self._take(head, body)
                    return
        self._known_by = known_by
        try:
            self._feed(data)
        except httptools.HttpParserCallbackError as error:
            self._refuse(_cause(error))
        except httptools.HttpParserError:
            self._refuse(bad_request(UNREADABLE))
        else:
            if self.reading is not None:
                self._weigh(len(data))

    def _take(self, head: Head, body: bytes) -> None:
        """A whole request with nothing before or behind it, whose head has been read before."""
        exchange = self.reading = Exchange(self)
        exchange.take_head(head)
        exchange.authenticate()
        try:
            exchange.body_part(body)
        except Refusal as refusal:
            self._refuse(refusal)
        else:
            self.reading, self.current = None, exchange
            exchange.received = time.monotonic()
            exchange.begin()

    def _feed(self, data: bytes) -> None:
        while True:
            try:
                self._parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as upgrade:
                # We speak no other protocol and answer the request as any; Java's client offers
                # h2c with every first one. The parser has stopped behind the head: another goes on.
                data = data[upgrade.args[0] :]
                self._parser = httptools.HttpRequestParser(self)
                if self.reading is not None:
                    self._resuming = True
                    self._parser.feed_data(b"POST / HTTP/1.1\r\n%b\r\n\r\n" % self.reading.framing)

    def pause_writing(self) -> None:
        self.write_paused = True
        if self.current is not None:
            self.current.client_slow()

    def resume_writing(self) -> None:
        self.write_paused = False
        if self.current is not None:
            self.current.client_caught_up()

    # httptools

    def on_message_begin(self) -> None:
        if self._resuming:
            return
        self.reading = Exchange(self)
        self._head_size = self._headers = self._size = 0
        self.deadline = time.monotonic() + HEAD_TIMEOUT

    def on_url(self, url: bytes) -> None:
        if self._resuming:
            return
        self._head_size += len(url)
        if self._head_size > MAX_HEAD:
            raise Refusal(431, "The head of the request is too large.")
        if self.reading is not None:
            self.reading.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        exchange = self.reading
        if exchange is None or self._resuming:
            return
        self._head_size += len(name) + len(value)
        self._headers += 1
        if self._head_size > MAX_HEAD or self._headers > MAX_HEADERS:
            raise Refusal(431, "The head of the request is too large.")
        if exchange.method:
            raise bad_request("A body may not be followed by further headers.")
        if b"\n" in value or b"\r" in value or b"\0" in value:
            raise bad_request("A header may not go on in a second line.")
        take = HEADERS.get(name.lower())
        if take is not None:
            take(exchange, value)

    def on_headers_complete(self) -> None:
        exchange, parser = self.reading, self._parser
        if self._resuming or exchange is None:
            self._resuming = False
            return
        exchange.method = parser.get_method()
        exchange.http_minor = parser.get_http_version()
        exchange.keep_alive = parser.should_keep_alive()
        if exchange.http_minor not in {"1.0", "1.1"}:
            raise bad_request(UNREADABLE)
        exchange.head_complete()
        known_by, self._known_by = self._known_by, b""
        if known_by and exchange.key is not None and exchange.refusal is None:
            head = None if parser.should_upgrade() else exchange.head()
            if head is not None:
                self.runtime.heads.add(known_by, head)
        self.go_on(exchange)

    def on_body(self, data: bytes) -> None:
        if self.reading is not None:
            self.reading.body_part(data)

    def on_message_complete(self) -> None:
        exchange = self.reading
        if exchange is None or (exchange.framing and self._parser.should_upgrade()):
            return  # the parser leaves out the body of what asks for an upgrade; it comes later
        self.reading = None
        exchange.received = time.monotonic()
        if self._closing:  # what came in one breath with the last request
            exchange.client_gone()
        elif self.current is None:
            self.current = exchange
            exchange.begin()
        elif len(self.waiting) < MAX_PIPELINED:
            self.waiting.append(exchange)
            self._pause_reading()  # one at a time; what has come is enough
        else:
            exchange.client_gone()
            raise Refusal(429, "Too many requests are waiting on this connection.")

    # ours

    def go_on(self, exchange: Exchange) -> None:
        """What the head alone tells is known: take the body, throw it away, or end here."""
        if not self.waiting and not exchange.looking_up:
            self._resume_reading()
        if exchange is not self.reading:
            return  # it has come in full meanwhile
        self.deadline = time.monotonic() + BODY_TIMEOUT
        if exchange.refusal is not None and (exchange.long or exchange.expects_continue):
            self._refuse(exchange.refusal)
        elif exchange.looking_up:
            self._pause_reading()
        elif exchange.expects_continue and self.current is None and self.transport:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def finished(self, exchange: Output) -> None:
        """It has written its last byte."""
        if self.current is not exchange:
            return
        self.current = None
        if self.transport is None:
            return
        if self._closing or self.last or self.runtime.draining or not exchange.keep_alive:
            self.close()
        elif self.waiting:
            self.current = self.waiting.popleft()
            if not self.waiting:
                self._resume_reading()
            self.current.begin()
        else:
            wait = IDLE_TIMEOUT if self.reading is None else BODY_TIMEOUT
            self.deadline = time.monotonic() + wait

    def close(self) -> None:
        """The end, once what was written has been read; not for ever, though."""
        self._closing = True
        transport = self.transport
        if transport is None:
            return
        if self._unread and transport.can_write_eof():
            # Closing over unread bytes would reset the connection and take our answer along.
            self.deadline = time.monotonic() + LINGER
            self._resume_reading()
            transport.write_eof()
        else:
            self.deadline = time.monotonic() + FLUSH_TIMEOUT
            transport.close()

    def cut(self) -> None:
        """The end at once."""
        if self.transport is not None:
            self.transport.abort()

    def look(self, now: float) -> None:
        """Called each second: end what has taken too long."""
        if self.current is not None:
            self.current.look(now)
        elif now > self.deadline:
            if self._closing:
                self.cut()
            elif self.reading is None:
                self.close()
            else:
                self._refuse(Refusal(408, "The request did not arrive in time."))

    def drain(self) -> None:
        """No further request; the one under way is finished, unless it has not begun."""
        self.last = True
        if self.current is not None:
            self.current.drain()
        if self.idle:
            self.close()

    def _weigh(self, size: int) -> None:
        """Bounds what the parser keeps to itself: a header without end, chunks of padding."""
        self._size += size
        if self.reading is None or self.reading.method:
            if self._size > 2 * MAX_BODY:
                self._refuse(Refusal(413, "The request is too large.", code="body_too_large"))
        elif self._size > MAX_HEAD + MAX_BUFFER:
            self._refuse(Refusal(431, "The head of the request is too large."))

    def _refuse(self, refusal: Refusal) -> None:
        """The connection can no longer be understood: one answer, then the end of it."""
        exchange, self.reading = self.reading, None
        self._closing = self._unread = True
        for other in self.waiting:
            other.client_gone()
        self.waiting.clear()
        if self.current is not None:
            self.current.keep_alive = False  # its answer is still on its way; then it closes
            if exchange is not None:
                exchange.client_gone()
            return
        exchange = exchange or Exchange(self)
        exchange.keep_alive = False
        self.current = exchange
        exchange.refuse(refusal)

    def _pause_reading(self) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.pause_reading()

    def _resume_reading(self) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.resume_reading()


def _cause(error: httptools.HttpParserCallbackError) -> Refusal:
    """What our own callback raised inside the parser."""
    cause = error.__context__
    if isinstance(cause, Refusal):
        return cause
    log.error("a request could not be taken in", exc_info=error)
    return Refusal(500, "Internal error.")
