"""What the limiter lets in, refuses and keeps waiting, with a meter of three lines."""

from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from billing.usage_record import Usage
from inference.gateway.errors import Refusal
from inference.gateway.lease import Lease, bounds
from inference.gateway.limits import Limiter, Permit
from inference.gateway.tables import FREE, Price, Window
from tests.gateway.tables import limit

NOON = 1_795_262_400.0  # a whole minute


@dataclass
class Meter:
    """Answers when told to: `amount` is all there is."""

    amount: int
    clock: float = NOON
    processes: int = 1
    asked: list[tuple[Lease, int, int, bool]] = field(default_factory=list)
    given: int = 0
    timers: list[Any] = field(default_factory=list)

    def now(self) -> float:
        return self.clock

    def ask(
        self, lease: Lease, want: int, *, beyond: int = 0, wait: bool = False, least: int = 0
    ) -> None:
        self.asked.append((lease, want, beyond, wait))

    def give(self, lease: Lease, units: int) -> None:
        self.amount += units
        self.given += units

    def later(self, seconds: float, call: Any) -> Any:
        timer = [self.clock + seconds, call]
        self.timers.append(timer)
        return lambda: self.timers.remove(timer) if timer in self.timers else None

    def answer(self, limiter: Limiter) -> None:
        asked, self.asked = self.asked, []
        for lease, want, beyond, wait in asked:
            units = max(beyond, min(want, self.amount))
            if units == 0 and wait:
                self.asked.append((lease, want, beyond, wait))
                continue
            self.amount -= units
            limiter.granted(lease.limit.id, lease.start, units, self.amount)

    def pass_time(self, seconds: float) -> None:
        self.clock += seconds
        for timer in [t for t in self.timers if t[0] <= self.clock]:
            if timer in self.timers:
                self.timers.remove(timer)
                timer[1]()


def enter(limiter: Limiter, *limits, key=b"k", tokens=0, queue=None):
    """(what it got at once, what it gets later)."""
    later: list[Any] = []
    at_once = limiter.enter(limits, key_id=key, tokens=tokens, queue=queue, ready=later.append)
    return at_once, later


def refusal_of(call) -> Refusal:
    with pytest.raises(Refusal) as raised:
        call()
    return raised.value


def test_the_first_request_asks_and_the_next_ones_do_not():
    meter = Meter(100)
    limiter = Limiter(meter)
    rpm = limit(100)
    at_once, later = enter(limiter, rpm)
    assert at_once is None
    meter.answer(limiter)
    assert isinstance(later[0], Permit)
    assert isinstance(enter(limiter, rpm)[0], Permit)
    assert not meter.asked


def test_a_lease_is_renewed_before_it_runs_out():
    meter = Meter(100)
    limiter = Limiter(meter)
    rpm = limit(100)
    _, later = enter(limiter, rpm)
    meter.answer(limiter)
    let_in = 1
    while enter(limiter, rpm)[0] is not None:
        let_in += 1
        meter.answer(limiter)
        if let_in == 100:
            break
    assert let_in == 100


def test_beyond_the_limit_it_is_refused_in_openai_s_words():
    meter = Meter(1)
    limiter = Limiter(meter)
    rpm = limit(1, window="minute")
    enter(limiter, rpm)
    meter.answer(limiter)
    _, later = enter(limiter, rpm)
    meter.answer(limiter)
    (refusal,) = later
    assert (refusal.status, refusal.code, refusal.scope) == (429, "rate_limit_exceeded", "key")
    assert 1 <= refusal.retry_after <= 61
    assert b"X-RateLimit-Remaining-Requests: 0\r\n" in refusal.headers
    again = refusal_of(lambda: enter(limiter, rpm))
    assert again.message == refusal.message
    meter.clock += 60
    meter.amount = 1
    _, later = enter(limiter, rpm)
    meter.answer(limiter)
    assert isinstance(later[0], Permit)


def test_headers_tell_of_the_tightest_limit():
    meter = Meter(1000)
    limiter = Limiter(meter)
    wide, tight = limit(1000, window="day"), limit(10, window="minute")
    _, later = enter(limiter, wide, tight, tokens=0)
    for _ in range(3):
        meter.answer(limiter)
    lines = later[0].headers()
    assert b"X-RateLimit-Limit-Requests: 10\r\n" in lines
    assert b"X-RateLimit-Reset-Requests: 1m0s\r\n" in lines or b"Requests: 1m1s" in lines


def test_tokens_are_set_aside_and_put_right():
    meter = Meter(1000)
    limiter = Limiter(meter)
    tpm = limit(1000, "tokens", "minute")
    _, later = enter(limiter, tpm, tokens=600)
    meter.answer(limiter)
    later[0].leave(Usage(100), FREE)
    _, later = enter(limiter, tpm, tokens=800)
    meter.answer(limiter)
    meter.answer(limiter)
    assert isinstance(later[0], Permit)
    too_large = refusal_of(lambda: enter(limiter, tpm, tokens=1001))
    assert "1001 tokens" in too_large.message


def test_money_that_is_spent_is_a_quota_that_sdks_do_not_retry():
    meter = Meter(100)
    limiter = Limiter(meter)
    cap = limit(100, "spend", "month")
    _, later = enter(limiter, cap)
    meter.answer(limiter)
    later[0].leave(Usage(5), Price(bytes(16), request=150))
    meter.answer(limiter)
    _, later = enter(limiter, cap)
    meter.answer(limiter)
    (refusal,) = later
    assert (refusal.code, refusal.headers) == ("insufficient_quota", b"X-Should-Retry: false\r\n")
    assert b'"type":"insufficient_quota"' in refusal.body()


