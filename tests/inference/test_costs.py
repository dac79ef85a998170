"""What a million tokens cost here, and from which load on that is less than elsewhere."""

from datetime import date
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference import external_prices
from inference.costs import BadPrices, ListPrice, Load, compare

THERE = ListPrice("There", Decimal(1), Decimal(3), "USD", "https://there.example", date(2026, 1, 1))
LISTED = """
[[price]]
name = "There"
input = "0.50"
output = 1.50
currency = "USD"
source = "https://there.example/prices"
date = 2026-11-01
"""


def load(prompt: int, completion: int, hours: str = "10", cost: str = "20") -> Load:
    return Load(prompt, completion, Decimal(hours), Decimal(cost))


def test_a_million_tokens_cost_what_the_hours_did() -> None:
    assert load(1_000_000, 1_000_000).per_million == 10
    assert load(1_000_000, 1_000_000).tokens_per_hour == 200_000


def test_half_input_half_output_is_compared_in_that_proportion() -> None:
    found = compare(load(1_000_000, 1_000_000), THERE)

    assert found is not None
    assert found.per_million == 2
    assert found.break_even == 1_000_000  # 2 an hour here buy a million there
    assert not found.is_cheaper_here(load(1_000_000, 1_000_000))


@given(st.integers(0, 10**9), st.integers(0, 10**9))
def test_it_is_cheaper_here_just_where_the_load_is_above_the_break_even(
    prompt: int, completion: int
) -> None:
    measured = load(prompt, completion)
    found = compare(measured, THERE)
    if found is None:
        assert prompt + completion == 0
        return
    assert found.break_even is not None and measured.tokens_per_hour is not None
    gap = measured.tokens_per_hour - found.break_even
    if abs(gap) > Decimal("1e-9"):
        assert found.is_cheaper_here(measured) == (gap > 0)


def test_without_a_load_nothing_is_compared() -> None:
    assert load(0, 0).per_million is None
    assert compare(load(0, 0), THERE) is None
    assert compare(load(1, 1, hours="0"), THERE) is None


def test_what_is_free_there_is_never_cheaper_here() -> None:
    free = ListPrice("Free", Decimal(0), Decimal(0), "USD", "https://x.example", date(2026, 1, 1))
    found = compare(load(5, 5), free)
    assert found is not None and found.break_even is None
    assert not found.is_cheaper_here(load(5, 5))


def test_the_operators_list_is_read_to_the_last_digit(tmp_path: Path) -> None:
    path = tmp_path / "prices.toml"
    path.write_text(LISTED)

    (price,) = external_prices.read(path)

    assert (price.input, price.output) == (Decimal("0.50"), Decimal("1.50"))
    assert (price.source, price.date) == ("https://there.example/prices", date(2026, 11, 1))
    assert external_prices.read(None) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (LISTED.replace("source", "origin"), "origin"),
        (LISTED.replace('source = "https://there.example/prices"', ""), "source"),
        (LISTED.replace('"0.50"', '"much"'), "Invalid decimal"),
        ("[[price", "Expected"),
    ],
)
def test_a_price_without_its_source_is_refused(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "prices.toml"
    path.write_text(text)
    with pytest.raises(BadPrices, match=words):
        external_prices.read(path)
