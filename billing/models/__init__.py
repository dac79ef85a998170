"""What it costs: so far, the facts of consumption."""

from billing.models.usage import UsageEvent

__all__ = ["UsageEvent"]
