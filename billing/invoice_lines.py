"""What stands on an invoice, and the requests beneath: both are the same rows, asked in two ways.

A row belongs to the period in which it was admitted, as long as it was booked before the period's
invoice was drawn. What is booked later (a gateway's journal that was found after a crash) stands on
the next invoice, on lines with a period of their own. Corrections belong to when they were made.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from django.db.models import Count, Max, Min, Q, QuerySet, Sum, TextField
from django.db.models.functions import Cast

from accounts.models import ApiKey, Membership, Organization
from billing import money
from billing.ledger import Kind
from billing.models import (
    GpuUsage,
    InvoiceLine,
    LedgerAccount,
    LedgerTransaction,
    PriceVersion,
    Rate,
    UsageEvent,
)
from billing.periods import Month
from portal.lib.ids import uuid7_floor

# A request's id carries the moment of its admission, by the clock that told the row the same.
SLACK = timedelta(days=1)
TOKENS = ("prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens")
GROUP = ("model", "key_id", "membership_id", "project_id")
PRICED = ("prompt", "cached", "completion", "reasoning", "request")


@dataclass(frozen=True)
class Window:
    """What one invoice may have on it."""

    organization: Organization
    currency: str
    zone: ZoneInfo
    start: datetime
    end: datetime
    after: datetime | None  # when the invoice before was drawn: older usage booked since is late
    until: datetime | None = None  # when this one was; None: everything that is booked

    def requests(self) -> QuerySet[UsageEvent]:
        """Those of the period itself."""
        return self._booked(self._requests(self.start, self.end), after=None)

    def late_requests(self) -> QuerySet[UsageEvent]:
        """Older ones, booked since the invoice before."""
        return self._booked(self._requests(None, self.start), after=self.after)

    def gpu_time(self) -> QuerySet[GpuUsage]:
        mine = self._gpu_time().filter(started_at__gte=self.start, started_at__lt=self.end)
        return self._booked(mine, after=None)

    def late_gpu_time(self) -> QuerySet[GpuUsage]:
        return self._booked(self._gpu_time().filter(started_at__lt=self.start), after=self.after)

    def others(self) -> QuerySet[LedgerTransaction]:
        """What was charged or given back without such rows, when that was booked."""
        usage = (Kind.USAGE, Kind.GPU, Kind.STORAGE)
        mine = LedgerTransaction.objects.for_organization(self.organization)
        found: QuerySet[LedgerTransaction] = mine.filter(
            Q(kind=Kind.STORAGE) | Q(kind=Kind.REVERSAL, reverses__kind__in=usage),
            currency=self.currency,
            created_at__lt=self.end,
        )
        if self.after is None:
            return found if self.until is None else found.filter(created_at__lte=self.until)
        return found.filter(Q(created_at__gte=self.start) | Q(created_at__gt=self.after))

    def _requests(self, start: datetime | None, end: datetime) -> QuerySet[UsageEvent]:
        rows: QuerySet[UsageEvent] = UsageEvent.objects.for_organization(self.organization)
        rows = rows.filter(currency=self.currency, admitted_at__lt=end)
        rows = rows.filter(request_id__lt=uuid7_floor(end + SLACK))
        if start is None:
            return rows
        return rows.filter(admitted_at__gte=start, request_id__gte=uuid7_floor(start - SLACK))

    def _gpu_time(self) -> QuerySet[GpuUsage]:
        found: QuerySet[GpuUsage] = GpuUsage.objects.for_organization(self.organization)
        return found.filter(currency=self.currency)

    def _booked(self, rows: QuerySet[Any], after: datetime | None) -> QuerySet[Any]:
        """Those that were booked in time. What was free is booked nowhere, and counts as such."""
        posted = LedgerTransaction.objects.for_organization(self.organization)
        posted = posted.filter(currency=self.currency, kind__in=(Kind.USAGE, Kind.GPU)).order_by()
        # An id was made before it was booked, and not long before.
        if after is not None:
            posted = posted.filter(created_at__gt=after, id__gte=uuid7_floor(after - SLACK))
            if self.until is not None:
                posted = posted.filter(created_at__lte=self.until)
            return rows.filter(transaction_id__in=posted.values("id"))
        if self.until is not None:
            since = uuid7_floor(self.until - SLACK)
            too_late = posted.filter(created_at__gt=self.until, id__gte=since)
            return rows.exclude(
                transaction_id__isnull=False, transaction_id__in=too_late.values("id")
            )
        return rows


def lines(window: Window) -> list[InvoiceLine]:
    """All of them in their order, not saved."""
    names = _Names(window.organization)
    found = [
        *_model_lines(window, names),
        *_gpu_lines(window),
        *_other_lines(window),
    ]
    found.sort(
        key=lambda line: (
            line.kind != line.Kind.MODEL,
            line.kind,
            line.period_start != window.start,
            line.period_start,
            line.what,
            line.project,
            line.member,
            line.key_name,
            str(line.key_id),
            str(line.membership_id),
            str(line.project_id),
        )
    )
    for position, line in enumerate(found, 1):
        line.position = position
        line.minor, _rest = money.minor(line.nano, window.currency)
    return found


def requests_of(window: Window, line: InvoiceLine) -> QuerySet[UsageEvent]:
    """The requests that this line of the window's invoice is the sum of, the newest first."""
    late = line.period_start < window.start
    rows = window.late_requests() if late else window.requests()
    if line.kind != line.Kind.MODEL:
        return rows.none()
    group = {name: getattr(line, name) for name in GROUP if name != "model"}
    return rows.filter(
        admitted_at__gte=line.period_start,
        admitted_at__lt=line.period_end,
        model=line.what,
        **group,
    )


