"""When the part that may miss a target is used up too fast."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.burn import WINDOWS, Tally, burn_rate, burning, stays_below

HOUR = timedelta(hours=1)


def tallies(**shares: float) -> dict[timedelta, Tally]:
    """The part of 1,000 requests that was slow, by window; none where it is not named."""
    names = {"m5": HOUR / 12, "m30": HOUR / 2, "h1": HOUR, "h6": 6 * HOUR, "d3": 72 * HOUR}
    return {length: Tally(1000, 1000 * shares.get(name, 0.0)) for name, length in names.items()}


@pytest.mark.parametrize(
    ("slow", "row"),
    [
        ({"m5": 0.8, "h1": 0.8}, 0),
        ({"m5": 0.8, "h1": 0.7}, None),
        ({"m5": 0.0, "h1": 0.8}, None),
        ({"m30": 0.31, "h6": 0.31}, 1),
        ({"m30": 0.1, "h6": 0.31}, None),
        ({"h6": 0.06, "d3": 0.06}, 2),
        ({"h6": 0.05, "d3": 0.05}, None),
        ({}, None),
    ],
    ids=["at once", "not yet", "over", "6 h", "6 h, over", "3 days", "just what may miss", "quiet"],
)
def test_both_windows_must_burn(slow: dict[str, float], row: int | None) -> None:
    found = burning(tallies(**slow).__getitem__)
    assert found == (None if row is None else WINDOWS[row])


def test_of_a_few_requests_no_alarm_is_made() -> None:
    assert burning(lambda window: Tally(9, 9)) is None
    assert burning(lambda window: Tally(10, 10)) is WINDOWS[0]


def test_one_uses_up_just_what_may_miss() -> None:
    assert burn_rate(Tally(100, 5), 0.95) == pytest.approx(1.0)
    assert burn_rate(Tally(0, 0)) == 0.0


@given(st.integers(10, 10**6), st.floats(0, 1), st.floats(0, 1))
def test_more_misses_never_burn_less(total: int, one: float, other: float) -> None:
    low, high = sorted((one, other))
    calm = burning(lambda window: Tally(total, total * low))
    worse = burning(lambda window: Tally(total, total * high))
    assert worse is not None or calm is None


@pytest.mark.parametrize(
    ("six_hours", "half_hour", "missed"),
    [(0.5, 0.5, True), (0.5, 0.9, False), (0.9, 0.5, False), (None, None, False)],
)
def test_a_gauge_is_missed_for_long_and_still_now(
    six_hours: float | None, half_hour: float | None, missed: bool
) -> None:
    means = {6 * HOUR: six_hours, HOUR / 2: half_hour}
    assert stays_below(means.__getitem__, 0.8) is missed
