"""How much can be paid at a time. PURE."""

from billing.money import NANO, decimals, minor

# Units of the currency: small enough for a trial, and what a typing error may cost.
_LIMITS = {
    "USD": (5, 10_000),
    "EUR": (5, 10_000),
    "GBP": (5, 10_000),
    "TWD": (150, 300_000),
    "JPY": (500, 1_500_000),
    "KRW": (5_000, 15_000_000),
    "CNY": (35, 70_000),
}


def limits(currency: str) -> tuple[int, int]:
    """The least and the most that can be paid at a time, in nano-units."""
    usual = (5, 10_000) if decimals(currency) else (500, 1_500_000)
    least, most = _LIMITS.get(currency, usual)
    return least * NANO, most * NANO


def can_be_paid(nano: int, currency: str) -> bool:
    """Whether it is within the limits and no finer than what people pay."""
    least, most = limits(currency)
    return least <= nano <= most and not minor(nano, currency)[1]