def gpu_time_of(window: Window, line: InvoiceLine) -> QuerySet[GpuUsage]:
    """The stretches of serving that this line is the sum of, the newest first."""
    late = line.period_start < window.start
    rows = window.late_gpu_time() if late else window.gpu_time()
    if line.kind != line.Kind.GPU or line.instance_id is None:
        return rows.none()
    return rows.filter(
        gpu_type=line.what,
        instance_id=line.instance_id,
        started_at__gte=line.period_start,
        started_at__lt=line.period_end,
    ).order_by("-started_at", "-id")


def _model_lines(window: Window, names: "_Names") -> Iterator[InvoiceLine]:
    yield from _by_group(window.requests(), window.start, window.end, names)
    late = window.late_requests()
    for start, end in _months_of(late, "admitted_at", window):
        part = late.filter(admitted_at__gte=start, admitted_at__lt=end)
        yield from _by_group(part, start, end, names)


def _by_group(
    rows: QuerySet[UsageEvent], start: datetime, end: datetime, names: "_Names"
) -> Iterator[InvoiceLine]:
    sums: dict[str, Any] = {name: Sum(name) for name in TOKENS}
    groups = (
        rows.order_by()
        .values(*GROUP)
        .annotate(
            **sums,
            requests=Count("request_id"),
            nano=Sum("cost_nano"),
            first_price=Min(Cast("price_version_id", TextField())),
            last_price=Max(Cast("price_version_id", TextField())),
        )
    )
    found = list(groups)
    names.look_up(found)
    for group in found:
        tokens = {name: int(group[name]) for name in TOKENS}
        yield InvoiceLine(
            kind=InvoiceLine.Kind.MODEL,
            what=group["model"],
            period_start=start,
            period_end=end,
            **{name: group[name] for name in GROUP if name != "model"},
            key_name=names.key.get(group["key_id"], ""),
            member=names.member.get(group["membership_id"], ""),
            requests=group["requests"],
            **tokens,
            quantity=tokens["prompt_tokens"] + tokens["completion_tokens"],
            unit=InvoiceLine.Unit.TOKENS,
            unit_price=_price(group["first_price"], group["last_price"], PRICED),
            nano=int(group["nano"]),
        )


