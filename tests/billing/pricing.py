"""Prices for tests."""

from accounts.models import Organization
from billing.models import PriceBook, PriceVersion
from billing.usage_record import Admit, Final
from tests.billing.records import admit, final

# Nano-units for a million tokens: a token of input costs 1,000, one of output 4,000.
TOKENS = {
    "prompt": 1_000_000_000,
    "cached": 500_000_000,
    "completion": 4_000_000_000,
    "reasoning": 4_000_000_000,
    "request": 100,
}


def a_price(currency: str = "USD", **changes: int) -> PriceVersion:
    """The house's, for everything."""
    return PriceBook.of_house(currency).set_rates(TOKENS | changes)


def used(
    organization: Organization, version: PriceVersion, prompt: int = 7, completion: int = 9
) -> tuple[Admit, Final]:
    """A finished request at this price."""
    request = admit(organization)
    request.price_version = version.id.bytes
    return request, final(request, prompt=prompt, completion=completion)
