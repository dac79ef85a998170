"""The way to the page on which credit is paid for, where this installation takes payments."""

from django.conf import settings
from django.urls import NoReverseMatch, reverse

from accounts.models import Organization
from billing.money import decimals

# Units of the currency: for a trial, a month of one person, a month of a team.
_PRESETS = {
    "TWD": (300, 1_500, 6_000),
    "KRW": (10_000, 50_000, 200_000),
    "CNY": (100, 500, 2_000),
}


def address(organization: Organization) -> str:
    """Its path; it takes the POST of an `amount` and leads to the payment. Empty: there is none."""
    if not getattr(settings.ENV, "stripe_secret_key", ""):
        return ""
    try:
        return reverse("top-up", args=[organization.slug])
    except NoReverseMatch:
        return ""


def presets(currency: str) -> tuple[int, ...]:
    """Amounts to choose from, in units of the currency."""
    return _PRESETS.get(currency, (10, 50, 200) if decimals(currency) else (1_000, 5_000, 20_000))
