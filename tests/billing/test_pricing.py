"""What a request costs: whole nano-units, each token once."""

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from billing.pricing import cost
from billing.usage_record import Usage
from inference.gateway.tables import FREE, Price

rates = st.builds(Price, st.just(bytes(16)), *[st.integers(0, 10**13)] * 5)


@st.composite
def usages(draw):
    prompt, completion = draw(st.integers(0, 10**7)), draw(st.integers(0, 10**7))
    return Usage(prompt, completion, draw(st.integers(0, prompt)), draw(st.integers(0, completion)))


def test_a_million_tokens_cost_the_rate():
    price = Price(bytes(16), prompt=150_000_000, completion=600_000_000, request=7)
    assert cost(Usage(1_000_000, 1_000_000), price) == 750_000_007


def test_cached_and_reasoning_tokens_are_priced_once():
    price = Price(bytes(16), prompt=10, cached=1, completion=20, reasoning=40)
    used = Usage(1_000_000, 1_000_000, 600_000, 500_000)
    assert cost(used, price) == 4 + 1 + 10 + 20  # 0.6 of one is rounded to one


def test_half_a_unit_goes_to_the_even_one():
    price = Price(bytes(16), prompt=1)
    assert [cost(Usage(n * 500_000), price) for n in (1, 3, 5)] == [0, 2, 2]


@given(usages(), rates)
def test_it_is_the_exact_sum_rounded_once(used, price):
    exact = (
        Fraction(used.prompt_tokens - used.cached_tokens) * price.prompt
        + used.cached_tokens * price.cached
        + (used.completion_tokens - used.reasoning_tokens) * price.completion
        + used.reasoning_tokens * price.reasoning
    ) / 1_000_000
    assert cost(used, price) == round(exact) + price.request
    assert cost(used, FREE) == 0
