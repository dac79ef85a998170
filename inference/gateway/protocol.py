"""The life of a request, from its head to its bill.

    head → path → key → body → ways → limits → ADMIT → engine → relay → FINAL on disk → last bytes

Where all ways lead to instances that sleep it is `held` before its limits until one has woken.

All in callbacks on the connection's loop. What is awaited, each in a task of its own and off the
usual path: a connection that must be opened, a key that is not known yet, a count by the engine's
tokenizer where its answer told none.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Sequence
from random import random
from typing import TYPE_CHECKING

import msgspec

from billing.usage_record import Checkpoint, Outcome, Usage, UsageSource
from inference.gateway import (
    background,
    cors,
    errors,
    events,
    listing,
    metrics,
    providers,
    response,
    router,
    spending,
    tokenizer,
    usage,
    waking,
)
from inference.gateway.auth import WRONG
from inference.gateway.bill import NOBODY, NOTHING, Then
from inference.gateway.errors import Refusal
from inference.gateway.events import EventRelay
from inference.gateway.held import Held
from inference.gateway.limits import Permit
from inference.gateway.relay import BrokenStream, Relay, TimedRelay
from inference.gateway.request import Parsed, parse
from inference.gateway.router import Asleep, Choice
from inference.gateway.tables import Credit, Instance, Key, Provider, Replica
from inference.gateway.tracing import sound

if TYPE_CHECKING:
    from inference.gateway.connection import GatewayProtocol
    from inference.gateway.upstream import Pool, Upstream

log = logging.getLogger(__name__)

FIRST_BYTE_TIMEOUT = 600.0  # seconds that an engine may think before it speaks
STALL_TIMEOUT = 300.0  # seconds without a byte in the middle of an answer
TOTAL_TIMEOUT = 3600.0  # seconds from a request's last byte to its answer's
MAX_ANSWER = 256 * 1024 * 1024  # bytes of an answer that is not streamed
BYTES_PER_TOKEN = 4  # of a prompt, roughly; what a limit sets aside until the engine has counted

BROKE_OFF = "The instance failed while it was answering."
NO_CREDIT_KNOWN = "What the organization may spend is not known yet. Try again in a moment."
NO_ANSWER = "The instance does not answer. Try again in a moment."


class Exchange(Held):
    """One request and its answer."""

    __slots__ = (
        "_answer",
        "_answer_size",
        "_at",
        "_begun",
        "_checkpointed",
        "_choices",
        "_deadline",
        "_engine_status",
        "_entered",
        "_parsed",
        "_relay",
        "_retried",
        "_spoke",
        "_retry_after",
        "_tail",
        "_task",
        "_tried",
        "_upstream",
        "_waits",
        "_where",
        "_wire",
        "looking_up",
    )

    def __init__(self, protocol: "GatewayProtocol") -> None:
        super().__init__(protocol)
        self.looking_up = False  # its key is being asked for
        self._begun = self._deadline = 0.0  # monotonic seconds, as all times here
        self._task: asyncio.Task[None] | None = None

        self._parsed: Parsed | None = None
        self._choices: Sequence[Choice] = ()  # the ways that it may go
        self._at = 0  # the one in use
        self._entered = -1  # the newest one whose limits let it in
        self._waits = False  # for its turn
        self._tried: frozenset[bytes] = frozenset()

        self._where: Replica | Provider | None = None
        self._upstream: Upstream | None = None
        self._wire = b""
        self._retried = False

        self._relay: Relay | EventRelay | None = None
        self._engine_status = 0
        self._retry_after = b""
        self._answer: bytes | list[bytes] = b""
        self._answer_size = 0
        self._spoke = False  # it has said something since somebody looked
        self._checkpointed = 0  # events that the newest CHECKPOINT knows of
        self._tail = b""

    # -------------------------------------------------------------------------- who is asking

    def head_complete(self) -> None:
        """Say at once what the head alone decides, before anything is kept of the body."""
        try:
            if self.method == b"OPTIONS" and self.origin:
                return
            self.open_path()
            self.digest = self.runtime.authenticator.digest(self.authorization)
        except Refusal as refusal:
            self.refusal = refusal
        else:
            self.authenticate()

    def authenticate(self) -> None:
        """The head is read: whose call is it?"""
        try:
            key = self.key = self.runtime.authenticator.known(self.digest)
            if key is None:
                self.looking_up = True
                self._task = self.runtime.loop.create_task(self._look_up(self.digest))
            elif self.origin:
                cors.check(self.origin, key)
        except Refusal as refusal:
            self.refusal = refusal

    async def _look_up(self, digest: bytes) -> None:
        try:
            self.key = await self.runtime.authenticator.look_up(digest)
            cors.check(self.origin, self.key)
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
        self._deadline = self._begun + FIRST_BYTE_TIMEOUT
        if self.runtime.tracer is not None:
            parent = sound(self.traceparent)
            self.span = self.runtime.tracer.begin(parent, self.shown_id, self.received)
        if not self.looking_up:
            self._proceed()

    def _proceed(self) -> None:
        try:
            if self.refusal is not None:
                raise self.refusal
            if self.key is None:
                self._preflight()
            elif self.call.kind == "generate":
                self._route(self.key)
            elif self.call.kind == "models":
                self._answer_json(listing.answer(self.runtime.snapshot, self.key, self.call.name))
            else:
                self._route(self.key)
        except Refusal as refusal:
            self.refuse(refusal)
        except Exception:  # a fault of ours may not take along whoever shares loop and journal
            log.exception("a request could not be begun")
            self._give_up()

    def _preflight(self) -> None:
        lines = cors.preflight(self.origin, self.runtime.snapshot.origins)
        self.origin = ""  # it has been told
        self.ended = True
        self.count(204, NOTHING, time.monotonic())
        self.write_nothing(lines)

    def _give_up(self) -> None:
        if self.admitted:
            self._break("Internal error.", 500)
        else:
            self.refuse(Refusal(500, "Internal error."))

    # --------------------------------------------------------------------------- which way

    def _route(self, key: Key) -> None:
        """Raises Refusal."""
        tables, endpoint = self.runtime.snapshot, self.call.endpoint
        if self.call.kind == "stored":
            self._choices = router.keepers(tables, key)
            self._go()
            return
        parsed = self._parsed = parse(endpoint, self.take_body())
        self._choose(key, parsed)

    def _choose(self, key: Key, parsed: Parsed) -> None:
        """Raises Refusal."""
        try:
            self._choices = router.plan(
                self.runtime.snapshot, key, parsed.model, self.call.endpoint, random
            )
            if parsed.background or parsed.needs_kept:
                self._choices = router.that_keep(self._choices)
            if parsed.n > 1 or parsed.several_prompts:
                self._choices = router.that_count_all(self._choices)
        except Asleep as asleep:
            self._wait_for(asleep.instance, key, parsed)
        except Refusal as refusal:
            self._refuse_booked(refusal, key, parsed)
        else:
            self._go()

    def _wait_for(self, instance: Instance, key: Key, parsed: Parsed) -> None:
        try:
            self.hold(instance, key, parsed.size)
        except Refusal as refusal:
            self._refuse_booked(refusal, key, parsed)

    def go_on(self) -> None:
        key, parsed = self.runtime.snapshot.key(self.digest), self._parsed
        self._deadline = time.monotonic() + FIRST_BYTE_TIMEOUT
        try:
            if key is None or parsed is None:  # it was revoked meanwhile
                raise errors.invalid_key(WRONG)
            self.key = key
            self._choose(key, parsed)
        except Refusal as refusal:
            self.refuse(refusal)
        except Exception:
            log.exception("a request that was held could not go on")
            self._give_up()

    def end_held(self, refusal: Refusal) -> None:
        self.let_go()
        try:
            if self.key is not None and self._parsed is not None:
                self._refuse_booked(refusal, self.key, self._parsed)
        except Refusal:
            self.refuse(refusal)

    def _refuse_booked(self, refusal: Refusal, key: Key, parsed: Parsed) -> None:
        """Their instance cannot take it: that is a row for its owner to see. Else raises it."""
        instance = router.instance_named(self.runtime.snapshot, key.organization_id, parsed.model)
        if (
            instance is None
            or not router.allowed(key, parsed.model)
            or self.call.kind != "generate"
        ):
            raise refusal
        self.admit(key, instance.id, NOBODY, parsed.model, parsed.stream, instance.price)
        self._end_refused(refusal, Outcome.REFUSED)

    def _go(self) -> None:
        """Take the way in use, or the next; this may have to wait for its turn. Raises Refusal."""
        while self._at < len(self._choices):
            choice = self._choices[self._at]
            if self._entered == self._at or self._enter(choice):
                if self._waits:
                    return
                where = self._pick(choice)
                if where is not None:
                    self._dispatch(choice, where)
                    return
            self._at += 1
        raise Refusal(503, NO_ANSWER, code="instance_unavailable", retry_after=2)

    def _enter(self, choice: Choice) -> bool:
        """Whether the limits let it in, or will (`_waits`). Raises Refusal."""
        key, parsed, instance = self.key, self._parsed, choice.instance
        limits = instance.limits if instance is not None else ()
        if self._entered < 0 and key is not None:
            limits = key.limits + limits
        credit: Credit | None = None
        nano = 0
        if self._held:
            self._put_back()  # what was set aside for the way before this one
        if choice.price.costs and parsed is not None and key is not None:
            credit = self._credit_of(key)
            nano = spending.most_of(parsed, self.call.endpoint, choice)
        if (limits or credit is not None) and parsed is not None and key is not None:
            queue = None
            if instance is not None and (instance.queue_size or self._held_since):
                queue = self._queue_of(instance)
            most = (parsed.most_tokens or 0) * parsed.n
            try:
                permit = self.runtime.limiter.enter(
                    limits,
                    key_id=key.id,
                    tokens=parsed.prompt_size // BYTES_PER_TOKEN + most,
                    queue=queue,
                    ready=self._permitted,
                    credit=credit,
                    nano=nano,
                )
            except Refusal as refusal:
                if self._other_way(refusal):
                    return False
                raise
            if permit is None:
                self._waits = True
                return True
            self._let_in(permit)
        self._entered = self._at
        return True

    def _queue_of(self, instance: Instance) -> tuple[int, int]:
        """How many may wait for a slot of it, for how many seconds. Of those who woke it all."""
        if not self._held_since:
            return instance.queue_size, instance.queue_seconds
        size = max(instance.queue_size, waking.AT_LEAST * self.runtime.leases.processes)
        return size, max(instance.queue_seconds, self.runtime.wake_wait)

    def _credit_of(self, key: Key) -> Credit:
        """Raises Refusal."""
        if key.credit is None:
            raise Refusal(503, NO_CREDIT_KNOWN, code="credit_unavailable", retry_after=2)
        return key.credit

    def _put_back(self) -> None:
        self._held = 0
        for permit in self._permits:
            permit.put_back()

    def _other_way(self, refusal: Refusal) -> bool:
        """Whether an instance that is full, or too dear, leaves another way to go."""
        return refusal.scope in {"instance", "credit"} and self._at + 1 < len(self._choices)

    def _let_in(self, permit: Permit) -> None:
        self._permits += (permit,)
        if permit.purse is not None:
            self._held = permit.nano
        self.limits_told += permit.headers()

    def _permitted(self, outcome: Permit | Refusal) -> None:
        """Called by the limiter for who had to wait."""
        self._waits = False
        try:
            if isinstance(outcome, Permit):
                self._let_in(outcome)
                self._entered = self._at
            elif self._other_way(outcome):
                self._at += 1
            else:
                raise outcome
            self._go()
        except Refusal as refusal:
            self.refuse(refusal)
        except Exception:
            log.exception("a request could not go on")
            self._give_up()

    def _pick(self, choice: Choice) -> Replica | Provider | None:
        """Where this way leads to now; None where all of it has been tried."""
        instance, now = choice.instance, time.monotonic()
        if instance is None:
            return choice.provider and router.reachable(choice.provider, now, self._tried)
        affinity = None
        if len(instance.replicas) > 1 and self._parsed is not None:
            affinity = self._parsed.affinity()
        return router.pick(instance, affinity, now, self._tried)

    def _has_other_ways(self) -> bool:
        """Whether something else may still be tried."""
        if self._at + 1 < len(self._choices):
            return True
        instance, where = self._choices[self._at].instance, self._where
        tried = self._tried if where is None else self._tried | {where.id}
        return instance is not None and any(r.id not in tried for r in instance.replicas)

    def _dispatch(self, choice: Choice, where: Replica | Provider) -> None:
        """Raises Refusal."""
        key, parsed = self.key, self._parsed
        if self.call.kind == "generate" and key is not None and parsed is not None:
            instance_id = NOBODY if choice.instance is None else choice.instance.id
            self.admit(key, instance_id, where.id, parsed.model, parsed.stream, choice.price)
        self._where = where
        where.outstanding += 1
        self._wire = self._request(choice, where)
        if self.call.kind != "generate":
            self._send()  # else once the ADMIT is written

    def written(self, ok: bool) -> None:
        if self.ended:
            return
        if ok:
            self._send()
            return
        self.admitted = False
        self.refuse(
            Refusal(
                503,
                "Usage cannot be recorded right now, so nothing is served. Try again shortly.",
                code="metering_unavailable",
                retry_after=5,
            )
        )

    def _request(self, choice: Choice, where: Replica | Provider) -> bytes:
        """The bytes for the engine: the head is ours, and of the body what was checked."""
        parsed = self._parsed
        if isinstance(where, Provider):
            self.served_by = b"X-Modelport-Provider: %b\r\n" % where.name.encode()
        else:
            name = choice.model if choice.instance is None else choice.instance.name
            self.served_by = b"X-Modelport-Instance: %b\r\n" % name.encode()
        if parsed is None:
            return b"%b /v1/%b HTTP/1.1\r\nHost: engine\r\nX-Request-Id: %b\r\n%b\r\n" % (
                self.method,
                self.call.path,
                self.shown_id,
                b"" if self.method == b"GET" else b"Content-Length: 0\r\n",
            )
        timed = choice.instance is not None and choice.instance.wire.timings
        if parsed.stream:
            relay = TimedRelay if timed else Relay
            self._relay = events.of(self.call.endpoint, timed=timed) or relay(
                include_usage=parsed.include_usage,
                continuous_usage=parsed.continuous_usage,
                n=parsed.n,
                several=parsed.several_prompts,
            )
        if isinstance(where, Provider):
            body = parsed.body_for(choice.model, provider=True)
            return providers.request(where, self.call.path, self.shown_id, body)
        body = parsed.body_for(choice.model, timings=timed)
        trace = b""
        if parent := self.span.header if self.span else sound(self.traceparent):
            trace = b"Traceparent: %b\r\n" % parent
        return (
            b"POST /v1/%b HTTP/1.1\r\nHost: engine\r\nContent-Type: application/json\r\n"
            b"X-Request-Id: %b\r\n%bContent-Length: %d\r\n\r\n%b"
            % (self.call.path, self.shown_id, trace, len(body), body)
        )

    def _send(self, *, fresh: bool = False) -> None:
        if self._where is None:
            return
        pool = self.runtime.pool_of(self._where)
        upstream = None if fresh else pool.take()
        if upstream is None:
            self._task = self.runtime.loop.create_task(self._open_upstream(pool))
        else:
            self._sent_on(upstream)

    async def _open_upstream(self, pool: "Pool") -> None:
        try:
            upstream = await pool.open()
        except (OSError, TimeoutError):
            self._try_elsewhere(503, NO_ANSWER)
            return
        if self.ended:
            upstream.abort()
        else:
            self._sent_on(upstream)

    def _sent_on(self, upstream: "Upstream") -> None:
        self._upstream = upstream
        upstream.send(self, self._wire)
        if self.protocol.write_paused:
            upstream.pause()

    def _try_elsewhere(self, status: int, message: str) -> None:
        """Nothing has been said to the client yet: another replica may answer, or another way."""
        if self.ended:
            return
        metrics.BOOK.retries += 1
        where = self._where
        self._release()
        if where is not None:
            router.failed(where, time.monotonic())
            self._tried |= {where.id}
        try:
            self._go()
        except Refusal as refusal:
            if self.admitted:  # of several problems the last engine's own tells most
                self._fail(status, message)
            else:
                self.refuse(refusal)
        except Exception:
            log.exception("a request could not be sent elsewhere")
            self._give_up()

    # ------------------------------------------------------------------ what the engine says

    def upstream_head(self, status: int, content_type: bytes, retry_after: bytes) -> None:
        where = self._where
        if status == 503 and self._has_other_ways():
            if self._upstream is not None:
                self._upstream.abort()
            self._try_elsewhere(503, NO_ANSWER)
            return
        if where is not None:
            if status >= 500:
                router.failed(where, time.monotonic())
            elif where.failures:
                router.succeeded(where)
        self._engine_status = status
        self._retry_after = retry_after if retry_after.isdigit() else b""
        self._deadline = time.monotonic() + STALL_TIMEOUT
        if status != 200 or not content_type.startswith(b"text/event-stream"):
            self._relay = None  # a whole answer, or an error in place of a stream

    def upstream_body(self, data: bytes) -> None:
        relay = self._relay
        if relay is None:
            if self._answer:
                self._keep(data)
            else:
                self._answer, self._answer_size = data, len(data)
            return
        try:
            out = relay.feed(data)
        except BrokenStream:
            self._break("The engine sent something that is no stream.")
            return
        if not out:
            return
        if not self.first_at:
            if not self.response_started:
                self.write_head(200, response.EVENTS)
            if relay.content:
                self.first_at = time.monotonic()
        self._spoke = True
        self.write_chunk(out)

    def checkpoint(self) -> Checkpoint | None:
        """The running usage, if there is more of it than the newest CHECKPOINT tells."""
        relay = self._relay
        if relay is None or relay.events == self._checkpointed or self.ended or not self.admitted:
            return None
        self._checkpointed = relay.events
        used = relay.usage()
        return None if used is None else Checkpoint(self.request_id, used)

    def _keep(self, data: bytes) -> None:
        self._answer_size += len(data)
        if self._answer_size > MAX_ANSWER:
            self._break("The answer is too large.")
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
        self.first_at = time.monotonic()
        if self._parsed is not None and self._parsed.background:
            self._answer_before_it_is_made(body)
            return
        used, finish = usage.of_answer(body)
        source = UsageSource.ABSENT if used is None else UsageSource.ENGINE
        self._tail = body
        self.final(used or NOTHING, source, Outcome.COMPLETED, 200, finish, self._send_whole)

    def _answer_before_it_is_made(self, body: bytes) -> None:
        """A response in the background: its books stay open until the engine has made it."""
        instance = self._choices[self._at].instance
        if instance is None or not instance.replicas:
            self._fail(502, BROKE_OFF)
            return
        pool = self.runtime.pool(instance.replicas[0].address)
        self.ended = True
        self.runtime.later(self._follow(pool, body))
        self.write_whole(200, body)

    async def _follow(self, pool: "Pool", body: bytes) -> None:
        try:
            used, finish = await background.follow(pool, body, TOTAL_TIMEOUT)
        except (OSError, TimeoutError, ValueError, msgspec.MsgspecError) as error:
            log.warning("what a response in the background used is not known: %s", error)
            used, finish = None, ""
        self.ended = False
        source = UsageSource.ABSENT if used is None else UsageSource.ENGINE
        self.final(used or NOTHING, source, Outcome.COMPLETED, 200, finish, None)

    def _end_stream(self, relay: Relay | EventRelay) -> None:
        if not relay.done:
            self._cut_off(relay)
            return
        if not self.response_started:
            self.write_head(200, response.EVENTS)
        used = relay.usage()
        source = UsageSource.ENGINE if used is not None else UsageSource.ABSENT
        outcome = Outcome.COMPLETED
        if relay.failed:
            outcome = Outcome.ENGINE_ERROR
            source = UsageSource.CHECKPOINT if used is not None else UsageSource.NONE
        self._tail = relay.tail
        self.final(used or NOTHING, source, outcome, 200, relay.finish, self._send_tail)

    def _engine_refused(self, status: int, body: bytes) -> None:
        if self.call.kind == "stored" and status == 404 and self._at + 1 < len(self._choices):
            self._at += 1  # another instance may have kept it
            self._go()
            return
        provider = self._choices[self._at].provider
        if provider is not None:
            status, self._tail = providers.refusal(provider, status, body, self.call.shape)
        else:
            if status == 401 or status not in response.REASONS or status < 400:
                status = 502  # its quarrel is with us, not with the client
            self._tail = errors.of_engine(status, body, self.call.shape)
        self._engine_status = status
        outcome = Outcome.ENGINE_ERROR
        self.final(NOTHING, UsageSource.NONE, outcome, status, "", self._send_whole)

    def upstream_lost(self, answered: bool) -> None:
        upstream, self._upstream = self._upstream, None
        if self.ended:
            return
        if not answered and upstream is not None and upstream.reused and not self._retried:
            # The engine closed an idle connection just as we used it: nothing had begun.
            self._retried = True
            self._send(fresh=True)
        elif not answered:
            self._try_elsewhere(502, BROKE_OFF)
        elif self._relay is not None and self.response_started:
            self._cut_off(self._relay)
        else:
            self._fail(502, BROKE_OFF)

    def _cut_off(self, relay: Relay | EventRelay) -> None:
        """The engine broke off in the middle; what it had told until then is the bill."""
        if not self.response_started:
            self._fail(502, BROKE_OFF)
            return
        self._blame()
        self._tail = errors.event(502, BROKE_OFF, code="engine_failed", shape=self.call.shape)
        self.keep_alive = False
        self._end_early(Outcome.UPSTREAM_FAILED, 200, self._send_tail)

    def _break(self, message: str, status: int = 502) -> None:
        """End it from our side because the engine does what no engine may."""
        self._hang_up()
        if self._relay is not None and self.response_started:
            self._cut_off(self._relay)
        else:
            self._fail(status, message)

    def _fail(self, status: int, message: str) -> None:
        """No byte of an answer has gone out, and none will."""
        if self.ended:
            return
        self._blame()
        self._release()
        self._engine_status = status
        self._retry_after = b"2" if status == 503 else b""
        self._tail = errors.body(status, message, code="engine_failed", shape=self.call.shape)
        outcome = Outcome.UPSTREAM_FAILED
        self.final(NOTHING, UsageSource.NONE, outcome, status, "", self._send_whole)

    def _blame(self) -> None:
        if self._where is not None:
            router.failed(self._where, time.monotonic())

    # ----------------------------------------------------------- what happens to the client

    def client_slow(self) -> None:
        if self._upstream is not None:
            self._upstream.pause()

    def client_caught_up(self) -> None:
        self._deadline = time.monotonic() + STALL_TIMEOUT
        if self._upstream is not None:
            self._upstream.resume()

    def _end_early(self, outcome: Outcome, status: int, then: Then | None) -> None:
        """What the engine had told until then is the bill; else what its tokenizer counts."""
        relay = self._relay
        used = relay.usage() if relay else None
        finish = relay.finish if relay else ""
        if relay is not None and relay.delivered and self.admitted and self._parsed is not None:
            choice = self._choices[self._at]
            if choice.instance is not None and choice.instance.replicas:
                pool = self.runtime.pool(choice.instance.replicas[0].address)
                text = "".join(relay.delivered)
                counting = tokenizer.count(
                    pool, choice.instance.wire, choice.model, self._parsed, used, text
                )
                self.ended = True
                self.runtime.later(self._count_first(counting, used, outcome, status, finish, then))
                return
        source = UsageSource.NONE if used is None else UsageSource.CHECKPOINT
        self.final(used or NOTHING, source, outcome, status, finish, then)

    async def _count_first(
        self,
        counting: Awaitable[Usage],
        told: Usage | None,
        outcome: Outcome,
        status: int,
        finish: str,
        then: Then | None,
    ) -> None:
        try:
            used, source = await counting, UsageSource.TOKENIZER
        except (OSError, TimeoutError, ValueError, msgspec.MsgspecError) as error:
            log.warning("what was delivered could not be counted: %s", error)
            used, source = told or NOTHING, UsageSource.ABSENT
        self.ended = False
        self.final(used, source, outcome, status, finish, then)

    def client_gone(self) -> None:
        """Stop the engine at once; what it had told until then is the bill."""
        if self._task is not None:
            self._task.cancel()
        if self._waits:
            self.runtime.limiter.forget(self._permitted)
        if self._waiter is not None:
            self.let_go()
        self.take_body()
        self._hang_up()
        if self.ended:
            return
        self._end_early(Outcome.CLIENT_GONE, 200 if self.response_started else 499, None)

    def look(self, now: float) -> None:
        """Called each second while it is under way."""
        if self._waiter is not None:
            stream = self._parsed is not None and self._parsed.stream
            self.look_held(self._waiter, now, stream=stream)
            return
        if self._spoke:
            self._spoke = False
            self._deadline = now + STALL_TIMEOUT
        if self.ended or (now <= self._deadline and now <= self._begun + TOTAL_TIMEOUT):
            return
        if self.protocol.write_paused:
            self.protocol.cut()  # the client has stopped reading
        elif self.admitted:
            self._break("The instance took too long to answer.", 504)
        else:
            self.refuse(Refusal(504, "The request took too long."))

    # -------------------------------------------------------------------------- how it ends

    def refuse(self, refusal: Refusal) -> None:
        """Answer with an error and no engine."""
        if self._waits:
            self.runtime.limiter.forget(self._permitted)
        self.take_body()
        self._release()
        if self.admitted:  # the way that was left has no room either
            self._end_refused(refusal, Outcome.UPSTREAM_FAILED)
            return
        self.ended = True
        self.count(refusal.status, NOTHING, time.monotonic())
        self.write_refusal(refusal)

    def _answer_json(self, body: bytes) -> None:
        self.ended = True
        self.count(200, NOTHING, time.monotonic())
        self.write_whole(200, body)

    def _end_refused(self, refusal: Refusal, outcome: Outcome) -> None:
        status = refusal.status

        def then() -> None:
            self.write_refusal(refusal)

        self.final(NOTHING, UsageSource.NONE, outcome, status, "", then)

    def _release(self) -> None:
        self._upstream = None
        where, self._where = self._where, None
        if where is not None:
            where.outstanding -= 1

    def _hang_up(self) -> None:
        if self._upstream is not None:
            self._upstream.abort()
        self._release()

    def _send_whole(self) -> None:
        if self.response_started:  # it was held, and its client has been told so in a stream
            self.write_late(self._tail)
            return
        extra = b"Retry-After: %b\r\n" % self._retry_after if self._retry_after else b""
        self.write_whole(self._engine_status, self._tail, extra)

    def _send_tail(self) -> None:
        self.write_last(self._tail)
