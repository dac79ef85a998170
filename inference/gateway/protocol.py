"""The life of a request, from its head to its bill.

    head → key → body → route → ADMIT → engine → relay → FINAL on disk → last bytes

All in callbacks on the connection's loop. The only things awaited, each in a task of its own and
off the usual path, are a connection that must be opened and a key that is not known yet.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from billing.usage_record import Admit, Checkpoint, Final, Outcome, Usage, UsageSource
from inference.gateway import errors, metrics, response, usage
from inference.gateway.errors import Refusal
from inference.gateway.intake import Intake
from inference.gateway.journal import JournalProblem, now_us
from inference.gateway.relay import BrokenStream, Relay
from inference.gateway.request import FIELDS, Parsed, parse
from inference.gateway.router import allowed, choose
from inference.gateway.tables import Instance, Key, Replica

if TYPE_CHECKING:
    from inference.gateway.connection import GatewayProtocol
    from inference.gateway.upstream import Upstream

log = logging.getLogger(__name__)

FIRST_BYTE_TIMEOUT = 600.0  # seconds that an engine may think before it speaks
STALL_TIMEOUT = 300.0  # seconds without a byte in the middle of an answer
MAX_ANSWER = 256 * 1024 * 1024  # bytes of an answer that is not streamed
CHECKPOINT_SECONDS = 0.25
CHECKPOINT_EVENTS = 32

NOBODY = bytes(16)
BROKE_OFF = "The instance failed while it was answering."

Then = Callable[[], None]


class Exchange(Intake):
    """One request and its answer. What stands below is how each begins."""

    received = 0.0  # when its last byte came; all times are monotonic seconds
    looking_up = False  # its key is being asked for
    response_started = False

    _key: Key | None = None
    _begun = 0.0  # 0: not yet, or counted already
    _deadline = 0.0
    _parsed: Parsed | None = None
    _replica: Replica | None = None
    _upstream: "Upstream | None" = None
    _wire = b""
    _retried = False
    _task: asyncio.Task[None] | None = None
    _admitted = False
    _ended = False
    _relay: Relay | None = None
    _engine_status = 0
    _answer: bytes | list[bytes] = b""
    _answer_size = 0
    _first_at = 0.0
    _checkpoint_at = 0.0
    _checkpoint_events = 0
    _tail = b""

    def __init__(self, protocol: "GatewayProtocol") -> None:
        super().__init__(protocol.runtime)
        self.protocol = protocol

    # -------------------------------------------------------------------------- who is asking

    def head_complete(self) -> None:
        """Say at once what the head alone decides, before anything is kept of the body."""
        try:
            self.open_path()
            self._authenticate()
        except Refusal as refusal:
            self.refusal = refusal

    def _authenticate(self) -> None:
        authenticator = self.runtime.authenticator
        digest = authenticator.digest(self.authorization)
        self._key = authenticator.known(digest)
        if self._key is None:
            self.looking_up = True
            self._task = self.runtime.loop.create_task(self._look_up(digest))

    async def _look_up(self, digest: bytes) -> None:
        try:
            self._key = await self.runtime.authenticator.look_up(digest)
        except Refusal as refusal:
            self.refusal = refusal
        except Exception:  # else nobody would ever answer this client
            log.exception("a key could not be looked up")
            self.refusal = Refusal(500, "Internal error.")
        self.looking_up = False
        self._task = None
        self.protocol.go_on(self)
        if self._begun:
            self._proceed()

    # ---------------------------------------------------------------------------- answering

    def begin(self) -> None:
        """The request is here in full, and it is its turn."""
        self._begun = time.monotonic()
        metrics.IN_FLIGHT.inc()
        self._deadline = self._begun + FIRST_BYTE_TIMEOUT
        if not self.looking_up:
            self._proceed()

    def _proceed(self) -> None:
        try:
            if self.refusal is not None:
                raise self.refusal
            if self._key is None:
                raise errors.invalid_key("This API key is not known.")
            if self.endpoint in FIELDS:
                self._route(self._key)
            else:
                self._answer_json(self._models(self._key))
        except Refusal as refusal:
            self.refuse(refusal)
        except Exception:  # a fault of ours may not take along whoever shares loop and journal
            log.exception("a request could not be begun")
            self._give_up()

    def _give_up(self) -> None:
        if self._admitted:
            self._break("Internal error.", 500)
        else:
            self.refuse(Refusal(500, "Internal error."))

    def _models(self, key: Key) -> bytes:
        mine = self.runtime.snapshot.of_organization(key.organization_id)
        listed: list[dict[str, Any]] = [
            {
                "id": instance.name,
                "object": "model",
                "created": int(instance.created_at.timestamp()),
                "owned_by": "organization",
                "max_model_len": instance.replicas[0].context_length,
            }
            for instance in sorted(mine, key=lambda i: i.name)
            if instance.replicas and instance.wanted and allowed(key, instance.name)
        ]
        if not self.model:
            return msgspec.json.encode({"object": "list", "data": listed})
        for model in listed:
            if model["id"] == self.model:
                return msgspec.json.encode(model)
        raise errors.no_such_model(self.model[:64])

    def _route(self, key: Key) -> None:
        parsed = parse(self.endpoint, self.take_body())
        instance = self.runtime.snapshot.instances.get((key.organization_id, parsed.model))
        try:
            replica = choose(instance, key, parsed.model, self.endpoint)
        except Refusal as refusal:
            if instance is not None and allowed(key, parsed.model):
                self._book_refusal(key, instance, parsed, refusal.status)
            raise
        self._admit(key, replica.instance_id, replica.id, parsed)
        self._parsed = parsed
        self._replica = replica
        replica.outstanding += 1
        if parsed.stream:
            self._relay = Relay(
                include_usage=parsed.include_usage,
                continuous_usage=parsed.continuous_usage,
                n=parsed.n,
                several=parsed.several_prompts,
            )
        self._wire = (
            b"POST /v1/%b HTTP/1.1\r\nHost: engine\r\nContent-Type: application/json\r\n"
            b"X-Request-Id: %b\r\nContent-Length: %d\r\n\r\n%b"
            % (self.endpoint.encode(), self.shown_id, len(parsed.body), parsed.body)
        )
        parsed.body = b""
        self._send()

    def _admit(self, key: Key, instance_id: bytes, replica_id: bytes, parsed: Parsed) -> None:
        """Raises Refusal where nothing can be written: nothing is served that is not metered."""
        record = Admit(
            request_id=self.request_id,
            organization_id=key.organization_id,
            key_id=key.id,
            instance_id=instance_id,
            replica_id=replica_id,
            model=parsed.model,
            endpoint=self.endpoint,
            stream=parsed.stream,
            admitted_at_us=now_us(),
            client_request_id=self.client_request_id,
        )
        try:
            self.runtime.journal.admit(record)
        except JournalProblem as problem:
            log.error("nothing is served that cannot be metered: %s", problem)
            raise Refusal(
                503,
                "Usage cannot be recorded right now, so nothing is served. Try again shortly.",
                code="metering_unavailable",
                retry_after=5,
            ) from problem
        self._admitted = True

    def _book_refusal(self, key: Key, instance: Instance, parsed: Parsed, status: int) -> None:
        self._admit(key, instance.id, NOBODY, parsed)
        self._write_final(Usage(), UsageSource.NONE, Outcome.REFUSED, status, "", lambda ok: None)

    def _send(self, *, fresh: bool = False) -> None:
        if self._replica is None:
            return
        upstream = None if fresh else self.runtime.pool(self._replica.address).take()
        if upstream is None:
            self._task = self.runtime.loop.create_task(self._open_upstream(self._replica.address))
        else:
            self._sent_on(upstream)

    async def _open_upstream(self, address: str) -> None:
        try:
            upstream = await self.runtime.pool(address).open()
        except (OSError, TimeoutError):
            self._fail(503, "The instance does not answer. Try again in a moment.")
            return
        if self._ended:
            upstream.abort()
        else:
            self._sent_on(upstream)

    def _sent_on(self, upstream: "Upstream") -> None:
        self._upstream = upstream
        upstream.send(self, self._wire)
        if self.protocol.write_paused:
            upstream.pause()

    # ------------------------------------------------------------------ what the engine says

    def upstream_head(self, status: int, content_type: bytes, retry_after: bytes) -> None:
        self._engine_status = status
        self._deadline = time.monotonic() + STALL_TIMEOUT
        if status != 200 or not content_type.startswith(b"text/event-stream"):
            self._relay = None  # a whole answer, or an error in place of a stream

    def upstream_body(self, data: bytes) -> None:
        relay = self._relay
        if relay is None:
            self._keep(data)
            return
        try:
            out = relay.feed(data)
        except BrokenStream:
            self._break("The engine sent something that is no stream.")
            return
        if not out:
            return
        now = time.monotonic()
        if not self.response_started:
            self._write_head(200, response.EVENTS, None)
        if not self._first_at and relay.content:
            self._first_at = now
            metrics.TTFT.observe(now - self.received)
        self._deadline = now + STALL_TIMEOUT
        if relay.told and (
            now - self._checkpoint_at > CHECKPOINT_SECONDS
            or relay.events - self._checkpoint_events >= CHECKPOINT_EVENTS
        ):
            self._checkpoint(relay, now)
        self._write_chunk(out)

    def _keep(self, data: bytes) -> None:
        self._answer_size += len(data)
        if self._answer_size > MAX_ANSWER:
            self._break("The answer is too large.")
        elif not self._answer:
            self._answer = data
        elif isinstance(self._answer, bytes):
            self._answer = [self._answer, data]
        else:
            self._answer.append(data)

    def upstream_complete(self) -> None:
        self._release()
        if self._relay is not None:
            self._end_stream(self._relay)
            return
        answer, self._answer = self._answer, b""
        body = answer if isinstance(answer, bytes) else b"".join(answer)
        if self._engine_status != 200:
            self._engine_refused(self._engine_status, body)
            return
        self._first_at = time.monotonic()
        metrics.TTFT.observe(self._first_at - self.received)
        used, finish = usage.of_answer(body)
        source = UsageSource.ABSENT if used is None else UsageSource.ENGINE
        self._tail = body
        self._final(used or Usage(), source, Outcome.COMPLETED, 200, finish, self._send_whole)

    def _end_stream(self, relay: Relay) -> None:
        if not relay.done:
            self._cut_off(relay)
            return
        if not self.response_started:
            self._write_head(200, response.EVENTS, None)
        used = relay.usage()
        source = UsageSource.ENGINE if used is not None else UsageSource.ABSENT
        outcome = Outcome.COMPLETED
        if relay.failed:
            outcome = Outcome.ENGINE_ERROR
            source = UsageSource.CHECKPOINT if used is not None else UsageSource.NONE
        self._tail = b"data: [DONE]\n\n"
        self._final(used or Usage(), source, outcome, 200, relay.finish, self._send_tail)

    def _engine_refused(self, status: int, body: bytes) -> None:
        if status == 401 or status not in response.REASONS or status < 400:
            status = 502  # its quarrel is with us, not with the client
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
            self._send(fresh=True)
        elif self._relay is not None and self.response_started:
            self._cut_off(self._relay)
        else:
            self._fail(502, BROKE_OFF)

    def _cut_off(self, relay: Relay) -> None:
        """The engine broke off in the middle; what it had told until then is the bill."""
        if not self.response_started:
            self._fail(502, BROKE_OFF)
            return
        self._tail = b"data: " + errors.body(502, BROKE_OFF, code="engine_failed") + b"\n\n"
        self.keep_alive = False
        used = relay.usage()
        source = UsageSource.NONE if used is None else UsageSource.CHECKPOINT
        outcome = Outcome.UPSTREAM_FAILED
        self._final(used or Usage(), source, outcome, 200, relay.finish, self._send_tail)

    def _break(self, message: str, status: int = 502) -> None:
        """End it from our side because the engine does what no engine may."""
        self._abort_upstream()
        if self._relay is not None and self.response_started:
            self._cut_off(self._relay)
        else:
            self._fail(status, message)

    def _fail(self, status: int, message: str) -> None:
        """No byte of an answer has gone out, and none will."""
        if self._ended:
            return
        self._release()
        self._engine_status = status
        self._tail = errors.body(status, message, code="engine_failed")
        outcome = Outcome.UPSTREAM_FAILED
        self._final(Usage(), UsageSource.NONE, outcome, status, "", self._send_whole)

    # ----------------------------------------------------------- what happens to the client

    def client_slow(self) -> None:
        if self._upstream is not None:
            self._upstream.pause()

    def client_caught_up(self) -> None:
        self._deadline = time.monotonic() + STALL_TIMEOUT
        if self._upstream is not None:
            self._upstream.resume()

    def client_gone(self) -> None:
        """Stop the engine at once; what it had told until then is the bill."""
        if self._task is not None:
            self._task.cancel()
        self.take_body()
        self._abort_upstream()
        if not self._admitted or self._ended:
            self._count(499)
            return
        used = self._relay.usage() if self._relay else None
        source = UsageSource.NONE if used is None else UsageSource.CHECKPOINT
        status = 200 if self.response_started else 499
        finish = self._relay.finish if self._relay else ""
        self._final(used or Usage(), source, Outcome.CLIENT_GONE, status, finish, None)

    def look(self, now: float) -> None:
        """Called each second while it is under way."""
        if now <= self._deadline or self._ended:
            return
        if self.protocol.write_paused:
            self.protocol.cut()  # the client has stopped reading
        elif self._admitted:
            self._break("The instance took too long to answer.", 504)
        else:
            self.refuse(Refusal(504, "The request took too long."))

    # ---------------------------------------------------------------------------- the books

    def _checkpoint(self, relay: Relay, now: float) -> None:
        self._checkpoint_at = now
        self._checkpoint_events = relay.events
        used = relay.usage()
        if used is None:
            return
        try:
            self.runtime.journal.checkpoint(Checkpoint(self.request_id, used))
        except JournalProblem as problem:
            log.error("a running usage was not written: %s", problem)  # FINAL will tell

    def _final(
        self,
        used: Usage,
        source: UsageSource,
        outcome: Outcome,
        status: int,
        finish: str,
        then: Then | None,
    ) -> None:
        """Close the request in the journal; `then` runs when that is on disk."""
        if self._ended:
            return
        self._ended = True

        def written(durable: bool) -> None:
            self._count(status)
            if then is None or self.protocol.transport is None:
                return
            if durable:
                then()
            else:
                log.error("an answer is held back, for its usage cannot be recorded")
                self.protocol.cut()

        self._write_final(used, source, outcome, status, finish, written)

    def _write_final(
        self,
        used: Usage,
        source: UsageSource,
        outcome: Outcome,
        status: int,
        finish: str,
        written: Callable[[bool], None],
    ) -> None:
        record = Final(
            request_id=self.request_id,
            usage=used,
            source=source,
            outcome=outcome,
            status=status,
            finish_reason=finish,
            ttft_us=round((self._first_at - self.received) * 1e6) if self._first_at else -1,
            duration_us=round((time.monotonic() - self.received) * 1e6),
        )
        self.runtime.journal.final(record, written)

    def _count(self, status: int) -> None:
        if self._begun:
            self._begun = 0.0
            metrics.IN_FLIGHT.dec()
            metrics.requests(self.endpoint, status).inc()

    def _release(self) -> None:
        self._upstream = None
        replica, self._replica = self._replica, None
        if replica is not None:
            replica.outstanding -= 1

    def _abort_upstream(self) -> None:
        if self._upstream is not None:
            self._upstream.abort()
        self._release()

    # ------------------------------------------------------------------------------ writing

    def refuse(self, refusal: Refusal) -> None:
        """Answer with an error and no engine."""
        extra = b"Retry-After: %d\r\n" % refusal.retry_after if refusal.retry_after else b""
        self.take_body()
        self._ended = True
        self._count(refusal.status)
        self._write_whole(refusal.status, refusal.body(), extra)

    def _answer_json(self, body: bytes) -> None:
        self._ended = True
        self._count(200)
        self._write_whole(200, body)

    def _send_whole(self) -> None:
        extra = b"Retry-After: 2\r\n" if self._engine_status == 503 else b""
        self._write_whole(self._engine_status, self._tail, extra)

    def _send_tail(self) -> None:
        self._write_chunk(self._tail, response.LAST_CHUNK)
        self.protocol.finished(self)

    def _write_whole(self, status: int, body: bytes, extra: bytes = b"") -> None:
        head = self._head(status, response.JSON, len(body), extra)
        # Who asked by HEAD would take a body for the beginning of the next answer.
        self._write(head if self.method == b"HEAD" else head + body)
        self.protocol.finished(self)

    def _write_head(
        self, status: int, content_type: bytes, length: int | None, extra: bytes = b""
    ) -> None:
        self._write(self._head(status, content_type, length, extra))

    def _head(
        self, status: int, content_type: bytes, length: int | None, extra: bytes = b""
    ) -> bytes:
        self.response_started = True
        if length is not None:
            framing = b"Content-Length: %d\r\n" % length
        elif self.http_minor == "1.0":
            framing, self.keep_alive = response.UNTIL_CLOSE, False
        else:
            framing = response.CHUNKED
        if self.client_request_id:
            extra += b"X-Client-Request-Id: %b\r\n" % self.client_request_id.encode()
        if not self.keep_alive or self.protocol.last or self.runtime.draining:
            extra += response.CLOSE
        elif self.http_minor == "1.0":
            extra += response.KEEP_ALIVE
        return response.head(status, content_type, framing, self.runtime.date, self.shown_id, extra)

    def _write_chunk(self, data: bytes, end: bytes = b"") -> None:
        self._write(data if self.http_minor == "1.0" else response.chunk(data) + end)

    def _write(self, data: bytes) -> None:
        if self.protocol.transport is not None:
            self.protocol.transport.write(data)