def _gpu_lines(window: Window) -> Iterator[InvoiceLine]:
    yield from _by_instance(window.gpu_time(), window.start, window.end)
    late = window.late_gpu_time()
    for start, end in _months_of(late, "started_at", window):
        yield from _by_instance(late.filter(started_at__gte=start, started_at__lt=end), start, end)


def _by_instance(rows: QuerySet[GpuUsage], start: datetime, end: datetime) -> Iterator[InvoiceLine]:
    groups = (
        rows.order_by()
        .values("gpu_type", "instance_id", "gpu_count")
        .annotate(
            nano=Sum("cost_nano"),
            time=Sum("seconds"),
            first_price=Min(Cast("price_version_id", TextField())),
            last_price=Max(Cast("price_version_id", TextField())),
        )
        .order_by("gpu_type", "instance_id", "gpu_count")
    )
    made: dict[tuple[str, UUID], InvoiceLine] = {}
    for group in groups:
        count = group["gpu_count"]
        meter = (Rate.Meter.GPU_SECOND if count else Rate.Meter.CPU_SECOND).value
        price = _price(group["first_price"], group["last_price"], (meter,))
        line = made.get((group["gpu_type"], group["instance_id"]))
        if line is None:
            unit = InvoiceLine.Unit.GPU_SECONDS if count else InvoiceLine.Unit.SECONDS
            line = made[group["gpu_type"], group["instance_id"]] = InvoiceLine(
                kind=InvoiceLine.Kind.GPU,
                what=group["gpu_type"],
                period_start=start,
                period_end=end,
                instance_id=group["instance_id"],
                unit=unit,
                unit_price=price,
                nano=0,
            )
        line.unit_price = price if price == line.unit_price else ""
        line.quantity += int(group["time"]) * (count or 1)
        line.nano += int(group["nano"])
    yield from made.values()


def _other_lines(window: Window) -> Iterator[InvoiceLine]:
    revenue = Q(entries__account__kind=LedgerAccount.Kind.REVENUE)
    posted = window.others().annotate(nano=Sum("entries__nano", filter=revenue)).order_by("id")
    for each in posted:
        if each.nano:
            yield InvoiceLine(
                kind=InvoiceLine.Kind.OTHER,
                what=each.description or str(each.get_kind_display()),
                period_start=window.start,
                period_end=window.end,
                transaction_id=each.id,
                nano=int(each.nano),
            )


def _months_of(
    rows: QuerySet[Any], moment: str, window: Window
) -> Iterator[tuple[datetime, datetime]]:
    """The months of these rows, all of them before the window, each as far as it is before it."""
    found = rows.order_by().aggregate(first=Min(moment), last=Max(moment))
    if found["first"] is None:
        return
    month = Month.at(found["first"], window.zone)
    while month.start(window.zone) <= found["last"]:
        yield month.start(window.zone), min(month.end(window.zone), window.start)
        month = month.following


def _price(first: str, last: str, meters: Iterable[str]) -> str:
    """The rates of the one version that held; empty where it was several."""
    version = PriceVersion.objects.filter(id=first).first() if first == last else None
    if version is None:
        return ""
    return " · ".join(plain(money.unit(version.nano.get(meter, 0))) for meter in meters)


def plain(amount: Decimal) -> str:
    """Without idle zeros: "2.5", "100"."""
    return f"{amount.normalize():f}"


class _Names:
    """What keys and members are called now."""

    def __init__(self, organization: Organization) -> None:
        self._organization = organization
        self.key: dict[UUID, str] = {}
        self.member: dict[UUID, str] = {}

    def look_up(self, groups: Iterable[dict[str, Any]]) -> None:
        found = list(groups)
        keys = ApiKey.objects.for_organization(self._organization)
        keys = keys.filter(id__in={group["key_id"] for group in found})
        self.key.update(keys.values_list("id", "name"))
        members = Membership.objects.for_organization(self._organization)
        members = members.filter(id__in={group["membership_id"] for group in found})
        self.member.update(members.values_list("id", "user__email"))
