"""What an hour of a GPU costs here: asked in one place by pages and REST.

It is the operator's GPU_HOUR_COST, in the currency of the organization's price book, until price
books have a rate for GPU seconds.
"""

from decimal import Decimal

import msgspec
from django.conf import settings

from accounts.models import Organization
from billing.models.price import PriceBook


class GpuHour(msgspec.Struct, frozen=True):
    amount: Decimal
    currency: str  # ISO 4217


def of_gpu_hour(organization: Organization) -> GpuHour | None:
    """None where the house has set none: that is not the same as free."""
    amount = settings.ENV.gpu_hour_cost
    return GpuHour(amount, PriceBook.of(organization).currency) if amount else None
