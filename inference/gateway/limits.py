"""Limits on what a request may use, enforced from local leases. PURE.

A limit counts in fixed windows of UTC. Of each the process holds a lease: a slice that the meter of
this machine has granted and that nobody else may use. A request enters when all its limits have
room in their leases; where one has not, it waits for the meter's answer, or in the queue of its
instance if that is all that is in the way, and is refused otherwise. Leases are renewed before they
run out, so the usual request asks nobody.

Requests and requests at a time are never let in beyond a limit. Tokens are set aside by an estimate
and put right at the end; a spending limit is counted at the end: both may go beyond by what is
under way. Credit is one more lease beside them, of a kind of its own: see `purse`.
"""

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Protocol, TypeVar

from billing.bound import within
from billing.pricing import cost
from billing.usage_record import Usage
from inference.gateway import purse
from inference.gateway.errors import Refusal
from inference.gateway.lease import NEVER, Lease
from inference.gateway.purse import Purse
from inference.gateway.tables import Credit, Limit, Meter, Price, Window

METER_PATIENCE = 1.0  # seconds; then a process that hears nothing of the meter trusts itself
AHEAD = 2.0  # seconds of traffic that are leased at a time: what is lost if the process is killed
AT_LEAST = 16  # requests' worth, though
LOW_WATER = 2  # a lease is renewed when less than one part in 2 ** 2 of the newest grant is left
Ready = Callable[["Permit | Refusal"], None]

_METERS = {
    Meter.REQUESTS: "requests",
    Meter.TOKENS: "tokens",
    Meter.CONCURRENT: "requests at a time",
    Meter.SPEND: "spending",
}


class Broker(Protocol):
    """The way to the meter."""

    def ask(
        self, lease: Lease, want: int, *, beyond: int = 0, wait: bool = False, least: int = 0
    ) -> None:
        """Ask for `want` more, of which `beyond` were used already; `limiter.granted` answers.
        With `wait` the meter answers when there is some. `least` of credit is waited for."""

    def give(self, lease: Lease, units: int) -> None:
        """Hand back what is not used."""

    def later(self, seconds: float, call: Callable[[], None]) -> Callable[[], None]:
        """Call after that time; returns what cancels it."""
        ...

    def now(self) -> float:
        """Seconds since 1970-01-01 UTC."""
        ...

    @property
    def processes(self) -> int:
        """How many share this machine's limits."""
        ...


class Permit:
    """A request that its limits have let in. `leave` must be called once."""

    __slots__ = ("_at", "_limiter", "leases", "nano", "purse", "tokens")

    def __init__(
        self,
        limiter: "Limiter",
        leases: list[Lease],
        tokens: int,
        at: float,
        purse: Purse | None = None,
        nano: int = 0,
    ) -> None:
        self._limiter = limiter
        self._at = at
        self.leases = leases
        self.tokens = tokens
        self.purse = purse  # where it costs something
        self.nano = nano  # set aside there

    def leave(self, used: Usage, price: Price) -> int:
        """It has ended, and used so much, at this price. What was spent of the credit for it."""
        for lease in self.leases:
            if lease.is_slots:
                lease.used -= 1
                if lease.recalled or lease.waiting:
                    self._limiter._freed(lease)
            elif lease.is_tokens:
                if lease.start <= self._at:  # still the window in which they were set aside
                    tokens = used.prompt_tokens + used.completion_tokens
                    self._limiter._corrected(lease, tokens - (self.tokens or 1))
            elif lease.counts_at_end and (spend := cost(used, price, price.discount)):
                self._limiter._corrected(lease, spend)
        if self.purse is None:
            return 0
        spent = within(self.nano, used, price)
        self.put_back(spent)
        return spent

    def put_back(self, spent: int = 0) -> None:
        """What was set aside of the credit, but for what was spent of it."""
        held, self.purse = self.purse, None
        if held is not None:
            held.settle(self.nano, spent)
            if held.waiting:
                self._limiter._pump(held)

    def headers(self) -> bytes:
        """`x-ratelimit-*` as OpenAI sends them, of the tightest limit of each kind."""
        return headers(self.leases, self._at)


