"""What it costs: prices, and the facts of consumption."""

from billing.models.limit_grant import LimitGrant
from billing.models.limit_slots import LimitSlots
from billing.models.price import PriceBook, PriceVersion, Rate
from billing.models.usage import UsageEvent

__all__ = ["LimitGrant", "LimitSlots", "PriceBook", "PriceVersion", "Rate", "UsageEvent"]
