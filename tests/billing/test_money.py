"""Amounts: minor units, Stripe's, and what people type."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.money import (
    NANO,
    decimals,
    minor,
    nano_of_minor,
    nano_of_stripe,
    parse,
    stripe_amount,
)

CURRENCIES = st.sampled_from(["USD", "EUR", "TWD", "JPY", "CNY"])


@pytest.mark.parametrize(
    ("nano", "currency", "expected"),
    [
        (5_000_000, "USD", 0),  # half a cent goes to the even one
        (15_000_000, "USD", 2),
        (15_000_001, "USD", 2),
        (14_999_999, "USD", 1),
        (-5_000_000, "USD", 0),
        (-15_000_000, "USD", -2),
        (12_480 * NANO, "TWD", 12_480),
        (1_500_000_000, "JPY", 2),
        (2_500_000_000, "JPY", 2),
    ],
)
def test_rounding_is_half_to_even(nano: int, currency: str, expected: int) -> None:
    assert minor(nano, currency)[0] == expected


@given(st.integers(-(2**62), 2**62), CURRENCIES)
def test_nothing_is_lost_in_rounding(nano: int, currency: str) -> None:
    amount, rest = minor(nano, currency)
    assert nano_of_minor(amount, currency) + rest == nano
    assert 2 * abs(rest) <= nano_of_minor(1, currency)


@given(st.integers(0, 10**9), CURRENCIES)
def test_stripe_is_told_what_people_pay(amount: int, currency: str) -> None:
    nano = nano_of_minor(amount, currency)
    assert nano_of_stripe(stripe_amount(nano, currency), currency) == nano


def test_taiwan_dollars_are_whole_and_in_hundredths_at_stripe() -> None:
    assert decimals("TWD") == 0
    assert stripe_amount(12_480 * NANO, "TWD") == 1_248_000
    assert stripe_amount(300 * NANO, "JPY") == 300
    with pytest.raises(ValueError):
        stripe_amount(NANO // 2, "TWD")


@pytest.mark.parametrize(
    ("text", "currency", "expected"),
    [
        ("10", "USD", 10 * NANO),
        (" 12,480 ", "TWD", 12_480 * NANO),
        ("7.6", "USD", 7_600_000_000),
        ("0.01", "USD", 10_000_000),
    ],
)
def test_what_people_type(text: str, currency: str, expected: int) -> None:
    assert parse(text, currency) == expected


@pytest.mark.parametrize(
    ("text", "currency"),
    [
        ("", "USD"),
        ("-1", "USD"),
        ("1e3", "USD"),
        ("1.005", "USD"),
        ("1.5", "JPY"),
        ("١٢", "USD"),
        ("9999999999", "USD"),
        ("NaN", "USD"),
    ],
)
def test_what_is_no_amount_is_refused(text: str, currency: str) -> None:
    with pytest.raises(ValueError):
        parse(text, currency)