class Entry:
    """A request that waits."""

    __slots__ = ("cancel", "key_id", "leases", "nano", "queued", "ready", "tokens")

    def __init__(
        self, leases: list[Lease], tokens: int, nano: int, key_id: bytes, ready: Ready
    ) -> None:
        self.leases = leases
        self.tokens = tokens
        self.nano = nano
        self.key_id = key_id
        self.ready = ready
        self.queued = False  # in the line of its instance
        self.cancel: Callable[[], None] | None = None


class Limiter:
    """All leases of a process."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._leases: dict[bytes, Lease] = {}
        self._purses: dict[bytes, Purse] = {}  # of the leases, those of credit
        self.now = broker.now

    def enter(
        self,
        limits: tuple[Limit, ...],
        *,
        key_id: bytes,
        tokens: int,
        queue: tuple[int, int] | None,
        ready: Ready,
        credit: Credit | None = None,
        nano: int = 0,
    ) -> Permit | None:
        """Let a request in; or None, and `ready` is called later. Raises Refusal.

        `tokens` is an estimate of what it will use. `queue` is how many may wait for a slot of the
        instance, and for how many seconds. `nano` is the most that it may cost, out of `credit`.
        """
        now = self.now()
        leases: list[Lease] = []
        short = False
        for limit in limits:
            lease = self._leases.get(limit.id)
            if lease is None:
                lease = self._leases[limit.id] = Lease(limit, now)
            elif lease.end <= now:
                lease.begin(now)
                if lease.waiting:
                    self._ask(lease)
            if lease.limit is not limit:
                lease.limit, lease.told_for = limit, -1
            leases.append(lease)
            need = (tokens or 1) if lease.is_tokens else 1
            if lease.granted - lease.used < need or lease.waiting:
                short = True
        held = None
        if credit is not None:
            held = self._purse(credit, now)
            if credit.suspended:
                raise purse.refusal(held, nano)
            short = not held.open_for(nano, now) or short
        if not short:
            if held is not None:
                held.used += nano
                if held.is_low(now):
                    self._ask(held)
            for lease in leases:
                if not lease.counts_at_end:
                    lease.used += (tokens or 1) if lease.is_tokens else 1
                if lease.granted - lease.used < lease.low:
                    self._renew(lease, lease.need(tokens))
            return Permit(self, leases, tokens, now, held, nano)
        if held is not None:
            leases.append(held)
        for lease in leases:
            if lease.is_tokens and tokens > lease.limit.amount:
                raise _too_large(lease, tokens)
            if lease.refuses(now) and lease.free < lease.need(tokens, nano):
                raise self._refusal(lease, leases, nano)
        self._wait(Entry(leases, tokens, nano, key_id, ready), queue)
        return None

    def forget(self, ready: Ready) -> None:
        """Whoever waited with this is gone."""
        for lease in self._leases.values():
            for entry in [entry for entry in lease.waiting if entry.ready == ready]:
                self._remove(lease, entry)

    # the meter's answers

    def granted(self, limit_id: bytes, start: int, units: int, left: int) -> None:
        """The meter grants so much; 0: there is no more. `left` is what nobody holds."""
        lease = self._leases.get(limit_id)
        if lease is None or lease.start != start:
            return  # that window is over
        lease.asked_at = 0.0
        lease.granted += units
        lease.low = max(1, units >> LOW_WATER)
        lease.left = left
        lease.denied = units == 0
        if isinstance(lease, Purse):
            lease.answered(units, self.now())
        self._pump(lease)
        if lease.is_slots:
            lease.denied = False  # a slot may be free at any time: the next one asks again

    def recall(self, limit_id: bytes, start: int) -> None:
        """Others are short of it: hand back what is free, and what becomes free."""
        lease = self._leases.get(limit_id)
        if lease is None or lease.start != start:
            return
        lease.recalled = lease.is_slots
        units = max(lease.free, 0)
        lease.granted -= units
        self._broker.give(lease, units)

    def calm(self, limit_id: bytes) -> None:
        """Nobody is short of it any more."""
        lease = self._leases.get(limit_id)
        if lease is not None:
            lease.recalled = False

    @property
    def waiting(self) -> int:
        """Requests that wait for their turn, or for the meter's answer."""
        return sum(len(lease.waiting) for lease in self._leases.values())

    def held(self) -> list[Lease]:
        """The leases that count: what a meter that has begun anew must know."""
        now = self.now()
        return [lease for lease in self._leases.values() if lease.granted and lease.end > now]

    def ask_again(self) -> None:
        """The meter has begun anew and knows of no question."""
        for lease in self._leases.values():
            lease.recalled = False
            if lease.asked_at or lease.unbacked:
                lease.asked_at = 0.0
                self._ask(lease)

    def forget_old(self) -> None:
        """Called now and then: limits that nobody met for a window are forgotten."""
        now = self.now()
        for id_ in [i for i, lease in self._leases.items() if lease.end <= now]:
            if not self._leases[id_].waiting:
                del self._leases[id_]

    def look_after_credit(self) -> None:
        """Called each second: ask for more before it is needed, hand back what is not."""
        now = self.now()
        for held in self._purses.values():
            more, back = held.look(now)
            if more:
                self._ask(held)
            elif back:
                held.granted -= back
                self._broker.give(held, back)

    # taking

    def _purse(self, credit: Credit, now: float) -> Purse:
        held = self._purses.get(credit.id)
        if held is None:
            held = Purse(credit, now)
            self._leases[credit.id] = self._purses[credit.id] = held
        elif held.limit is not credit:
            held.limit = credit
        return held

    def _renew(self, lease: Lease, need: int) -> None:
        if not (lease.asked_at or lease.denied or lease.is_slots):
            self._ask(lease, need=need)

    def _ask(self, lease: Lease, *, need: int = 0, wait: bool = False) -> None:
        """For what its waiting requests need, and what the next seconds will, but no more than a
        share of what is left. `need` is what one request takes."""
        if lease.asked_at:
            return
        now = lease.asked_at = self.now()
        needed = sum(lease.need(entry.tokens, entry.nano) for entry in lease.waiting)
        if isinstance(lease, Purse):
            self._broker.ask(lease, lease.want(needed, now), least=lease.lacking)
            return
        share = lease.left // (4 * self._broker.processes)
        if lease.is_slots:
            share = min(share, needed)
        else:
            rate = (lease.used - lease.marked) / max(now - lease.marked_at, 0.01)
            share = min(share, max(AT_LEAST * max(need, needed), int(AHEAD * rate)))
            lease.marked, lease.marked_at = lease.used, now
        beyond, lease.unbacked = lease.unbacked, 0
        want = max(needed - lease.free, share, 1) + beyond
        self._broker.ask(lease, want, beyond=beyond, wait=wait)

    def _freed(self, lease: Lease) -> None:
        """A slot is free, and somebody waits for it."""
        if lease.recalled:
            lease.granted -= 1
            self._broker.give(lease, 1)
        else:
            self._pump(lease)

    def _corrected(self, lease: Lease, more: int) -> None:
        lease.used += more
        if lease.free < 0 and not lease.denied:
            self._renew(lease, more)

    # waiting

    def _wait(self, entry: Entry, queue: tuple[int, int] | None) -> None:
        """Raises Refusal."""
        lease = self._short(entry)
        if lease is None:  # it has room, but others are before it
            lease = next(lease for lease in entry.leases if lease.waiting)
        seconds = METER_PATIENCE
        if queue is not None and _is_slot(lease):
            size, seconds = queue
            line = sum(other.queued for other in lease.waiting)
            if line * self._broker.processes >= size:
                raise self._refusal(lease, entry.leases)
            entry.queued = True
        lease.waiting.append(entry)
        entry.cancel = self._broker.later(seconds, lambda: self._waited(lease, entry))
        self._ask(lease, wait=entry.queued)

    def _short(self, entry: Entry) -> Lease | None:
        """The first of its limits that has no room for it; an instance's slots are looked at last,
        so that nobody waits there who would be refused elsewhere."""
        missing = [
            lease for lease in entry.leases if lease.free < lease.need(entry.tokens, entry.nano)
        ]
        return min(missing, key=_is_slot) if missing else None

    def _pump(self, lease: Lease) -> None:
        """Let in whoever waits and has room now; refuse those for whom there is no more."""
        for entry in in_turn(lease.waiting, lease.turns):
            if entry not in lease.waiting:
                continue  # who was let in before has ended it
            short = self._short(entry)
            if short is None:
                self._remove(lease, entry)
                lease.turns.pop(entry.key_id, None)
                lease.turns[entry.key_id] = None
                for each in entry.leases:
                    if not each.counts_at_end:
                        each.used += each.need(entry.tokens, entry.nano)
                entry.ready(self._permit(entry))
            elif short is not lease:
                self._move(lease, short, entry)
            elif lease.denied and (lease.is_credit or not entry.queued):
                self._remove(lease, entry)
                entry.ready(self._refusal(lease, entry.leases, entry.nano))
        if lease.waiting:
            self._ask(lease, wait=any(entry.queued for entry in lease.waiting))
        else:
            lease.turns.clear()

    def _permit(self, entry: Entry) -> Permit:
        limits = [lease for lease in entry.leases if not lease.is_credit]
        held = next((lease for lease in entry.leases if isinstance(lease, Purse)), None)
        return Permit(self, limits, entry.tokens, self.now(), held, entry.nano)

    def _move(self, lease: Lease, other: Lease, entry: Entry) -> None:
        lease.waiting.remove(entry)
        if other.refuses(self.now()):
            if entry.cancel is not None:
                entry.cancel()
            entry.ready(self._refusal(other, entry.leases, entry.nano))
            return
        other.waiting.append(entry)
        self._ask(other, wait=entry.queued)

    def _remove(self, lease: Lease, entry: Entry) -> None:
        lease.waiting.remove(entry)
        if entry.cancel is not None:
            entry.cancel()

    def _waited(self, lease: Lease, entry: Entry) -> None:
        """Its time is over."""
        now = self.now()
        where = next((each for each in entry.leases if entry in each.waiting), None)
        if where is None:
            return
        if where.end <= now:  # a new window has begun meanwhile
            where.begin(now)
            entry.cancel = self._broker.later(METER_PATIENCE, lambda: self._waited(where, entry))
            self._ask(where)
            return
        silent = where.asked_at and now - where.asked_at >= METER_PATIENCE * 0.9
        if where.asked_at and not silent and not entry.queued:
            # A meter that has begun anew was asked a moment ago, and has not had its time yet.
            left = where.asked_at + METER_PATIENCE - now
            entry.cancel = self._broker.later(left, lambda: self._waited(where, entry))
            return
        if (
            entry.queued
            or not silent
            or where.is_credit  # of which no process has any by itself
            or where.used + where.need(entry.tokens) > where.limit.amount
        ):
            where.waiting.remove(entry)
            entry.ready(self._refusal(where, entry.leases, entry.nano))
            return
        # The meter is away. Honest traffic goes on: this process holds the limit by itself.
        missing = where.need(entry.tokens) - where.free
        where.granted += missing
        where.unbacked += missing
        entry.cancel = self._broker.later(METER_PATIENCE, lambda: self._waited(where, entry))
        self._pump(where)

    def _refusal(self, lease: Lease, leases: list[Lease], nano: int = 0) -> Refusal:
        if isinstance(lease, Purse):
            return purse.refusal(lease, nano)
        limit = lease.limit
        wait = 1 if lease.end == NEVER else max(1, round(lease.end - self.now() + 0.5))
        if limit.meter is Meter.SPEND:
            return Refusal(
                429,
                f"The spending limit of this {_whose(limit)} is used up for this {limit.window}.",
                code="insufficient_quota",
                headers=b"X-Should-Retry: false\r\n",
                scope=limit.scope,
            )
        per = "" if limit.window is Window.NOW else f" per {limit.window}"
        return Refusal(
            429,
            f"Rate limit reached for this {_whose(limit)}: {limit.amount} {_METERS[limit.meter]}"
            f"{per}. Try again in {wait} s.",
            code="rate_limit_exceeded",
            retry_after=wait,
            headers=headers(leases, self.now()),
            scope=limit.scope,
        )


