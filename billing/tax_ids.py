"""Tax ids: which kinds there are, and whether one is well formed. PURE.

Kinds are named as Stripe names them: https://docs.stripe.com/billing/customer/tax-ids
"""

import re
from collections.abc import Callable

# After the prefix of the country, without spaces: https://ec.europa.eu/taxation_customs/vies/
_EU_VAT = {
    "AT": r"U\d{8}",
    "BE": r"[01]\d{9}",
    "BG": r"\d{9,10}",
    "CY": r"\d{8}[A-Z]",
    "CZ": r"\d{8,10}",
    "DE": r"\d{9}",
    "DK": r"\d{8}",
    "EE": r"\d{9}",
    "EL": r"\d{9}",
    "ES": r"[A-Z0-9]\d{7}[A-Z0-9]",
    "FI": r"\d{8}",
    "FR": r"[A-HJ-NP-Z0-9]{2}\d{9}",
    "HR": r"\d{11}",
    "HU": r"\d{8}",
    "IE": r"(\d[A-Z0-9+*]\d{5}[A-Z]|\d{7}[A-W][A-I])",
    "IT": r"\d{11}",
    "LT": r"(\d{9}|\d{12})",
    "LU": r"\d{8}",
    "LV": r"\d{11}",
    "MT": r"\d{8}",
    "NL": r"\d{9}B\d{2}",
    "PL": r"\d{10}",
    "PT": r"\d{9}",
    "RO": r"\d{2,10}",
    "SE": r"\d{12}",
    "SI": r"\d{8}",
    "SK": r"\d{10}",
    "XI": r"(\d{9}|\d{12}|GD\d{3}|HA\d{3})",
}
_UBN_WEIGHTS = (1, 2, 1, 2, 1, 2, 4, 1)


def plain(text: str) -> str:
    """Without what people put between the digits."""
    return re.sub(r"[\s.\-]", "", text).upper()


def is_ubn(text: str) -> bool:
    """A Taiwanese unified business number: eight digits, of which the sum of the digits of their
    weighted products is divisible by 5 (by 10 until April 2023, which such numbers keep). A 7 in
    the seventh place makes 28, of which either digit of 10 may be taken."""
    if not re.fullmatch(r"[0-9]{8}", text):
        return False
    products = [int(digit) * weight for digit, weight in zip(text, _UBN_WEIGHTS, strict=True)]
    total = sum(product // 10 + product % 10 for product in products)
    return total % 5 == 0 or (text[6] == "7" and (total + 1) % 5 == 0)


def is_eu_vat(text: str) -> bool:
    """By its format alone; only the member state knows whether it is given out."""
    form = _EU_VAT.get(text[:2])
    return form is not None and re.fullmatch(form, text[2:], re.ASCII) is not None


CHECKS: dict[str, Callable[[str], bool]] = {"tw_vat": is_ubn, "eu_vat": is_eu_vat}