def test_a_line_is_bounded_and_keys_take_turns():
    meter = Meter(1)
    limiter = Limiter(meter)
    slots = limit(1, "concurrent", "now", "instance")
    _, first = enter(limiter, slots, queue=(6, 30))
    meter.answer(limiter)
    order = []
    waiting = []
    for key in (b"a", b"a", b"a", b"b", b"c", b"b"):
        waiting.append((key, enter(limiter, slots, key=key, queue=(6, 30))[1]))
    assert refusal_of(lambda: enter(limiter, slots, queue=(6, 30))).code == "rate_limit_exceeded"
    permit = first[0]
    while permit is not None:
        permit.leave(Usage(), FREE)
        meter.answer(limiter)
        permit = None
        for key, got in waiting:
            if got and key not in {None} and got[0] is not permit and (got, key) not in order:
                order.append((got, key))
                permit = got[0]
                break
    assert [key for _, key in order] == [b"a", b"b", b"c", b"a", b"b", b"a"]


def test_who_waits_too_long_is_refused():
    meter = Meter(1)
    limiter = Limiter(meter)
    slots = limit(1, "concurrent", "now", "instance")
    enter(limiter, slots, queue=(6, 30))
    meter.answer(limiter)
    _, later = enter(limiter, slots, queue=(6, 30))
    meter.answer(limiter)
    meter.pass_time(29)
    assert not later
    meter.pass_time(2)
    assert later[0].status == 429


def test_with_the_meter_away_a_process_holds_the_limit_by_itself():
    meter = Meter(0)
    limiter = Limiter(meter)
    rpm = limit(3)
    got = [enter(limiter, rpm)[1] for _ in range(5)]
    for _ in range(3):
        meter.pass_time(1.1)
    assert [type(later[0]) for later in got] == [Permit] * 3 + [Refusal] * 2
    limiter.ask_again()
    assert meter.asked[-1][2] == 3  # the meter is told of what was used


def test_a_meter_that_begins_anew_has_its_time_to_answer():
    meter = Meter(1)
    limiter = Limiter(meter)
    _, later = enter(limiter, limit(10, "concurrent", "now"))
    meter.asked.clear()  # it was killed with the question
    meter.pass_time(0.6)
    limiter.ask_again()
    meter.pass_time(0.6)
    assert not later
    meter.answer(limiter)
    assert isinstance(later[0], Permit)


def test_whoever_is_gone_waits_no_more():
    meter = Meter(0)
    limiter = Limiter(meter)
    rpm = limit(3)
    later: list[Any] = []
    ready = later.append
    limiter.enter((rpm,), key_id=b"", tokens=0, queue=None, ready=ready)
    limiter.forget(ready)
    meter.amount = 3
    meter.answer(limiter)
    meter.pass_time(10)
    assert not later


@pytest.mark.parametrize(
    ("window", "start", "end"),
    [
        (Window.MINUTE, 1_795_262_400, 1_795_262_460),
        (Window.DAY, 1_795_219_200, 1_795_305_600),
        (Window.MONTH, 1_793_491_200, 1_796_083_200),
    ],
)
def test_windows_are_of_utc(window, start, end):
    assert bounds(window, NOON + 12) == (start, end)


@given(st.lists(st.tuples(st.sampled_from("elgtf"), st.integers(0, 5)), max_size=120))
@settings(max_examples=150, deadline=None)
def test_it_never_lets_in_more_than_was_granted_and_leaks_no_slot(steps):
    meter = Meter(5)
    limiter = Limiter(meter)
    slots, rpm = limit(5, "concurrent", "now", "instance"), limit(10**6)
    inside: list[Permit] = []
    waiting: list[tuple[list[Any], Any]] = []
    for step, number in steps:
        if step == "e":
            later: list[Any] = []
            ready = later.append
            queue = (4, 30) if number % 2 else None
            try:
                permit = limiter.enter(
                    (rpm, slots), key_id=bytes([number]), tokens=0, queue=queue, ready=ready
                )
            except Refusal:
                continue
            if permit is not None:
                inside.append(permit)
            else:
                waiting.append((later, ready))
        elif step == "l" and inside:
            inside.pop(number % len(inside)).leave(Usage(), FREE)
        elif step == "g":
            meter.answer(limiter)
        elif step == "t":
            meter.pass_time(number * 10)
        elif step == "f" and waiting:
            later, ready = waiting.pop(number % len(waiting))
            limiter.forget(ready)
            inside += [each for each in later if isinstance(each, Permit)]
            later.clear()
        for entry in [w for w in waiting if w[0]]:
            assert len(entry[0]) == 1
            inside += [each for each in entry[0] if isinstance(each, Permit)]
            waiting.remove(entry)
        lease = limiter._leases.get(slots.id)
        if lease is not None:
            assert lease.used == len(inside)
            assert lease.used <= 5
    while inside:
        inside.pop().leave(Usage(), FREE)
        for entry in [w for w in waiting if w[0]]:
            inside += [each for each in entry[0] if isinstance(each, Permit)]
            waiting.remove(entry)
    for _, ready in waiting:
        limiter.forget(ready)
    lease = limiter._leases.get(slots.id)
    assert lease is None or lease.used == 0


def test_who_is_killed_takes_along_some_seconds_of_traffic_and_not_a_share_of_the_day():
    meter = Meter(10**9)
    limiter = Limiter(meter)
    rpd = limit(10**9)
    _, later = enter(limiter, rpd)
    meter.answer(limiter)
    assert 10**9 - meter.amount < 100
    for _ in range(1000):  # 100 a second
        meter.pass_time(0.01)
        assert enter(limiter, rpd)[0] is not None
        meter.answer(limiter)
    assert 10**9 - meter.amount < 1001 + 500
