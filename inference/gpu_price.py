"""What an hour of a GPU costs here: asked in one place by pages and REST.

It is the rate of the organization's price list for GPUs of that type; where the list has none, the
operator's own GPU_HOUR_COST, so that a house that does not bill GPU time can still be compared.
"""

from datetime import datetime
from decimal import Decimal
from typing import Self

import msgspec
from django.conf import settings
from django.utils import timezone

from accounts.models import Organization
from billing import price_choice, price_list, wallet
from billing.models import PriceVersion, Rate
from billing.money import unit


class GpuHour(msgspec.Struct, frozen=True):
    amount: Decimal
    currency: str  # ISO 4217


class GpuPrices(msgspec.Struct, frozen=True):
    """One organization's, asked for once a page."""

    currency: str
    versions: list[PriceVersion]
    at: datetime

    @classmethod
    def of(cls, organization: Organization) -> Self:
        listed = price_list.for_meters(
            price_list.of_organization(organization), {Rate.Meter.GPU_SECOND.value}
        )
        return cls(wallet.currency_of(organization), listed, timezone.now())

    def hour(self, gpu_type: str, *, model: str = "", engine: str = "") -> GpuHour | None:
        """None where the house has set none: that is not the same as free."""
        version = price_choice.choose(
            self.versions, self.at, model=model, engine=engine, gpu_type=gpu_type
        )
        nano = version.nano.get(Rate.Meter.GPU_SECOND.value, 0) if version else 0
        amount = unit(nano) if nano else settings.ENV.gpu_hour_cost
        return GpuHour(amount, self.currency) if amount else None
