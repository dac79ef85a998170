"""What the usage pages, the export and the REST API ask of usage rows.

A period is whole days in UTC. All counts are requests and tokens as integers; nothing is sampled.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from uuid import UUID

from django.db.models import Count, Q, QuerySet, Sum
from django.db.models.functions import TruncDay

from accounts.models import Organization
from billing.models import UsageEvent
from portal.lib.ids import uuid7_floor

TOKENS = ("prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens")
FAILED = Q(status__gte=400)


@dataclass(frozen=True)
class Period:
    """From the first day's midnight to the last day's end, UTC."""

    first: date
    last: date

    @classmethod
    def of_days(cls, days: int, today: date) -> "Period":
        """The `days` days that end with today."""
        return cls(today - timedelta(days=days - 1), today)

    @property
    def days(self) -> list[date]:
        return [self.first + timedelta(n) for n in range((self.last - self.first).days + 1)]

    @property
    def start(self) -> datetime:
        return datetime.combine(self.first, time(), UTC)

    @property
    def end(self) -> datetime:
        return datetime.combine(self.last + timedelta(days=1), time(), UTC)


def within(organization: Organization, period: Period) -> QuerySet[UsageEvent]:
    """The organization's rows of the period. The bound by id is what prunes partitions."""
    return UsageEvent.objects.for_organization(organization).filter(
        request_id__gte=uuid7_floor(period.start), request_id__lt=uuid7_floor(period.end)
    )


def totals(rows: QuerySet[UsageEvent]) -> dict[str, int]:
    """Requests, failed requests and tokens of these rows."""
    sums: dict[str, Any] = {name: Sum(name, default=0) for name in TOKENS}
    found = rows.aggregate(
        requests=Count("request_id"), failed=Count("request_id", filter=FAILED), **sums
    )
    return {name: int(value) for name, value in found.items()}


def by_model(rows: QuerySet[UsageEvent]) -> list[dict[str, Any]]:
    """Totals of each model, the most used first."""
    return _grouped(rows, "model")


def by_key(rows: QuerySet[UsageEvent]) -> list[dict[str, Any]]:
    """Totals of each key (by id), the most used first."""
    return _grouped(rows, "key_id")


def _grouped(rows: QuerySet[UsageEvent], name: str) -> list[dict[str, Any]]:
    sums: dict[str, Any] = {token: Sum(token) for token in TOKENS}
    return list(
        rows.order_by()
        .values(name)
        .annotate(requests=Count("request_id"), failed=Count("request_id", filter=FAILED), **sums)
        .order_by("-completion_tokens", "-prompt_tokens", name)
    )


def by_day(rows: QuerySet[UsageEvent], period: Period) -> dict[date, dict[str, int]]:
    """Input and output tokens of each model on each day of the period, empty days included."""
    found = (
        rows.order_by()
        .annotate(day=TruncDay("admitted_at", tzinfo=UTC))
        .values("day", "model")
        .annotate(tokens=Sum("prompt_tokens") + Sum("completion_tokens"))
    )
    days: dict[date, dict[str, int]] = {day: {} for day in period.days}
    for entry in found:
        # A request admitted at a clock that was set back may carry a day outside its id's period.
        days.setdefault(entry["day"].date(), {})[entry["model"]] = int(entry["tokens"])
    return days


@dataclass(frozen=True)
class Bar:
    """One day as drawn; each part is (colour number, y, height, model, tokens)."""

    day: date
    x: int
    total: int
    parts: list[tuple[int, float, float, str, int]]


SHOWN_MODELS = 4  # each has a colour; the rest share the fifth


def bars(
    days: dict[date, dict[str, int]], models: Iterable[str], height: int, step: int
) -> list[Bar]:
    """Lay out a stacked bar for each day, the tallest as high as the drawing."""
    order = {model: min(number, SHOWN_MODELS) for number, model in enumerate(models)}
    tallest = max((sum(parts.values()) for parts in days.values()), default=0) or 1
    drawn = []
    for number, (day, tokens) in enumerate(sorted(days.items())):
        y = float(height)
        parts = []
        for model in sorted(tokens, key=lambda name: order.get(name, SHOWN_MODELS)):
            part = tokens[model] * height / tallest
            y -= part
            parts.append(
                (
                    order.get(model, SHOWN_MODELS) + 1,
                    round(y, 2),
                    round(part, 2),
                    model,
                    tokens[model],
                )
            )
        drawn.append(Bar(day, number * step, sum(tokens.values()), parts))
    return drawn


def key_names(organization: Organization, ids: Iterable[UUID]) -> dict[UUID, str]:
    """What people call these keys; keys that are no more are missing."""
    known: dict[UUID, str] = defaultdict(str)
    known.update(organization.api_keys.filter(id__in=set(ids)).values_list("id", "name"))
    return dict(known)
