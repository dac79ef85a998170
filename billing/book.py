"""An organization's side of the books, as its own people read it."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from django.db.models import Min, Q, QuerySet, Sum
from django.utils import timezone

from accounts.models import Organization
from billing import wallet
from billing.ledger import Kind
from billing.models import Entry, Grant, LedgerAccount, LedgerTransaction
from billing.money import unit
from billing.wallet import Funds

SPENDING = (Kind.USAGE, Kind.GPU, Kind.STORAGE)
RATE_OVER = timedelta(days=7)
SHORTEST = timedelta(days=1)  # what a rate is worked out from; less says nothing of a day
LONGEST_RUNWAY = 999  # days; what lies beyond is as good as for ever

EXPORTED = (
    "transaction",
    "time",
    "kind",
    "description",
    "account",
    "account_reference",
    "currency",
    "amount",
)


@dataclass(frozen=True)
class Line:
    """A transaction, with its entries on the organization's own accounts."""

    transaction: LedgerTransaction
    entries: list[Entry]

    @property
    def nano(self) -> int:
        """By how much it has changed what the organization has, less what it owes."""
        return sum(entry.nano for entry in self.entries)

    @property
    def is_spending(self) -> bool:
        return self.transaction.kind in SPENDING


def lines(organization: Organization, *, before: UUID | None = None, most: int) -> list[Line]:
    """The newest first; of those that are older than `before`."""
    mine = LedgerTransaction.objects.for_organization(organization).order_by("-id")
    shown = list(mine.filter(id__lt=before)[:most] if before else mine[:most])
    return _with_entries(organization, shown)


def line(organization: Organization, transaction: LedgerTransaction) -> Line:
    return _with_entries(organization, [transaction])[0]


def _with_entries(organization: Organization, of: list[LedgerTransaction]) -> list[Line]:
    found: dict[UUID, list[Entry]] = {each.id: [] for each in of}
    for entry in entries(organization).filter(transaction__in=of).order_by("id"):
        found[entry.transaction_id].append(entry)
    return [Line(each, found[each.id]) for each in of]


def entries(organization: Organization) -> QuerySet[Entry]:
    """All on its own accounts, with these."""
    mine = Entry.objects.filter(account__organization=organization)
    return mine.select_related("account", "account__grant")


def export(organization: Organization) -> Iterator[tuple[Any, ...]]:
    """Every entry on its accounts in the order of EXPORTED, the newest first. Amounts are in units
    of the currency, with every digit."""
    rows = entries(organization).select_related("transaction")
    for entry in rows.order_by("-transaction_id", "id").iterator(chunk_size=2000):
        what, where = entry.transaction, entry.account
        yield (
            what.id,
            what.created_at,
            what.kind,
            what.description,
            where.kind,
            where.reference,
            what.currency,
            unit(entry.nano),
        )


def grants(organization: Organization) -> QuerySet[Grant]:
    """Those with something left, in the order in which they are used; `account.balance` has how
    much that is."""
    left = Q(expired_at=None, account__balance__nano__gt=0)
    unexpired = Q(expires_at=None) | Q(expires_at__gt=timezone.now())
    mine = Grant.objects.for_organization(organization).filter(left & unexpired)
    return mine.select_related("account__balance").order_by("expires_at", "id")  # null: last


def spent(
    organization: Organization, currency: str, since: datetime, until: datetime | None = None
) -> int:
    """Nano-units charged from then on, or until then, corrections aside."""
    return _charged(organization, currency, since, until).aggregate(all=Sum("nano"))["all"] or 0


def _charged(
    organization: Organization, currency: str, since: datetime, until: datetime | None = None
) -> QuerySet[Entry]:
    charged = Entry.objects.filter(
        transaction__organization=organization,
        transaction__kind__in=SPENDING,
        transaction__created_at__gte=since,
        account__kind=LedgerAccount.Kind.REVENUE,
        account__currency=currency,
    )
    return charged.filter(transaction__created_at__lt=until) if until else charged


def runway(organization: Organization, funds: Funds, now: datetime | None = None) -> float | None:
    """For how many days the credit lasts if charges go on as in the last seven days, or since the
    first of them; None where there were none. At most LONGEST_RUNWAY."""
    now = now or timezone.now()
    charged = _charged(organization, funds.currency, now - RATE_OVER)
    sums = charged.aggregate(all=Sum("nano"), first=Min("transaction__created_at"))
    if not sums["all"]:
        return None
    over = max(SHORTEST, now - sums["first"])
    days = funds.available * (over / timedelta(days=1)) / sums["all"]
    return min(float(LONGEST_RUNWAY), max(0.0, days))


def month_of(organization: Organization, now: datetime | None = None) -> datetime:
    """When this month began, in the organization's time zone."""
    zone = ZoneInfo(wallet.profile_of(organization).time_zone)
    here = (now or timezone.now()).astimezone(zone)
    return here.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
