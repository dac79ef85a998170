"""What a request costs: whole nano-units, each token once."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.pricing import NOTHING, Free, charge, cost, time_charge
from billing.usage_record import Usage
from inference.gateway.tables import FREE, Price

NO_VERSION = bytes(16)
rates = st.builds(Price, st.just(NO_VERSION), *[st.integers(0, 10**13)] * 5)
discounts = st.integers(0, 10_000)
frees = st.builds(Free, st.integers(0, 10**7), st.integers(0, 10**12))


@st.composite
def usages(draw):
    prompt, completion = draw(st.integers(0, 10**7)), draw(st.integers(0, 10**7))
    return Usage(prompt, completion, draw(st.integers(0, prompt)), draw(st.integers(0, completion)))


def exact(used: Usage, price: Price) -> Fraction:
    tokens = (
        Fraction(used.prompt_tokens - used.cached_tokens) * price.prompt
        + used.cached_tokens * price.cached
        + (used.completion_tokens - used.reasoning_tokens) * price.completion
        + used.reasoning_tokens * price.reasoning
    ) / 1_000_000
    return tokens + (price.request if used.prompt_tokens or used.completion_tokens else 0)


def test_a_million_tokens_cost_the_rate():
    price = Price(NO_VERSION, prompt=150_000_000, completion=600_000_000, request=7)
    assert cost(Usage(1_000_000, 1_000_000), price) == 750_000_007


def test_cached_and_reasoning_tokens_are_priced_once():
    price = Price(NO_VERSION, prompt=10, cached=1, completion=20, reasoning=40)
    used = Usage(1_000_000, 1_000_000, 600_000, 500_000)
    assert cost(used, price) == 4 + 1 + 10 + 20  # 0.6 of one is rounded to one


def test_half_a_unit_goes_to_the_even_one():
    price = Price(NO_VERSION, prompt=1)
    assert [cost(Usage(n * 500_000), price) for n in (1, 3, 5)] == [0, 2, 2]


def test_a_request_that_brought_nothing_costs_nothing():
    price = Price(NO_VERSION, prompt=10, request=500)
    assert cost(Usage(), price) == 0
    assert cost(Usage(1), price) == 500


PRICE = Price(NO_VERSION, prompt=1_000_000, cached=500_000, completion=4_000_000, request=100)


@pytest.mark.parametrize(
    ("discount", "free", "paid", "taken"),
    [
        (0, Free(), 100 + 30 + 5 + 200, Free()),
        (2_500, Free(), 251, Free()),  # 251.25
        (10_000, Free(), 0, Free()),
        (0, Free(tokens=20), 100 + 10 + 5 + 200, Free(20)),  # of the input first
        (0, Free(tokens=35), 100 + 0 + 2 + 200, Free(35)),  # 2.5, to the even one
        (0, Free(tokens=60), 100 + 120, Free(60)),
        (0, Free(tokens=1000), 100, Free(90)),  # a request is not a token
        (0, Free(nano=300), 35, Free(0, 300)),
        (5_000, Free(tokens=60, nano=100), 10, Free(60, 100)),
        (0, Free(tokens=1000, nano=1000), 0, Free(90, 100)),
    ],
)
def test_discount_and_what_is_free(discount: int, free: Free, paid: int, taken: Free):
    assert charge(Usage(40, 50, 10, 0), PRICE, discount, free) == (paid, taken)


def test_what_has_no_rate_takes_nothing_of_what_is_free():
    price = Price(NO_VERSION, completion=1_000_000)
    assert charge(Usage(100, 10), price, 0, Free(15)) == (0, Free(10))
    assert charge(Usage(100, 10), FREE, 0, Free(15, 5)) == (0, NOTHING)


@given(usages(), rates)
def test_it_is_the_exact_sum_rounded_once(used, price):
    assert cost(used, price) == round(exact(used, price))
    assert cost(used, FREE) == 0


@given(usages(), rates, discounts)
def test_a_discount_is_off_the_exact_sum_and_rounded_once(used, price, discount):
    assert cost(used, price, discount) == round(exact(used, price) * (10_000 - discount) / 10_000)


@given(usages(), rates, discounts, frees)
def test_nothing_is_negative_and_no_more_is_free_than_was_left(used, price, discount, free):
    paid, taken = charge(used, price, discount, free)
    assert 0 <= paid <= cost(used, price, discount) <= cost(used, price)
    assert 0 <= taken.tokens <= min(free.tokens, used.prompt_tokens + used.completion_tokens)
    assert 0 <= taken.nano <= free.nano
    # What was paid and what was given are all there is: no nano-unit is lost in between.
    assert paid + taken.nano == charge(used, price, discount, Free(free.tokens))[0]


@given(usages(), rates, discounts, frees, st.sampled_from(range(4)), st.integers(1, 10**6))
def test_more_of_anything_never_costs_less(used, price, discount, free, which, more):
    counts = [used.prompt_tokens, used.completion_tokens, used.cached_tokens, used.reasoning_tokens]
    counts[which] += more
    if which >= 2:
        counts[which - 2] += more  # they are a part of the others
    assert (
        charge(Usage(*counts), price, discount, free)[0] >= charge(used, price, discount, free)[0]
    )


@given(usages(), rates, discounts, frees, st.integers(0, 9_999))
def test_a_larger_discount_or_more_for_free_never_costs_more(used, price, discount, free, less):
    paid, _ = charge(used, price, discount, free)
    assert charge(used, price, min(discount, less), free)[0] >= paid
    assert charge(used, price, discount, Free(free.tokens // 2, free.nano // 2))[0] >= paid


@given(st.lists(usages(), max_size=8), rates, discounts, frees)
def test_over_a_month_exactly_what_is_free_is_given(requests, price, discount, free):
    left, paid, tokens = free, 0, 0
    for used in requests:
        nano, taken = charge(used, price, discount, left)
        left = Free(left.tokens - taken.tokens, left.nano - taken.nano)
        paid += nano
        tokens += taken.tokens
    priced = sum(
        count
        for used in requests
        for count, rate in (
            (used.prompt_tokens - used.cached_tokens, price.prompt),
            (used.cached_tokens, price.cached),
            (used.completion_tokens - used.reasoning_tokens, price.completion),
            (used.reasoning_tokens, price.reasoning),
        )
        if rate
    )
    assert tokens == min(free.tokens, priced)
    assert paid == 0 or left.nano == 0  # nothing is paid before the free amount is used up


@pytest.mark.parametrize(
    ("seconds", "count", "rate", "discount", "nano"),
    [
        (3600, 1, 2_490_000_000, 0, 2_490_000_000),
        (60, 8, 2_490_000_000, 0, 332_000_000),
        (1, 1, 2_490_000_000, 0, 691_667),
        (1, 1, 1800, 0, 0),  # a half, to the even one
        (3, 1, 1800, 0, 2),
        (3600, 2, 1000, 2_500, 1500),
        (0, 4, 1000, 0, 0),
    ],
)
def test_time_costs_its_part_of_the_hour(seconds, count, rate, discount, nano):
    assert time_charge(seconds, count, rate, discount) == (nano, NOTHING)


@given(st.integers(0, 10**7), st.integers(0, 64), st.integers(0, 10**13), discounts, frees)
def test_time_is_rounded_once_and_takes_of_the_free_amount_alone(
    seconds, count, rate, discount, free
):
    paid, taken = time_charge(seconds, count, rate, discount, free)
    whole = Fraction(seconds * count * rate, 3600) * (10_000 - discount) / 10_000
    assert paid + taken.nano == round(whole)
    assert 0 <= taken.nano <= free.nano and taken.tokens == 0


@given(st.lists(st.integers(1, 600), max_size=30), st.integers(1, 8), st.integers(0, 10**12))
def test_minutes_add_up_to_the_whole_but_for_half_a_nano_unit_each(parts, count, rate):
    pieces = sum(time_charge(seconds, count, rate)[0] for seconds in parts)
    assert abs(pieces - time_charge(sum(parts), count, rate)[0]) <= (len(parts) + 1) / 2
