"""Lines over time: where they run, and what the table beside them says."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.charts import MISSING, chart, path, round_up, shown

NOON = datetime(2026, 11, 28, 12, tzinfo=UTC)


def test_a_line_is_broken_where_nothing_is_known() -> None:
    assert path([0, None, 5, 10], 10) == "M0.0 150.0 h0 M400.0 75.0 h0 L600.0 0.0"
    assert path([None, None], 10) == ""


@given(st.floats(1e-6, 1e12))
def test_the_axis_ends_at_a_round_number_above(value: float) -> None:
    top = round_up(value)
    assert value <= top <= 10.01 * value
    assert f"{top:e}"[0] in "125"


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, MISSING), (0, "0"), (12345.6, "12,346"), (12.345, "12.3"), (0.1234, "0.123"), (7, "7")],
)
def test_numbers_have_three_digits_that_count(value: float | None, text: str) -> None:
    assert shown(value) == text


def test_the_table_has_what_is_known_newest_first() -> None:
    moments = [NOON + timedelta(minutes=n) for n in range(3)]

    made = chart("c", "Title", "ms", moments, [("a", [1, None, 4]), ("b", [2, None, None])])

    assert made.rows == [(moments[2], ["4", MISSING]), (moments[0], ["1", "2"])]
    assert [line.last for line in made.lines] == ["4", "2"]
    assert not made.is_empty


def test_the_target_is_within_the_drawing() -> None:
    made = chart("c", "Title", "", [NOON], [("a", [3.0])], limit=400)

    assert made.top == 500
    assert made.limit_y == "30.0"
    assert chart("c", "Title", "", [NOON], [("a", [None])]).is_empty
