"""No request costs more than its bound says."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.bound import TEMPLATE, Size, bound, most, tokens, within
from billing.pricing import cost
from billing.usage_record import Usage
from inference.gateway.tables import FREE, Price

M = 1_000_000


def price(prompt: int = 0, cached: int = 0, completion: int = 0, **given: int) -> Price:
    return Price(bytes(16), prompt, cached, completion, **given)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (Size(100, max_tokens=50, context=2048), (100, 50)),
        (Size(100, context=2048), (100, 2048)),  # it does not say: the context
        (Size(9000, max_tokens=50, context=2048), (2048, 50)),  # a prompt is cut off there
        (Size(100, max_tokens=9000, context=2048), (100, 2048)),
        (Size(100, answers=4, max_tokens=50, context=2048), (100, 200)),
        (Size(100, prompts=3, answers=2, max_tokens=50, context=2048), (100, 300)),
        (Size(9000, prompts=3, max_tokens=50, context=2048), (6144, 150)),
        (Size(100, max_tokens=50, context=4096, templates=True), (100 + TEMPLATE, 50)),
        (Size(100, max_tokens=50, context=512, templates=True), (512, 50)),
        (Size(100, max_tokens=50, context=2048, hidden=True), (2048, 50)),
    ],
)
def test_what_a_request_may_use_at_most(size: Size, expected: tuple[int, int]) -> None:
    assert tokens(size) == expected


@pytest.mark.parametrize(
    ("prompt", "completion", "rates", "nano"),
    [
        (100, 50, price(2 * M, 1 * M, 3 * M), 350),
        (1, 0, price(1), 1),  # rounded up
        (0, 0, price(5), 0),
        (10, 10, price(1 * M, 4 * M), 40),  # cached tokens that are dearer, of all things
        (10, 10, price(reasoning=7 * M), 70),
        (10, 10, price(request=9), 9),
        (10**9, 10**9, FREE, 0),
    ],
)
def test_the_dearest_way_it_may_turn_out_is_what_counts(
    prompt: int, completion: int, rates: Price, nano: int
) -> None:
    assert bound(prompt, completion, rates) == nano


RATES = st.builds(
    Price, st.just(bytes(16)), *[st.integers(0, 10**12)] * 4, request=st.integers(0, 10**9)
)
SIZES = st.builds(
    Size,
    st.integers(0, 10**5),
    st.integers(1, 8),
    st.integers(1, 8),
    st.integers(0, 10**5),
    st.integers(1, 10**5),
    st.booleans(),
    st.booleans(),
)


@given(size=SIZES, rates=RATES, draw=st.data())
def test_no_usage_within_it_costs_more(size: Size, rates: Price, draw: st.DataObject) -> None:
    prompt, completion = (draw.draw(st.integers(0, each)) for each in tokens(size))
    cached, reasoning = (draw.draw(st.integers(0, each)) for each in (prompt, completion))
    used = Usage(prompt, completion, cached, reasoning)
    held = most(size, rates)
    assert cost(used, rates) <= held
    assert within(held, used, rates) == cost(used, rates)


@given(used=st.builds(Usage, *[st.integers(10**6, 10**9)] * 2), rates=RATES)
def test_an_engine_that_counts_otherwise_is_held_to_it(used: Usage, rates: Price) -> None:
    assert within(7, used, rates) <= 7
