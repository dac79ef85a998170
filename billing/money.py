"""Money. PURE: integers in nano-units (1e-9) of a currency; never a float.

Amounts become minor units (what is paid and printed) once, half to even; what that leaves over is
told, so that it can be booked. Decimals follow ISO 4217, save where nobody uses the ones it lists
(New Taiwan dollars), and Stripe counts some currencies in its own way.
"""

from decimal import Decimal

NANO = 10**9  # of them make one unit of a currency

# Digits after the point, where there are not two: https://docs.stripe.com/currencies#zero-decimal
_WITHOUT = frozenset(
    {
        *("BIF", "CLP", "DJF", "GNF", "JPY", "KMF", "KRW", "MGA", "PYG"),
        *("RWF", "TWD", "UGX", "VND", "VUV", "XAF", "XOF", "XPF"),
    }
)
_STRIPE_IN_HUNDREDTHS = frozenset({"TWD", "UGX"})  # by its API, in whole units all the same


def decimals(currency: str) -> int:
    """Digits after the point in amounts that people pay."""
    return 0 if currency in _WITHOUT else 2


def minor(nano: int, currency: str) -> tuple[int, int]:
    """The amount in minor units, half to even, and the nano-units that rounding took away (less
    than nothing where it added some): nano == minor in nano-units + rest."""
    unit = NANO // 10 ** decimals(currency)
    whole, rest = divmod(nano, unit)
    if 2 * rest > unit or (2 * rest == unit and whole % 2):
        whole += 1
    return whole, nano - whole * unit


def shown_minor(amount: int, currency: str) -> str:
    """An amount in minor units as it is printed, without the currency: "1,234.50"."""
    places = decimals(currency)
    return f"{Decimal(amount).scaleb(-places):,.{places}f}"


def nano_of_minor(amount: int, currency: str) -> int:
    """Nano-units of an amount in minor units."""
    return amount * (NANO // 10 ** decimals(currency))


def stripe_amount(nano: int, currency: str) -> int:
    """As Stripe's API wants it. Raises ValueError where the amount is finer than can be paid."""
    amount, rest = minor(nano, currency)
    if rest:
        raise ValueError(f"{nano} nano {currency} cannot be paid")
    return amount * 100 if currency in _STRIPE_IN_HUNDREDTHS else amount


def nano_of_stripe(amount: int, currency: str) -> int:
    """Nano-units of an amount as Stripe's API tells it."""
    hundredths = currency in _STRIPE_IN_HUNDREDTHS
    per = NANO // (100 if hundredths else 10 ** decimals(currency))
    return amount * per


def parse(text: str, currency: str) -> int:
    """Nano-units of what a person typed, as "12,480" or "7.60". Raises ValueError."""
    plain = text.strip().replace(",", "").replace("\N{NO-BREAK SPACE}", "")
    whole, _, part = plain.partition(".")
    if not whole.isascii() or not whole.isdigit() or len(whole) > 9:
        raise ValueError("not an amount")
    places = decimals(currency)
    if part and (not part.isascii() or not part.isdigit() or len(part) > places):
        raise ValueError("finer than this currency is paid in")
    return int(whole) * NANO + int(part.ljust(9, "0") or "0")


def shown(nano: int, currency: str) -> str:
    """As people read it, rounded to what is paid: "1,250.00 USD", "300 TWD"."""
    return _written(Decimal(minor(nano, currency)[0]).scaleb(-decimals(currency)), currency)


def exact(nano: int, currency: str) -> str:
    """As `shown`, with as many digits as it has: "0.0000035 USD"."""
    whole = Decimal(nano).scaleb(-9)
    short = whole.normalize()
    places = max(decimals(currency), -int(short.as_tuple().exponent))
    return _written(round(whole, places), currency)


def _written(amount: Decimal, currency: str) -> str:
    return f"{amount:,f}\N{NO-BREAK SPACE}{currency}"


def unit(nano: int) -> Decimal:
    """In units of the currency, exactly: for prices, which are finer than what is paid."""
    return Decimal(nano) / NANO
