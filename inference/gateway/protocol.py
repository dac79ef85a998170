"""A client's connection, and the life of a request from its first byte to its bill.

    head → body → key → route → ADMIT → engine → relay → FINAL on disk → last bytes

All in callbacks on the connection's loop. The only things awaited, each in a task of its own and
off the usual path, are a connection that must be opened and a key that is not known yet.
"""

import asyncio
import logging
import time
from collections import deque
from typing import TYPE_CHECKING, Any

import httptools
import msgspec

from billing.usage_record import Admit, Checkpoint, Final, Outcome, Usage, UsageSource
from inference.gateway import errors, metrics, usage
from inference.gateway.errors import Refusal
from inference.gateway.journal import JournalProblem, now_us
from inference.gateway.relay import BrokenStream, Relay
from inference.gateway.request import FIELDS, MAX_BODY, Parsed, parse
from inference.gateway.router import Key, Replica, allowed, choose
from portal.lib.ids import uuid7

if TYPE_CHECKING:
    from inference.gateway.server import GatewayRuntime
    from inference.gateway.upstream import Upstream

log = logging.getLogger(__name__)

HEAD_TIMEOUT = 15.0  # seconds from the first byte of a head to its last
BODY_TIMEOUT = 60.0  # seconds from the head to the last byte of the body
IDLE_TIMEOUT = 75.0  # seconds between requests
FIRST_BYTE_TIMEOUT = 600.0  # seconds that an engine may think before it speaks
STALL_TIMEOUT = 300.0  # seconds without a byte in the middle of an answer
MAX_HEAD = 32 * 1024  # bytes of header names and values
MAX_HEADERS = 100
MAX_PIPELINED = 8  # requests that may wait behind the one under way
MAX_ANSWER = 256 * 1024 * 1024  # bytes of an answer that is not streamed
CHECKPOINT_EVERY = 0.25  # seconds

REASONS = {
    200: b"OK",
    400: b"Bad Request",
    401: b"Unauthorized",
    403: b"Forbidden",
    404: b"Not Found",
    405: b"Method Not Allowed",
    408: b"Request Timeout",
    413: b"Content Too Large",
    415: b"Unsupported Media Type",
    422: b"Unprocessable Content",
    429: b"Too Many Requests",
    431: b"Request Header Fields Too Large",
    500: b"Internal Server Error",
    501: b"Not Implemented",
    502: b"Bad Gateway",
    503: b"Service Unavailable",
    504: b"Gateway Timeout",
}
JSON = b"application/json"