def _too_large(lease: Lease, tokens: int) -> Refusal:
    limit = lease.limit
    return Refusal(
        429,
        f"The request may need {tokens} tokens, and the limit of this {_whose(limit)} is "
        f"{limit.amount} per {limit.window}. Make it shorter, or ask for fewer tokens.",
        code="rate_limit_exceeded",
        headers=b"X-Should-Retry: false\r\n",
        scope=limit.scope,
    )


def _whose(limit: Limit) -> str:
    return "API key" if limit.scope == "key" else limit.scope


def _is_slot(lease: Lease) -> bool:
    return lease.is_slots and lease.limit.scope == "instance"


class Waiting(Protocol):
    """Whoever waits."""

    @property
    def key_id(self) -> bytes: ...


Someone = TypeVar("Someone", bound=Waiting)


def in_turn(waiting: Iterable[Someone], had: Mapping[bytes, None]) -> list[Someone]:
    """Keys take turns; the requests of one key keep their order. `had` are keys that had theirs."""
    lines: dict[bytes, deque[Someone]] = {}
    everybody = list(waiting)
    for entry in everybody:
        lines.setdefault(entry.key_id, deque()).append(entry)
    if len(lines) < 2:
        return everybody
    # Who had no turn yet comes first, then who had one longest ago.
    order = [key_id for key_id in lines if key_id not in had]
    order += [key_id for key_id in had if key_id in lines]
    turns: list[Someone] = []
    while order:
        turns += [lines[key_id].popleft() for key_id in order]
        order = [key_id for key_id in order if lines[key_id]]
    return turns


