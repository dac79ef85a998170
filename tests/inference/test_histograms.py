"""Percentiles out of buckets: what may be added up, and what is read from the sum."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference import histograms
from inference.histograms import EMPTY, above, difference, percentile, together
from inference.provisioners.base import Histogram

HALVES = Histogram([0.5, 1.0], [10, 10, 0])

bounds = st.lists(
    st.floats(0.001, 1000, allow_nan=False), min_size=1, max_size=12, unique=True
).map(sorted)


@st.composite
def histogram(draw: st.DrawFn) -> Histogram:
    made = draw(bounds)
    size = len(made) + 1
    return Histogram(made, draw(st.lists(st.integers(0, 50), min_size=size, max_size=size)))


@pytest.mark.parametrize(
    ("share", "seconds"), [(0.25, 0.25), (0.5, 0.5), (0.75, 0.75), (0.95, 0.95), (1.0, 1.0)]
)
def test_durations_lie_evenly_in_their_bucket(share: float, seconds: float) -> None:
    assert percentile(HALVES, share) == pytest.approx(seconds)


def test_what_is_above_all_bounds_is_said_to_lie_at_the_last() -> None:
    assert percentile(Histogram([0.5, 1.0], [0, 0, 3]), 0.5) == 1.0


def test_of_nothing_there_is_no_percentile() -> None:
    assert percentile(EMPTY, 0.5) is None
    assert percentile(Histogram([0.5], [0, 0]), 0.5) is None


@given(histogram(), st.floats(0, 1), st.floats(0, 1))
def test_a_higher_percentile_is_never_shorter(of: Histogram, one: float, other: float) -> None:
    low, high = sorted((one, other))
    found = percentile(of, low), percentile(of, high)
    if found[0] is not None and found[1] is not None:
        assert found[0] <= found[1] + 1e-9


@given(histogram(), st.floats(0, 1))
def test_a_percentile_lies_within_the_bounds(of: Histogram, share: float) -> None:
    found = percentile(of, share)
    assert found is None or 0 <= found <= of.bounds[-1]


@given(histogram(), histogram())
def test_no_duration_is_lost_when_adding_up(one: Histogram, other: Histogram) -> None:
    both = together([one, other])
    assert histograms.count(both) == histograms.count(one) + histograms.count(other)


@given(histogram(), st.floats(0, 1000))
def test_so_many_are_longer_as_there_are_at_most(of: Histogram, seconds: float) -> None:
    assert 0 <= above(of, seconds) <= histograms.count(of) + 1e-9


def test_the_part_of_a_bucket_above_the_limit_is_too_long() -> None:
    assert above(HALVES, 0.75) == pytest.approx(5)
    assert above(HALVES, 0.0) == pytest.approx(20)
    assert above(HALVES, 2.0) == 0


@pytest.mark.parametrize(
    ("before", "new"),
    [
        (Histogram([0.5, 1.0], [4, 10, 0]), [6, 0, 0]),
        (None, [10, 10, 0]),
        (Histogram([0.5], [4, 10]), [10, 10, 0]),
        (Histogram([0.5, 1.0], [11, 0, 0]), [10, 10, 0]),
    ],
    ids=["grown", "first", "other bounds", "begun anew"],
)
def test_only_what_is_new_counts(before: Histogram | None, new: list[int]) -> None:
    assert difference(before, HALVES).counts == new


@given(histogram())
def test_what_is_stored_comes_back(of: Histogram) -> None:
    again = histograms.restored(histograms.stored(of))  # type: ignore[arg-type]
    assert again == (of if histograms.count(of) else EMPTY)