class GatewayProtocol(asyncio.Protocol):
    """One client. Requests are answered in the order in which they came."""

    def __init__(self, runtime: "GatewayRuntime") -> None:
        self.runtime = runtime
        self.transport: asyncio.Transport | None = None
        self.current: Exchange | None = None
        self.waiting: deque[Exchange] = deque()
        self.reading: Exchange | None = None
        self.deadline = time.monotonic() + IDLE_TIMEOUT
        self.write_paused = False
        self._closing = False
        self._parser = httptools.HttpRequestParser(self)
        self._head_size = 0

    @property
    def idle(self) -> bool:
        """Between requests: nothing is being read, answered or waited for."""
        return self.reading is None and self.current is None

    # asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        self.runtime.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.runtime.connections.discard(self)
        self.transport = None
        for exchange in (self.current, self.reading):
            if exchange is not None:
                exchange.client_gone()
        self.current = self.reading = None
        self.waiting.clear()

    def eof_received(self) -> bool:
        return False  # a client that has said its last word has hung up

    def data_received(self, data: bytes) -> None:
        if self._closing:
            return
        try:
            self._parser.feed_data(data)
        except Refusal as refusal:
            self._refuse(refusal)
        except httptools.HttpParserCallbackError as error:
            cause = error.__context__
            refused = isinstance(cause, Refusal)
            if not refused:
                log.error("a request could not be taken in", exc_info=error)
            self._refuse(cause if isinstance(cause, Refusal) else Refusal(500, "Internal error."))
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._refuse(errors.bad_request("This is no HTTP/1.1 request that can be understood."))

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
        self.reading = Exchange(self)
        self._head_size = 0
        self.deadline = time.monotonic() + HEAD_TIMEOUT

    def on_url(self, url: bytes) -> None:
        self._count_head(len(url))
        if self.reading is not None:
            self.reading.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count_head(len(name) + len(value))
        if self.reading is not None:
            self.reading.header(name.lower(), value)

    def on_headers_complete(self) -> None:
        exchange = self.reading
        if exchange is None:
            return
        exchange.method = self._parser.get_method()
        exchange.keep_alive = self._parser.should_keep_alive()
        exchange.http_minor = self._parser.get_http_version()
        self.deadline = time.monotonic() + BODY_TIMEOUT
        exchange.head_complete()
        if exchange.expects_continue and self.idle_but_for_reading and self.transport:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, data: bytes) -> None:
        if self.reading is not None:
            self.reading.body_part(data)

    def on_message_complete(self) -> None:
        exchange, self.reading = self.reading, None
        if exchange is None:
            return
        if self.current is None:
            self.current = exchange
            exchange.begin()
        elif len(self.waiting) < MAX_PIPELINED:
            self.waiting.append(exchange)
            if self.transport is not None:
                self.transport.pause_reading()  # one at a time; what has come is enough
        else:
            raise Refusal(429, "Too many requests are waiting on this connection.")

    # ours

    @property
    def idle_but_for_reading(self) -> bool:
        return self.current is None and not self.waiting

    def finished(self, exchange: "Exchange") -> None:
        """The exchange has written its last byte."""
        if self.current is not exchange:
            return
        self.current = None
        now = time.monotonic()
        if self.transport is None:
            return
        if not exchange.keep_alive or self.runtime.draining:
            self.close()
        elif self.waiting:
            self.current = self.waiting.popleft()
            if not self.waiting:
                self.transport.resume_reading()
            self.current.begin()
        else:
            self.deadline = now + (IDLE_TIMEOUT if self.reading is None else BODY_TIMEOUT)

    def close(self) -> None:
        self._closing = True
        if self.transport is not None:
            self.transport.close()

    def look(self, now: float) -> None:
        """Called each second: end what has taken too long."""
        if self.current is not None:
            self.current.look(now)
        elif now > self.deadline:
            if self.reading is None:
                self.close()
            else:
                self._refuse(Refusal(408, "The request did not arrive in time."))

    def drain(self) -> None:
        """No further request; the one under way is finished."""
        if self.idle:
            self.close()

    def _count_head(self, size: int) -> None:
        self._head_size += size
        if self._head_size > MAX_HEAD:
            raise Refusal(431, "The head of the request is too large.")

    def _refuse(self, refusal: Refusal) -> None:
        """The connection can no longer be understood: one answer, then the end of it."""
        self._closing = True
        exchange, self.reading = self.reading, None
        if self.current is not None:
            self.current.keep_alive = False  # its answer is still on its way; then it closes
            return
        exchange = exchange or Exchange(self)
        exchange.keep_alive = False
        self.current = exchange
        exchange.refuse(refusal)