def headers(leases: list[Lease], now: float) -> bytes:
    """https://platform.openai.com/docs/guides/rate-limits#rate-limits-in-headers"""
    requests: Lease | None = None
    tokens: Lease | None = None
    fewest = least = 0
    for lease in leases:
        if lease.is_slots or lease.counts_at_end or lease.is_credit:
            continue
        left = lease.left + lease.granted - lease.used
        if lease.is_tokens:
            if tokens is None or left < least:
                tokens, least = lease, left
        elif requests is None or left < fewest:
            requests, fewest = lease, left
    lines = b""
    if requests is not None:
        lines = _lines(requests, now) % (fewest if fewest > 0 else 0)
    if tokens is not None:
        lines += _lines(tokens, now) % (least if least > 0 else 0)
    return lines


def _lines(lease: Lease, now: float) -> bytes:
    """The lines of a limit but for what is left of it. They hold for a second."""
    seconds = int(lease.end - now)
    if lease.told_for != seconds:
        lease.told_for = seconds
        lines = _TOKENS if lease.is_tokens else _REQUESTS
        lease.lines = lines % (lease.limit.amount, _duration(seconds + 1))
    return lease.lines


_LINES = (
    b"X-RateLimit-Limit-%b: %%d\r\nX-RateLimit-Remaining-%b: %%%%d\r\nX-RateLimit-Reset-%b: %%b\r\n"
)
_REQUESTS = _LINES % ((b"Requests",) * 3)
_TOKENS = _LINES % ((b"Tokens",) * 3)


@lru_cache(maxsize=4096)
def _duration(seconds: int) -> bytes:
    """As OpenAI writes it: `1s`, `6m0s`, `23h59m2s`."""
    hours, rest = divmod(max(1, seconds), 3600)
    minutes, rest = divmod(rest, 60)
    if hours:
        return b"%dh%dm%ds" % (hours, minutes, rest)
    return b"%dm%ds" % (minutes, rest) if minutes else b"%ds" % rest
