"""Credit in a gateway: what is let in out of it, how much is held, and what is said without it."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from billing.usage_record import Usage
from inference.gateway.errors import Refusal
from inference.gateway.limits import Limiter, Permit
from inference.gateway.purse import ALSO, IDLE, OUTLASTS, PAUSE, shown
from inference.gateway.tables import FREE, Credit, Price
from portal.lib.ids import uuid7
from tests.gateway.tables import limit
from tests.gateway.test_limits import Meter, refusal_of

EACH = Price(bytes(16), request=1)  # a nano-unit for a request
PAGE = "https://modelport.example/o/acme/billing/"


def credit(**given: Any) -> Credit:
    return Credit(uuid7().bytes, currency="USD", page=PAGE, **given)


def enter(limiter: Limiter, of: Credit, nano: int, *limits: Any):
    """(what it got at once, what it gets later)."""
    later: list[Any] = []
    at_once = limiter.enter(
        limits, key_id=b"k", tokens=0, queue=None, ready=later.append, credit=of, nano=nano
    )
    return at_once, later


def let_in(meter: Meter, limiter: Limiter, of: Credit, nano: int) -> Permit:
    at_once, later = enter(limiter, of, nano)
    if at_once is None:
        meter.answer(limiter)
        (at_once,) = later
    assert isinstance(at_once, Permit)
    return at_once


def test_only_the_first_request_waits_for_the_meter():
    meter, acme = Meter(10**6), credit()
    limiter = Limiter(meter)
    assert enter(limiter, acme, 100)[0] is None
    meter.answer(limiter)
    for _ in range(1000):
        permit, _ = enter(limiter, acme, 100)
        assert permit is not None
        permit.leave(Usage(1), EACH)
        meter.answer(limiter)


def test_the_end_puts_back_what_it_did_not_cost():
    meter, acme = Meter(100), credit()
    limiter = Limiter(meter)
    permit = let_in(meter, limiter, acme, 100)
    meter.pass_time(PAUSE)
    assert refused(meter, limiter, acme, 101).code == "insufficient_quota"
    meter.pass_time(1)
    waits = refused(meter, limiter, acme, 1)
    assert (waits.code, waits.retry_after) == ("rate_limit_exceeded", 1)
    assert "under way" in waits.message
    assert permit.leave(Usage(1), Price(bytes(16), request=30)) == 30
    let_in(meter, limiter, acme, 70)


def refused(meter: Meter, limiter: Limiter, of: Credit, nano: int) -> Refusal:
    try:
        _, later = enter(limiter, of, nano)
    except Refusal as refusal:
        return refusal
    meter.answer(limiter)
    (refusal,) = later
    assert isinstance(refusal, Refusal)
    return refusal


def test_a_request_that_never_began_costs_nothing():
    meter, acme = Meter(100), credit()
    limiter = Limiter(meter)
    assert let_in(meter, limiter, acme, 100).leave(Usage(), FREE) == 0
    let_in(meter, limiter, acme, 100)


def test_an_engine_that_counts_beyond_the_bound_is_paid_the_bound():
    meter, acme = Meter(100), credit()
    permit = let_in(meter, Limiter(meter), acme, 60)
    assert permit.leave(Usage(1), Price(bytes(16), request=1000)) == 60


def test_too_little_is_told_with_all_that_helps():
    meter, acme = Meter(250_000_000), credit()
    refusal = refused(meter, Limiter(meter), acme, 1_500_000_000)
    assert (refusal.status, refusal.headers) == (429, b"X-Should-Retry: false\r\n")
    assert refusal.message == (
        "The credit of this organization is USD 0.25, and this request may cost up to USD 1.50. "
        f"Set max_tokens lower, so that it may cost less. Top it up: {PAGE}"
    )
    assert b'"type":"insufficient_quota"' in refusal.body()


def test_nothing_left_is_told_and_holds_for_a_moment_only():
    meter, acme = Meter(0), credit()
    limiter = Limiter(meter)
    used_up = f"The credit of this organization is used up. Top it up: {PAGE}"
    assert refused(meter, limiter, acme, 5).message == used_up
    assert refusal_of(lambda: enter(limiter, acme, 5)).message == used_up
    meter.amount = 100  # money has come in
    meter.pass_time(1)
    let_in(meter, limiter, acme, 5)


def test_who_is_suspended_is_let_in_to_nothing_that_costs():
    meter, acme = Meter(100), credit(suspended=True)
    limiter = Limiter(meter)
    assert "used up" in refusal_of(lambda: enter(limiter, acme, 5)).message
    assert not meter.asked


def test_who_pays_later_is_told_of_the_line():
    meter = Meter(0)
    refusal = refused(meter, Limiter(meter), credit(postpaid=True), 5)
    assert refusal.message.startswith("The credit line of this organization is used up. Ask your")


def test_without_the_meter_nobody_is_let_in_beyond_what_is_held():
    meter, acme = Meter(10), credit()
    limiter = Limiter(meter)
    let_in(meter, limiter, acme, 10)
    meter.asked.clear()
    meter.pass_time(PAUSE)
    _, later = enter(limiter, acme, 10)
    meter.pass_time(1.1)
    (refusal,) = later
    assert (refusal.status, refusal.code, refusal.retry_after) == (503, "credit_unavailable", 2)
    meter.asked.clear()
    limiter.ask_again()
    assert len(meter.asked) == 1


def test_small_requests_get_what_a_large_one_cannot_use():
    meter, acme = Meter(10), credit()
    limiter = Limiter(meter)
    _, large = enter(limiter, acme, 100)
    _, small = enter(limiter, acme, 5)
    meter.answer(limiter)
    for _ in range(2):
        meter.answer(limiter)
    assert isinstance(large[0], Refusal)
    assert isinstance(small[0], Permit)


def test_limits_and_credit_are_both_held_to():
    meter, acme = Meter(10**6), credit()
    limiter = Limiter(meter)
    rpd = limit(1)
    _, later = enter(limiter, acme, 5, rpd)
    meter.amount = 1
    meter.answer(limiter)
    meter.amount = 100
    meter.answer(limiter)
    assert isinstance(later[0], Permit)
    meter.amount = 0
    _, later = enter(limiter, acme, 5, rpd)
    meter.answer(limiter)
    assert later[0].code == "rate_limit_exceeded"


def spend(meter: Meter, limiter: Limiter, of: Credit, seconds: int, a_second: int) -> None:
    """Requests that cost a nano-unit each and might cost ten."""
    for _ in range(seconds):
        for _ in range(a_second):
            let_in(meter, limiter, of, 10).leave(Usage(1), EACH)
        meter.pass_time(1)
        limiter.look_after_credit()
        meter.answer(limiter)


def test_steady_traffic_is_let_in_for_a_minute_and_a_half_without_the_meter():
    meter, acme = Meter(10**9), credit()
    limiter = Limiter(meter)
    spend(meter, limiter, acme, 5, 100)
    for _ in range(int(OUTLASTS)):
        for _ in range(100):
            permit, _ = enter(limiter, acme, 10)
            assert permit is not None
            permit.leave(Usage(1), EACH)
        meter.pass_time(1)
        limiter.look_after_credit()


def test_what_is_held_follows_the_traffic_down_and_goes_back_when_nobody_comes():
    meter, acme = Meter(10**9), credit()
    limiter = Limiter(meter)
    spend(meter, limiter, acme, 5, 100)
    full = 10**9 - meter.amount
    spend(meter, limiter, acme, 200, 1)
    assert 10**9 - meter.amount < full / 3
    for _ in range(int(IDLE) + 2):
        meter.pass_time(1)
        limiter.look_after_credit()
    assert meter.amount == 10**9 - 500 - 200  # what was spent is gone


def test_where_credit_is_scarce_it_goes_back_soon():
    meter, acme = Meter(20 * ALSO), credit()
    limiter = Limiter(meter)
    let_in(meter, limiter, acme, 10).leave(Usage(1), EACH)
    for _ in range(12):
        meter.pass_time(1)
        limiter.look_after_credit()
    assert meter.amount == 20 * ALSO - 1


@pytest.mark.parametrize(
    ("nano", "currency", "text"),
    [
        (1_500_000_000, "USD", "USD 1.50"),
        (1, "USD", "USD 0.000000001"),
        (2_000_000_000, "TWD", "TWD 2"),
        (0, "USD", "USD 0.00"),
    ],
)
def test_amounts_are_told_to_the_last_nano_unit(nano: int, currency: str, text: str):
    assert shown(nano, currency) == text


STEPS = st.lists(st.tuples(st.sampled_from("eelgrtsfc"), st.integers(0, 12)), max_size=150)


@given(steps=STEPS)
@settings(max_examples=200, deadline=None)
def test_what_is_spent_and_set_aside_is_never_more_than_was_granted(steps):
    meter, acme = Meter(60), credit()
    limiter = Limiter(meter)
    inside: list[Permit] = []
    waiting: list[tuple[list[Any], Any]] = []
    spent = 0
    for step, number in steps:
        if step == "e":
            later: list[Any] = []
            ready = later.append
            try:
                permit = limiter.enter(
                    (), key_id=b"", tokens=0, queue=None, ready=ready, credit=acme, nano=number
                )
            except Refusal:
                continue
            if permit is not None:
                inside.append(permit)
            else:
                waiting.append((later, ready))
        elif step == "l" and inside:
            permit = inside.pop(number % len(inside))
            spent += permit.leave(Usage(1), Price(bytes(16), request=number))
        elif step == "g":
            meter.answer(limiter)
        elif step == "r":
            limiter.recall(acme.id, -1)
        elif step == "t":
            meter.pass_time(number)
        elif step == "s":
            limiter.look_after_credit()
        elif step == "c":
            limiter.ask_again()
        elif step == "f" and waiting:
            later, ready = waiting.pop(number % len(waiting))
            limiter.forget(ready)
            inside += [each for each in later if isinstance(each, Permit)]
        for entry in [w for w in waiting if w[0]]:
            assert len(entry[0]) == 1
            inside += [each for each in entry[0] if isinstance(each, Permit)]
            waiting.remove(entry)
        purse = limiter._purses.get(acme.id)
        if purse is not None:
            assert purse.used == spent + sum(permit.nano for permit in inside)
            assert purse.used <= purse.granted
            assert purse.granted + meter.amount == 60
            assert purse.spent == spent