class Exchange:
    """One request and its answer."""

    __slots__ = (
        "_admitted",
        "_answer",
        "_answer_size",
        "_authorization",
        "_body",
        "_body_size",
        "_checkpoint_at",
        "_client_request_id",
        "_content_encoding",
        "_content_type",
        "_deadline",
        "_ended",
        "_engine_status",
        "_first_at",
        "_headers",
        "_lengths",
        "_parsed",
        "_relay",
        "_replica",
        "_retried",
        "_started",
        "_tail",
        "_task",
        "_upstream",
        "_wire",
        "endpoint",
        "expects_continue",
        "http_minor",
        "keep_alive",
        "method",
        "protocol",
        "request_id",
        "response_started",
        "target",
    )

    def __init__(self, protocol: GatewayProtocol) -> None:
        self.protocol = protocol
        self.request_id = uuid7()
        self.target = b""
        self.method = b""
        self.endpoint = ""
        self.http_minor = "1.1"
        self.keep_alive = True
        self.expects_continue = False
        self.response_started = False
        self._authorization = b""
        self._client_request_id = ""
        self._content_encoding = b""
        self._content_type = b""
        self._headers = 0
        self._lengths = 0
        self._body: list[bytes] = []
        self._body_size = 0
        self._started = 0.0  # monotonic seconds; 0: not begun, or counted already
        self._deadline = 0.0
        self._parsed: Parsed | None = None
        self._replica: Replica | None = None
        self._upstream: Upstream | None = None
        self._wire = b""
        self._retried = False
        self._task: asyncio.Task[None] | None = None
        self._admitted = False
        self._ended = False
        self._relay: Relay | None = None
        self._engine_status = 0
        self._answer: list[bytes] = []
        self._answer_size = 0
        self._first_at = 0.0
        self._checkpoint_at = 0.0
        self._tail = b""

    # taking it in

    def header(self, name: bytes, value: bytes) -> None:
        """Raises Refusal for what could mean two things to two readers."""
        self._headers += 1
        if self._headers > MAX_HEADERS:
            raise Refusal(431, "The request has too many headers.")
        if b"\n" in value or b"\r" in value or b"\0" in value:
            raise errors.bad_request("A header may not go on in a second line.")
        match name:
            case b"authorization":
                self._authorization = value
            case b"content-type":
                self._content_type = value
            case b"content-encoding":
                self._content_encoding = value
            case b"content-length" | b"transfer-encoding":
                self._lengths += 1
                if self._lengths > 1:
                    raise errors.bad_request("The length of the body is given twice.")
                if name == b"content-length" and not value.strip().isdigit():
                    raise errors.bad_request("Content-Length is not a number.")
                if name == b"content-length" and int(value) > MAX_BODY:
                    raise _too_large()
                if name == b"transfer-encoding" and value.strip().lower() != b"chunked":
                    raise Refusal(501, "Transfer-Encoding may be 'chunked' only.")
            case b"expect":
                self.expects_continue = value.strip().lower() == b"100-continue"
            case b"x-request-id":
                text = value.decode("latin-1")
                self._client_request_id = text[:128] if text.isprintable() else ""

    def head_complete(self) -> None:
        """Refuse early what need not send its body. Raises Refusal."""
        if self._content_encoding.strip().lower() not in {b"", b"identity"}:
            raise Refusal(415, "The body may not be compressed.")

    def body_part(self, data: bytes) -> None:
        self._body_size += len(data)
        if self._body_size > MAX_BODY:
            raise _too_large()
        self._body.append(data)

    # answering

    def begin(self) -> None:
        """The request is here in full."""
        self._started = time.monotonic()
        metrics.IN_FLIGHT.inc()
        self._deadline = time.monotonic() + FIRST_BYTE_TIMEOUT
        runtime = self.protocol.runtime
        try:
            self._open_path()
            digest = runtime.authenticator.digest(self._authorization)
            key = runtime.authenticator.known(digest)
        except Refusal as refusal:
            self.refuse(refusal)
            return
        if key is None:
            self._task = runtime.loop.create_task(self._look_up(digest))
        else:
            self._with_key(key)

    async def _look_up(self, digest: bytes) -> None:
        try:
            key = await self.protocol.runtime.authenticator.look_up(digest)
        except Refusal as refusal:
            self.refuse(refusal)
        else:
            self._with_key(key)

    def _open_path(self) -> None:
        """Only whole paths of the list; nothing is decoded, joined or normalised."""
        path, _, _ = self.target.partition(b"?")
        if not path.startswith(b"/v1/"):
            raise _no_such_path(path)
        self.endpoint = path[4:].decode("latin-1")
        wanted = b"GET" if self.endpoint == "models" or self._named_model else b"POST"
        if self.endpoint not in FIELDS and wanted == b"POST":
            raise _no_such_path(path)
        if self.method != wanted:
            raise Refusal(405, f"Use {wanted.decode()} for this path.", code="method_not_allowed")

    @property
    def _named_model(self) -> str:
        prefix, _, name = self.endpoint.partition("/")
        return name if prefix == "models" and name and "/" not in name else ""

    def _with_key(self, key: Key) -> None:
        try:
            if self.endpoint == "models" or self._named_model:
                self._answer_json(200, self._models(key))
            else:
                self._route(key)
        except Refusal as refusal:
            self.refuse(refusal)

    def _models(self, key: Key) -> bytes:
        mine = self.protocol.runtime.snapshot.of_organization(key.organization_id)
        listed: list[dict[str, Any]] = [
            {
                "id": instance.name,
                "object": "model",
                "created": int(instance.created_at.timestamp()),
                "owned_by": "organization",
                "max_model_len": instance.replicas[0].context_length,
            }
            for instance in sorted(mine, key=lambda i: i.name)
            if instance.replicas and allowed(key, instance.name)
        ]
        if not self._named_model:
            return msgspec.json.encode({"object": "list", "data": listed})
        for model in listed:
            if model["id"] == self._named_model:
                return msgspec.json.encode(model)
        raise errors.no_such_model(self._named_model[:64])

    def _route(self, key: Key) -> None:
        runtime = self.protocol.runtime
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self._body = []
        parsed = parse(self.endpoint, body)
        instance = runtime.snapshot.instances.get((key.organization_id, parsed.model))
        replica = choose(instance, key, parsed.model, self.endpoint)
        admit = Admit(
            request_id=self.request_id.bytes,
            organization_id=key.organization_id,
            key_id=key.id,
            instance_id=replica.instance_id,
            replica_id=replica.id,
            model=parsed.model,
            endpoint=self.endpoint,
            stream=parsed.stream,
            admitted_at_us=now_us(),
            client_request_id=self._client_request_id,
        )
        try:
            runtime.journal.admit(admit)
        except JournalProblem as problem:
            log.error("nothing is served that cannot be metered: %s", problem)
            raise Refusal(
                503,
                "Usage cannot be recorded right now, so nothing is served. Try again shortly.",
                code="metering_unavailable",
                retry_after=5,
            ) from problem
        self._admitted = True
        self._parsed = parsed
        self._replica = replica
        replica.outstanding += 1
        if parsed.stream:
            self._relay = Relay(
                include_usage=parsed.include_usage, continuous_usage=parsed.continuous_usage
            )
        self._wire = (
            b"POST /v1/%b HTTP/1.1\r\nHost: engine\r\nContent-Type: application/json\r\n"
            b"X-Request-Id: %b\r\nContent-Length: %d\r\n\r\n"
            % (self.endpoint.encode(), str(self.request_id).encode(), len(parsed.body))
        ) + parsed.body
        parsed.body = b""
        self._send()

    def _send(self) -> None:
        if self._replica is None:
            return
        pool = self.protocol.runtime.pool(self._replica.address)
        upstream = pool.take()
        if upstream is None:
            self._task = self.protocol.runtime.loop.create_task(self._open_upstream())
        else:
            self._sent_on(upstream)

    async def _open_upstream(self) -> None:
        if self._replica is None:
            return
        try:
            upstream = await self.protocol.runtime.pool(self._replica.address).open()
        except (OSError, TimeoutError):
            self._fail(503, "The instance does not answer. Try again in a moment.")
            return
        if self._ended:
            upstream.abort()
        else:
            self._sent_on(upstream)

    def _sent_on(self, upstream: "Upstream") -> None:
        self._upstream = upstream
        if self.protocol.write_paused:
            upstream.pause()
        upstream.send(self, self._wire)

    # what the engine says

    def upstream_head(self, status: int, content_type: bytes) -> None:
        self._engine_status = status
        self._deadline = time.monotonic() + STALL_TIMEOUT
        if status != 200 or not content_type.startswith(b"text/event-stream"):
            self._relay = None  # a whole answer, or an error in place of a stream

    def upstream_body(self, data: bytes) -> None:
        if self._relay is None:
            self._answer_size += len(data)
            if self._answer_size > MAX_ANSWER:
                self._break("The answer is too large.")
            else:
                self._answer.append(data)
            return
        try:
            out = self._relay.feed(data)
        except BrokenStream:
            self._break("The engine sent something that is no stream.")
            return
        if not out:
            return
        now = time.monotonic()
        if not self.response_started:
            self._first_at = now
            metrics.TTFT.observe(now - self._started)
            self._write_head(200, b"text/event-stream; charset=utf-8", None)
        self._deadline = now + STALL_TIMEOUT
        if self._relay.usage is not None and now - self._checkpoint_at > CHECKPOINT_EVERY:
            self._checkpoint(self._relay.usage)
            self._checkpoint_at = now
        self._write_chunk(out)

    def upstream_complete(self) -> None:
        self._release()
        if self._relay is not None:
            self._end_stream(self._relay)
            return
        body = b"".join(self._answer)
        self._answer = []
        self._first_at = self._first_at or time.monotonic()
        if self._engine_status != 200:
            self._engine_refused(self._engine_status, body)
            return
        used, finish = usage.of_answer(body)
        source = UsageSource.ABSENT if used is None else UsageSource.ENGINE
        self._tail = body
        self._final(used or Usage(), source, Outcome.COMPLETED, 200, finish, self._send_whole)

    def _end_stream(self, relay: Relay) -> None:
        if not relay.done:
            self._cut_off(relay)
            return
        if not self.response_started:
            self._write_head(200, b"text/event-stream; charset=utf-8", None)
        source = UsageSource.ABSENT if relay.usage is None else UsageSource.ENGINE
        self._tail = b"data: [DONE]\n\n"
        self._final(
            relay.usage or Usage(), source, Outcome.COMPLETED, 200, relay.finish, self._send_tail
        )

    def _engine_refused(self, status: int, body: bytes) -> None:
        status = status if status in REASONS and status >= 400 else 502
        self._tail = errors.of_engine(status, body)
        self._engine_status = status
        outcome = Outcome.ENGINE_ERROR
        self._final(Usage(), UsageSource.NONE, outcome, status, "", self._send_whole)

    def upstream_lost(self, answered: bool) -> None:
        upstream, self._upstream = self._upstream, None
        if self._ended:
            return
        if not answered and upstream is not None and upstream.reused and not self._retried:
            # The engine closed an idle connection just as we used it: nothing had begun.
            self._retried = True
            self._send()
        elif self._relay is not None and self.response_started:
            self._cut_off(self._relay)
        else:
            self._fail(502, "The instance failed while it was answering.")

    def _cut_off(self, relay: Relay) -> None:
        """The engine broke off in the middle; what it had told until then is the bill."""
        self._tail = (
            b"data: "
            + errors.body(502, "The instance failed while it was answering.", code="engine_failed")
            + b"\n\n"
        )
        self.keep_alive = False
        source = UsageSource.CHECKPOINT if relay.usage else UsageSource.NONE
        if not self.response_started:
            self._fail(502, "The instance failed while it was answering.")
            return
        self._final(
            relay.usage or Usage(), source, Outcome.UPSTREAM_FAILED, 200, "", self._send_tail
        )

    def _break(self, message: str) -> None:
        """End it from our side because the engine does what no engine may."""
        self._abort_upstream()
        if self._relay is not None and self.response_started:
            self._cut_off(self._relay)
        else:
            self._fail(502, message)

    def _fail(self, status: int, message: str) -> None:
        """No byte of an answer has gone out, and none will."""
        if self._ended:
            return
        self._release()
        self._engine_status = status
        self._tail = errors.body(status, message, code="engine_failed")
        outcome = Outcome.UPSTREAM_FAILED
        self._final(Usage(), UsageSource.NONE, outcome, status, "", self._send_whole)

    # what happens to the client

    def client_slow(self) -> None:
        if self._upstream is not None:
            self._upstream.pause()

    def client_caught_up(self) -> None:
        if self._upstream is not None:
            self._upstream.resume()
        self._deadline = time.monotonic() + STALL_TIMEOUT

    def client_gone(self) -> None:
        """Stop the engine at once; what it had told until then is the bill."""
        if self._task is not None:
            self._task.cancel()
        self._abort_upstream()
        if not self._admitted or self._ended:
            self._close_books(499)
            return
        told = self._relay.usage if self._relay else None
        source = UsageSource.CHECKPOINT if told else UsageSource.NONE
        status = 200 if self.response_started else 499
        self._final(told or Usage(), source, Outcome.CLIENT_GONE, status, "", None)

    def look(self, now: float) -> None:
        """Called each second while it is under way."""
        if now <= self._deadline or self._ended:
            return
        if self.protocol.write_paused and self.protocol.transport is not None:
            self.protocol.transport.abort()  # the client has stopped reading
            return
        self._abort_upstream()
        if self._relay is not None and self.response_started:
            self._cut_off(self._relay)
        elif self._admitted:
            self._fail(504, "The instance took too long to answer.")

    # the books

    def _checkpoint(self, told: Usage) -> None:
        try:
            self.protocol.runtime.journal.checkpoint(Checkpoint(self.request_id.bytes, told))
        except JournalProblem as problem:
            log.error("a running usage was not written: %s", problem)  # FINAL will tell

    def _final(
        self,
        used: Usage,
        source: UsageSource,
        outcome: Outcome,
        status: int,
        finish: str,
        then: Any,
    ) -> None:
        """Close the request in the journal; `then` runs when that is on disk."""
        if self._ended:
            return
        self._ended = True
        now = time.monotonic()
        record = Final(
            request_id=self.request_id.bytes,
            usage=used,
            source=source,
            outcome=outcome,
            status=status,
            finish_reason=finish,
            ttft_us=round((self._first_at - self._started) * 1e6) if self._first_at else -1,
            duration_us=round((now - self._started) * 1e6),
        )

        def written(durable: bool) -> None:
            if not durable:
                log.error("request %s: its FINAL is not on disk yet", self.request_id)
            self._close_books(status)
            if then is not None and self.protocol.transport is not None:
                then()

        self.protocol.runtime.journal.final(record, written)

    def _close_books(self, status: int) -> None:
        self._release()
        self._count(status)

    def _count(self, status: int) -> None:
        if self._started:
            metrics.IN_FLIGHT.dec()
            endpoint = self.endpoint if self.endpoint in FIELDS else "other"
            metrics.REQUESTS.labels(endpoint, str(status)).inc()
            self._started = 0.0

    def _release(self) -> None:
        self._upstream = None
        replica, self._replica = self._replica, None
        if replica is not None:
            replica.outstanding -= 1

    def _abort_upstream(self) -> None:
        if self._upstream is not None:
            self._upstream.abort()
        self._release()

    # writing

    def refuse(self, refusal: Refusal) -> None:
        """Answer with an error and no engine."""
        extra = b"Retry-After: %d\r\n" % refusal.retry_after if refusal.retry_after else b""
        if refusal.status == 429:
            extra += b"X-Should-Retry: true\r\n"
        self._ended = True
        self._count(refusal.status)
        self._write_whole(refusal.status, refusal.body(), extra)

    def _answer_json(self, status: int, body: bytes) -> None:
        self._ended = True
        self._count(status)
        self._write_whole(status, body)

    def _send_whole(self) -> None:
        extra = b"Retry-After: 2\r\n" if self._engine_status == 503 else b""
        self._write_whole(self._engine_status, self._tail, extra)

    def _send_tail(self) -> None:
        self._write_chunk(self._tail)
        if self.http_minor != "1.0" and self.protocol.transport is not None:
            self.protocol.transport.write(b"0\r\n\r\n")
        self.protocol.finished(self)

    def _write_whole(self, status: int, body: bytes, extra: bytes = b"") -> None:
        if self.protocol.transport is None:
            return
        self._write_head(status, JSON, len(body), extra, body)
        self.protocol.finished(self)

    def _write_head(
        self,
        status: int,
        content_type: bytes,
        length: int | None,
        extra: bytes = b"",
        body: bytes = b"",
    ) -> None:
        self.response_started = True
        if length is not None:
            framing = b"Content-Length: %d\r\n" % length
        elif self.http_minor == "1.0":
            framing, self.keep_alive = b"", False
        else:
            framing = b"Transfer-Encoding: chunked\r\nCache-Control: no-cache\r\n"
        if self._client_request_id:
            extra += b"X-Client-Request-Id: %b\r\n" % self._client_request_id.encode("latin-1")
        if not self.keep_alive or self.protocol.runtime.draining:
            extra += b"Connection: close\r\n"
        if self.protocol.transport is not None:
            self.protocol.transport.write(
                b"HTTP/1.1 %d %b\r\nContent-Type: %b\r\n%bX-Request-Id: %b\r\n%b\r\n%b"
                % (
                    status,
                    REASONS[status],
                    content_type,
                    framing,
                    str(self.request_id).encode(),
                    extra,
                    body,
                )
            )

    def _write_chunk(self, data: bytes) -> None:
        if self.protocol.transport is None:
            return
        if self.http_minor == "1.0":
            self.protocol.transport.write(data)
        else:
            self.protocol.transport.write(b"%x\r\n%b\r\n" % (len(data), data))


def _too_large() -> Refusal:
    return Refusal(413, f"The body is larger than {MAX_BODY // 2**20} MiB.", code="body_too_large")


def _no_such_path(path: bytes) -> Refusal:
    shown = path[:100].decode("latin-1")
    return Refusal(404, f"There is no {shown} here.", code="unknown_url")
