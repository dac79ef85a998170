"""What a price would have done to the usage of the last 30 days, before it is entered."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db.models import Count, Q, Sum
from django.utils import timezone

from billing import pricing, rating
from billing.models import GpuUsage, PriceBook, PriceVersion, Rate, UsageEvent
from billing.models.price import PER_REQUEST
from billing.price_choice import choose
from billing.rating import VersionRates
from billing.usage_record import Usage
from inference.models import Instance, Replica, ServingInterval
from portal.lib.ids import uuid7_floor

DAYS = 30
M = Rate.Meter


@dataclass(frozen=True)
class Effect:
    """On what the version would be for. Nano-units; nothing is counted as free."""

    requests: int
    tokens: int
    requests_before: int  # as they were charged
    requests_after: int
    gpu_seconds: int
    time_before: int
    time_after: int

    @property
    def before(self) -> int:
        return self.requests_before + self.time_before

    @property
    def after(self) -> int:
        return self.requests_after + self.time_after


@dataclass(frozen=True)
class Wanted:
    """A version that is not there yet."""

    book: PriceBook
    rates: Mapping[str, int]
    model: str
    engine: str
    gpu_type: str
    ends: bool
    effective_at: datetime
    id: UUID = UUID(int=2**128 - 1)  # the newest of all

    @property
    def own(self) -> bool:
        return self.book.organization_id is not None

    @property
    def nano(self) -> Mapping[str, int]:
        return self.rates


Version = PriceVersion | Wanted


def effect(
    book: PriceBook,
    rates: Mapping[str, int],
    *,
    model: str = "",
    engine: str = "",
    gpu_type: str = "",
    ends: bool = False,
) -> Effect:
    """What would be charged now for the same usage, and what was. It is charged by the discounts of
    today."""
    now = timezone.now()
    wanted = Wanted(book, rates, model, engine, gpu_type, ends, now)
    there = PriceVersion.objects.filter(book__currency=book.currency)
    versions = list(there.select_related("book").prefetch_related("rates"))
    return _effect(_Prices(versions, wanted, now), now - timedelta(days=DAYS), now)


class _Prices:
    """What holds now, and what would hold with the wanted one."""

    def __init__(self, versions: list[PriceVersion], wanted: Wanted, now: datetime) -> None:
        self._versions, self._wanted, self._now = versions, wanted, now
        organization = wanted.book.organization_id
        self.concerned = Q() if organization is None else Q(organization_id=organization)
        self.currency = wanted.book.currency
        self._discounts: dict[UUID, int] = {}

    def would(
        self, organization_id: UUID, what: Instance, gpu_type: str, meters: Iterable[str]
    ) -> Version | None:
        """The version that would hold, where the wanted one makes a difference."""
        asked = {"model": what.model_id, "engine": what.engine, "gpu_type": gpu_type}
        said = set(meters)
        there: list[Version] = [
            version
            for version in self._versions
            if version.book.organization_id in {None, organization_id}
            and (version.ends or said & version.nano.keys())
        ]
        with_it = there
        if self._wanted.ends or said & self._wanted.nano.keys():
            with_it = [*there, self._wanted]
        found = choose(with_it, self._now, **asked)
        return None if found is choose(there, self._now, **asked) else found

    def discount(self, organization_id: UUID) -> int:
        if organization_id not in self._discounts:
            id_ = organization_id.bytes
            at = int(self._now.timestamp() * 1_000_000)
            terms = rating.terms_at(rating.terms_of([id_]), id_, at)
            self._discounts[organization_id] = terms.discount if terms else 0
        return self._discounts[organization_id]


def _effect(prices: _Prices, since: datetime, now: datetime) -> Effect:
    instances = {i.id: i for i in Instance.objects.only("model_id", "engine")}
    gpu_types = dict(Replica.objects.values_list("id", "gpu_type"))
    requests = tokens = requests_before = requests_after = 0
    for row in _used(prices, since):
        instance = instances.get(row["instance_id"])
        if instance is None:  # a provider's
            continue
        owner = row["organization_id"]
        version = prices.would(owner, instance, gpu_types.get(row["replica_id"], ""), PER_REQUEST)
        if version is None:
            continue
        requests += row["requests"]
        tokens += row["prompt_tokens"] + row["completion_tokens"]
        requests_before += row["cost"]
        requests_after += _cost(row, version, prices.discount(owner))
    seconds, time_before, time_after = _time(prices, instances, since, now)
    return Effect(
        requests, tokens, requests_before, requests_after, seconds, time_before, time_after
    )


TOKENS = ("prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens")


def _used(prices: _Prices, since: datetime) -> Iterable[dict[str, Any]]:
    """Sums by organization, instance and replica."""
    rows = UsageEvent.objects.filter(
        prices.concerned, request_id__gte=uuid7_floor(since), currency=prices.currency
    )
    counted = Q(prompt_tokens__gt=0) | Q(completion_tokens__gt=0)
    sums: dict[str, Any] = {  # the filter first: later ones take the columns' names
        "counted": Count("request_id", filter=counted),
        "requests": Count("request_id"),
        "cost": Sum("cost_nano"),
        **{name: Sum(name) for name in TOKENS},
    }
    grouped = rows.order_by().values("organization_id", "instance_id", "replica_id")
    return [dict(row) for row in grouped.annotate(**sums)]


def _cost(row: Mapping[str, Any], version: Version, discount: int) -> int:
    """Of all these requests together: rounded once, so a little beside the sum of each."""
    said = {meter: nano for meter, nano in version.nano.items() if meter in PER_REQUEST}
    fee = said.pop(M.REQUEST.value, 0) * row["counted"]
    usage = Usage(
        row["prompt_tokens"],
        row["completion_tokens"],
        row["cached_tokens"],
        row["reasoning_tokens"],
    )
    return pricing.cost(usage, VersionRates("", **said, request=fee), discount)


def _time(
    prices: _Prices, instances: Mapping[UUID, Instance], since: datetime, now: datetime
) -> tuple[int, int, int]:
    """GPU seconds, what was charged for them, and what would be."""
    recent = Q(ended_at=None) | Q(ended_at__gt=since)
    seconds = before = after = 0
    for served in ServingInterval.objects.filter(prices.concerned, recent):
        meter = (M.GPU_SECOND if served.gpu_count else M.CPU_SECOND).value
        owner, instance = served.organization_id, instances[served.instance_id]
        version = prices.would(owner, instance, served.gpu_type, [meter])
        if version is None:
            continue
        start, end = max(served.started_at, since), served.ended_at or now
        lasted, count = int((end - start).total_seconds()), served.gpu_count or 1
        seconds += lasted * served.gpu_count
        rate = version.nano.get(meter, 0)
        after += pricing.time_charge(lasted, count, rate, prices.discount(owner))[0]
        charged = GpuUsage.objects.filter(interval_id=served.id, started_at__gte=since)
        before += charged.aggregate(sum=Sum("cost_nano", default=0))["sum"]
    return seconds, before, after
