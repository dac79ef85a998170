"""GPU time: what seconds of serving cost, and how they are charged.

Which seconds are to be charged, and that each is only once, is for `inference.gpu_time` to say: it
knows the serving intervals. Here a stretch of one is cut where its price, its terms or its month
changes, and each part is charged under a key of its own: `gpu:<interval>:<from second>`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from math import ceil
from uuid import UUID
from zoneinfo import ZoneInfo

from django.db import transaction
from django.db.models import Q

from accounts.models import Organization
from billing import pricing, rating, wallet
from billing.ledger import Kind
from billing.models import GpuUsage, LedgerTransaction, PriceVersion, Rate, Terms
from billing.price_choice import choose


@dataclass(frozen=True)
class Stretch:
    """Whole seconds of one serving interval, from `from_second` to before `to_second`."""

    interval_id: UUID
    organization: Organization
    instance_id: UUID
    instance_name: str
    model_id: str
    engine: str
    gpu_type: str
    gpu_count: int  # 0: it computes on processors alone
    began: datetime  # the interval
    from_second: int
    to_second: int

    def at(self, second: int) -> datetime:
        return self.began + timedelta(seconds=second)


@transaction.atomic
def charge(stretch: Stretch) -> int:
    """Charge it; how many nano-units. Raises IntegrityError where a part was charged already."""
    currency = wallet.profile_of(stretch.organization).currency
    versions = _versions(stretch, currency)
    agreed = rating.terms_of([stretch.organization.id.bytes]).get(stretch.organization.id.bytes, [])
    zone = rating.time_zones([stretch.organization.id.bytes])[stretch.organization.id.bytes]
    changes = [version.effective_at for version in versions] + [t.effective_at for t in agreed]
    total = 0
    for first, last in _cut(stretch, changes, zone):
        at = stretch.at(first)
        version = choose(
            versions, at, model=stretch.model_id, engine=stretch.engine, gpu_type=stretch.gpu_type
        )
        rate = version.nano[_meter(stretch)] if version else 0
        if version is not None and rate:
            terms = next((each for each in agreed if each.effective_at <= at), None)
            total += _charge_part(stretch, first, last, version, rate, terms, zone)
    return total


def _versions(stretch: Stretch, currency: str) -> list[PriceVersion]:
    """Those that may be for it: the house's and its organization's own, in its currency."""
    books = Q(book__organization=None) | Q(book__organization=stretch.organization)
    priced = Q(ends=True) | Q(rates__meter=_meter(stretch))
    found = PriceVersion.objects.filter(books, priced, book__currency=currency).distinct()
    return list(found.select_related("book").prefetch_related("rates"))


def _meter(stretch: Stretch) -> str:
    return (Rate.Meter.GPU_SECOND if stretch.gpu_count else Rate.Meter.CPU_SECOND).value


def _cut(
    stretch: Stretch, changes: Sequence[datetime], zone: ZoneInfo
) -> Iterator[tuple[int, int]]:
    """Its parts in seconds, within each of which price, terms and month are the same. A second
    belongs to what holds when it begins."""
    borders = {stretch.from_second, stretch.to_second}
    for moment in [*changes, *_months(stretch, zone)]:
        second = ceil((moment - stretch.began).total_seconds())
        if stretch.from_second < second < stretch.to_second:
            borders.add(second)
    order = sorted(borders)
    yield from zip(order, order[1:], strict=False)


def _months(stretch: Stretch, zone: ZoneInfo) -> Iterator[datetime]:
    """The beginnings of the months that begin within it."""
    first = stretch.at(stretch.from_second).astimezone(zone)
    while True:
        following = (first.replace(day=1) + timedelta(days=32)).replace(day=1)
        first = datetime(following.year, following.month, 1, tzinfo=zone)
        if first >= stretch.at(stretch.to_second):
            return
        yield first.astimezone(UTC)


def _charge_part(
    stretch: Stretch,
    first: int,
    last: int,
    version: PriceVersion,
    rate: int,
    terms: Terms | None,
    zone: ZoneInfo,
) -> int:
    organization, at = stretch.organization, stretch.at(first)
    seconds, count = last - first, stretch.gpu_count or 1
    month = organization.id.bytes, rating.month_of(int(at.timestamp() * 1_000_000), zone)
    free = pricing.NOTHING
    if terms is not None and terms.free_nano:
        free = rating.what_is_left(terms, rating.locked({month})[month])
    discount = terms.discount if terms else 0
    nano, taken = pricing.time_charge(seconds, count, rate, discount, free)
    if taken.nano:
        rating.add({month: taken})
    posted: LedgerTransaction | None = None
    if nano:
        gpus = f" × {count} {stretch.gpu_type}" if stretch.gpu_count else ""
        posted = wallet.charge(
            organization,
            nano,
            Kind.GPU,
            f"gpu:{stretch.interval_id}:{first}",
            description=f"{stretch.instance_name}: {seconds} s{gpus}"[:200],
            refers_to={
                "interval": str(stretch.interval_id),
                "instance": str(stretch.instance_id),
                "from_second": first,
                "seconds": seconds,
            },
        )
    GpuUsage.objects.create(
        organization=organization,
        interval_id=stretch.interval_id,
        from_second=first,
        seconds=seconds,
        started_at=at,
        instance_id=stretch.instance_id,
        model_id=stretch.model_id,
        gpu_type=stretch.gpu_type,
        gpu_count=stretch.gpu_count,
        price_version_id=version.id,
        cost_nano=nano,
        currency=version.book.currency,
        transaction_id=posted.id if posted else None,
    )
    return nano
