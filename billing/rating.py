"""What each request of a batch costs: its price version, its organization's terms, what is free.

Versions never change, so each is read once per process. What is free in a month is counted in
`Allowance`, whose rows are locked until the batch is committed: nobody has the same token free
twice, and a replay takes nothing.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import lru_cache
from typing import Any, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

from django.db import DataError, connection

from billing import pricing
from billing.models import BillingProfile, PriceVersion, Terms
from billing.models.price import PER_REQUEST
from billing.pricing import Free
from billing.usage_record import Admit, Final

NO_PRICE = bytes(16)  # of what the organization has from elsewhere, on its own account
QUARTER = 15 * 60 * 1_000_000  # microseconds of a quarter of an hour
MOST_VERSIONS = 10_000  # that are kept in memory


class Cost(NamedTuple):
    nano: int
    currency: str  # empty: it has no price


@dataclass(frozen=True, slots=True)
class VersionRates:
    """Of a price version: nano-units for a million tokens of each kind, and for a request."""

    currency: str
    prompt: int = 0
    cached: int = 0
    completion: int = 0
    reasoning: int = 0
    request: int = 0


def rate(finished: Sequence[tuple[Admit, Final]]) -> list[Cost]:
    """What each costs, and take of what is free for those that are new. Within a transaction.

    Raises DataError for a price version that is not there.
    """
    agreed = terms_of({admit.organization_id for admit, _ in finished})
    free = _Free(finished, agreed)
    costs = []
    for admit, final in finished:
        if admit.price_version == NO_PRICE:
            costs.append(Cost(0, ""))
            continue
        rates = rates_of(admit.price_version)
        if not agreed:
            nano = pricing.cost(final.usage, rates)
            costs.append(Cost(_within(admit, nano), rates.currency))
            continue
        terms = terms_at(agreed, admit.organization_id, admit.admitted_at_us)
        left = free.left(admit, terms)
        nano, taken = pricing.charge(final.usage, rates, terms.discount if terms else 0, left)
        free.take(admit, taken)
        costs.append(Cost(_within(admit, nano), rates.currency))
    free.save()
    return costs


def _within(admit: Admit, nano: int) -> int:
    """Nobody pays more than what was set aside for the request, whatever an engine counts."""
    return min(nano, admit.held) if admit.held else nano


@lru_cache(maxsize=MOST_VERSIONS)
def rates_of(version_id: bytes) -> VersionRates:
    """The rates of a price version. Raises DataError where there is none."""
    id_ = UUID(bytes=version_id)
    version = PriceVersion.objects.select_related("book").filter(id=id_).first()
    if version is None:
        raise DataError(f"there is no price version {id_}")
    rates = {meter: nano for meter, nano in version.nano.items() if meter in PER_REQUEST}
    return VersionRates(version.book.currency, **rates)


def terms_of(organizations: Iterable[bytes]) -> dict[bytes, list[Terms]]:
    """Of those that have any, the newest first."""
    ids = [UUID(bytes=id_) for id_ in organizations]
    found: dict[bytes, list[Terms]] = {}
    for terms in Terms.objects.filter(organization_id__in=ids):
        found.setdefault(terms.organization_id.bytes, []).append(terms)
    return found


def terms_at(
    agreed: Mapping[bytes, Sequence[Terms]], organization_id: bytes, at_us: int
) -> Terms | None:
    """What held at that moment, in microseconds since 1970-01-01 UTC."""
    theirs = agreed.get(organization_id, ())
    if not theirs:
        return None
    at = datetime.fromtimestamp(at_us / 1_000_000, UTC)
    return next((terms for terms in theirs if terms.effective_at <= at), None)


def month_of(at_us: int, zone: ZoneInfo) -> date:
    """The first day of the month in that time zone."""
    return _month_of_quarter(at_us // QUARTER, zone)


@lru_cache(maxsize=1024)
def _month_of_quarter(quarter: int, zone: ZoneInfo) -> date:
    # Everywhere on Earth months begin at a quarter of an hour of UTC.
    return datetime.fromtimestamp(quarter * QUARTER // 1_000_000, zone).date().replace(day=1)


class _Free:
    """What is free for the new ones among these requests, and what of it they take."""

    def __init__(
        self, finished: Sequence[tuple[Admit, Final]], agreed: Mapping[bytes, Sequence[Terms]]
    ) -> None:
        generous = {
            organization_id
            for organization_id, theirs in agreed.items()
            if any(terms.free_tokens or terms.free_nano for terms in theirs)
        }
        self._used: dict[tuple[bytes, date], list[int]] = {}
        self._taken: dict[tuple[bytes, date], list[int]] = {}
        self._zones: dict[bytes, ZoneInfo] = {}
        self._old: set[bytes] = set()
        if not generous:
            return
        self._zones = time_zones(generous)
        requests = [admit for admit, _ in finished if admit.organization_id in generous]
        self._used = locked({self._month(admit) for admit in requests})
        # Whoever enters a request of theirs needs the same lock, so what is old now stays so.
        self._old = known({admit.request_id for admit in requests})

    def left(self, admit: Admit, terms: Terms | None) -> Free:
        if terms is None or admit.organization_id not in self._zones:
            return pricing.NOTHING
        if admit.request_id in self._old:
            return pricing.NOTHING
        return what_is_left(terms, self._used[self._month(admit)])

    def take(self, admit: Admit, taken: Free) -> None:
        if admit.organization_id not in self._zones:
            return
        self._old.add(admit.request_id)  # should the batch have it again
        if taken != pricing.NOTHING:
            month = self._month(admit)
            for sums in (self._used[month], self._taken.setdefault(month, [0, 0])):
                sums[0] += taken.tokens
                sums[1] += taken.nano

    def save(self) -> None:
        add(self._taken)

    def _month(self, admit: Admit) -> tuple[bytes, date]:
        zone = self._zones[admit.organization_id]
        return admit.organization_id, month_of(admit.admitted_at_us, zone)


def known(requests: set[bytes]) -> set[bytes]:
    """Those of them that have a row."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT request_id FROM billing_usage WHERE request_id = ANY(%s::uuid[])",
            [[id_.hex() for id_ in requests]],
        )
        return {row[0].bytes for row in cursor}


