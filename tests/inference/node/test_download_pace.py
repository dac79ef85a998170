"""How long a download still takes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.node.pace import WINDOW, Pace

MB = 1_000_000


def told(*seen: tuple[float, int], total: int = 100 * MB) -> int | None:
    pace = Pace()
    for now, done in seen[:-1]:
        pace.seconds_left(now, done, total)
    now, done = seen[-1]
    return pace.seconds_left(now, done, total)


@pytest.mark.parametrize(
    ("seen", "left"),
    [
        ([(0, 0)], None),  # nothing to compare with
        ([(0, 0), (0.5, MB)], None),  # too early
        ([(0, 0), (2, 2 * MB)], 98),
        ([(0, 50 * MB), (2, 52 * MB)], 48),  # what was there before counts for nothing
        ([(0, 0), (10, 0)], None),  # nothing comes
        ([(0, 0), (2, 100 * MB)], 0),
        ([(0, 100 * MB)], 0),
    ],
)
def test_the_time_left_follows_from_what_came(
    seen: list[tuple[float, int]], left: int | None
) -> None:
    assert told(*seen) == left


def test_only_the_last_seconds_count() -> None:
    slow = [(float(second), second * MB // 10) for second in range(100)]
    fast = [(100.0 + second, 10 * MB + second * MB) for second in range(int(WINDOW) + 2)]
    assert told(*slow, *fast) == pytest.approx(100 - 31, abs=2)


def test_a_file_that_is_thrown_away_does_not_count_backwards() -> None:
    assert told((0, 0), (2, 20 * MB), (3, 5 * MB), (5, 7 * MB)) == 93


@given(st.lists(st.tuples(st.floats(0.01, 30), st.integers(-5 * MB, 5 * MB)), min_size=1))
def test_it_is_never_negative(steps: list[tuple[float, int]]) -> None:
    pace, now, done = Pace(), 0.0, 0
    for seconds, more in steps:
        now, done = now + seconds, max(0, done + more)
        left = pace.seconds_left(now, done, 100 * MB)
        assert left is None or left >= 0