def what_is_left(terms: Terms, used: Sequence[int]) -> Free:
    """Of what is free in a month of which so many tokens and nano-units are used."""
    return Free(max(0, terms.free_tokens - used[0]), max(0, terms.free_nano - used[1]))


def time_zones(organizations: Iterable[bytes]) -> dict[bytes, ZoneInfo]:
    """Whose months are counted in which time zone."""
    ids = {id_: UUID(bytes=id_) for id_ in organizations}
    profiles = BillingProfile.objects.filter(organization_id__in=ids.values())
    said = dict(profiles.values_list("organization_id", "time_zone"))
    return {id_: ZoneInfo(said.get(uuid, "UTC")) for id_, uuid in ids.items()}


def locked(months: set[tuple[bytes, date]]) -> dict[tuple[bytes, date], list[int]]:
    """Tokens and nano-units used of what is free in each, which nobody else changes until the end
    of the transaction."""
    order = sorted(months)
    parameters: list[Any] = [
        [UUID(bytes=id_) for id_, _ in order],
        [month for _, month in order],
    ]
    with connection.cursor() as cursor:
        # Rows are made and locked in one order, so that no two batches wait for each other.
        cursor.execute(
            "INSERT INTO billing_allowance (organization_id, month, tokens, nano) "
            "SELECT id, month, 0, 0 FROM unnest(%s::uuid[], %s::date[]) AS wanted (id, month) "
            "ON CONFLICT DO NOTHING",
            parameters,
        )
        cursor.execute(
            "SELECT a.organization_id, a.month, a.tokens, a.nano FROM billing_allowance a "
            "JOIN unnest(%s::uuid[], %s::date[]) AS wanted (id, month) "
            "ON a.organization_id = wanted.id AND a.month = wanted.month "
            "ORDER BY a.organization_id, a.month FOR UPDATE OF a",
            parameters,
        )
        return {(id_.bytes, month): [tokens, nano] for id_, month, tokens, nano in cursor}


def add(taken: Mapping[tuple[bytes, date], Sequence[int]]) -> None:
    """Enter what was taken of what is free, in months that are locked."""
    if not taken:
        return
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE billing_allowance AS a "
            "SET tokens = a.tokens + t.tokens, nano = a.nano + t.nano "
            "FROM unnest(%s::uuid[], %s::date[], %s::bigint[], %s::bigint[]) "
            "AS t (id, month, tokens, nano) WHERE a.organization_id = t.id AND a.month = t.month",
            [
                [UUID(bytes=id_) for id_, _ in taken],
                [month for _, month in taken],
                [tokens for tokens, _ in taken.values()],
                [nano for _, nano in taken.values()],
            ],
        )
