"""Invoices: what the ledger has charged for a month, in amounts that people pay.

Usage is charged as it comes, in nano-units. An invoice adds it up, rounds each line once, and posts
what that leaves over, and the tax, in one transaction of the ledger: then what the organization was
charged is the invoice's total, exactly. Whoever draws holds the organization's accounts, so what is
booked is either on this invoice or late for it.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from decimal import ROUND_HALF_EVEN, Decimal
from zoneinfo import ZoneInfo

from django.conf import settings
from django.db import transaction
from django.db.models import QuerySet, Sum
from django.utils import timezone
from django.utils.translation import gettext as _

from accounts.models import Organization, User
from billing import invoice_lines, ledger, money, wallet
from billing.invoice_lines import SLACK, Window
from billing.ledger import Kind
from billing.models import (
    BillingProfile,
    Invoice,
    InvoiceLine,
    InvoiceNumbers,
    LedgerAccount,
    LedgerTransaction,
)
from billing.periods import Month
from portal.lib.errors import Conflict
from portal.lib.ids import uuid7_floor

A = LedgerAccount.Kind
CHARGED = (Kind.USAGE, Kind.GPU, Kind.STORAGE)
# After the month's end: the longest request has ended by then, and its journal has been read.
SETTLING = timedelta(hours=2)
MOVED = timedelta(days=2)  # the most by which another time zone moves the beginning of a month


def draw(organization: Organization, month: Month) -> list[Invoice]:
    """The invoices of this month, one for each currency in which anything was charged; drawn now
    where they are not there yet. Raises Conflict where a later month's is there already, or the
    month is not over."""
    found = (_draw(organization, currency, month) for currency in currencies(organization))
    return [invoice for invoice in found if invoice is not None]


def draw_due(organization: Organization, now: datetime | None = None) -> list[Invoice]:
    """Draw what is due, from the month after the last invoice, or the first usage, until now."""
    now = now or timezone.now()
    made = []
    for currency in currencies(organization):
        for month in _months_due(organization, currency, now):
            invoice = _draw(organization, currency, month)
            if invoice is not None:
                made.append(invoice)
    return made


def currencies(organization: Organization) -> list[str]:
    """Those in which it was charged anything."""
    charged = LedgerTransaction.objects.for_organization(organization).filter(kind__in=CHARGED)
    return sorted(set(charged.order_by().values_list("currency", flat=True).distinct()))


def statements(organization: Organization, now: datetime | None = None) -> list[Invoice]:
    """What would stand on the invoices of the running month, with `.drawn` for their lines. Drafts
    that are stored nowhere; one in the organization's currency is always among them."""
    now = now or timezone.now()
    profile = wallet.profile_of(organization)
    wanted = {profile.currency, *currencies(organization)}
    made = []
    for currency in sorted(wanted, key=lambda code: (code != profile.currency, code)):
        zone = ZoneInfo(profile.time_zone)
        month = Month.at(now, zone)
        window = _window(organization, currency, zone, month)
        invoice = _begun(profile, window)
        lines = invoice_lines.lines(window)
        _add_up(invoice, lines)
        invoice.drawn = lines  # type: ignore[attr-defined]
        if lines or currency == profile.currency:
            made.append(invoice)
    return made


@transaction.atomic
def void(invoice: Invoice, by: User, reason: str) -> Invoice:
    """Take an invoice back; its month is drawn again when the next are due. Raises Conflict."""
    _held(invoice.organization)
    invoice = Invoice.objects.select_for_update(of=("self",)).get(id=invoice.id)
    if invoice.status != Invoice.Status.FINAL or invoice.is_credit_note:
        raise Conflict(_("Only an invoice that is final can become void."))
    newer = _standing(invoice.organization, invoice.currency).filter(
        period_start__gt=invoice.period_start
    )
    if newer.exists() or invoice.credit_notes.exists():
        raise Conflict(
            _("Later invoices or credit notes build on this one. Write a credit note instead.")
        )
    if invoice.transaction is not None:
        house = invoice.transaction.entries.filter(account__organization=None)
        wallet.settle(
            invoice.organization,
            {entry.account: -entry.nano for entry in house.select_related("account")},
            Kind.REVERSAL,
            f"void:{invoice.number}",
            description=reason[:200],
            refers_to={"invoice": invoice.number},
        )
    invoice.status, invoice.reason = Invoice.Status.VOID, reason[:200]
    invoice.decided_by, invoice.voided_at = by, timezone.now()
    invoice.save(update_fields=["status", "reason", "decided_by", "voided_at"])
    return invoice


@transaction.atomic
def credit(
    invoice: Invoice, by: User, amount: int, reason: str, line: InvoiceLine | None = None
) -> Invoice:
    """Give back part of an invoice, or of one of its lines: a credit note. `amount` is in minor
    units before tax, more than 0; its tax comes back with it. Raises Conflict."""
    profile = _held(invoice.organization)
    invoice = Invoice.objects.select_for_update(of=("self",)).get(id=invoice.id)
    if invoice.status != Invoice.Status.FINAL or invoice.is_credit_note:
        raise Conflict(_("Only an invoice that is final can be corrected."))
    given = invoice.credit_notes.aggregate(
        net=Sum("subtotal", default=0), tax=Sum("tax", default=0)
    )
    left = invoice.subtotal + given["net"]
    if not 0 < amount <= left:
        shown = f"{money.shown_minor(max(0, left), invoice.currency)} {invoice.currency}"
        raise Conflict(
            _("At most %(amount)s of this invoice can be given back.") % {"amount": shown}
        )
    tax_left = invoice.tax + given["tax"]
    tax = tax_left if amount == left else min(tax_left, tax_of(amount, invoice.tax_rate))
    note = Invoice(
        organization=invoice.organization,
        kind=Invoice.Kind.CREDIT_NOTE,
        corrects=invoice,
        nano=-money.nano_of_minor(amount, invoice.currency),
        subtotal=-amount,
        tax=-tax,
        total=-amount - tax,
        reason=reason[:200],
        decided_by=by,
        **{name: getattr(invoice, name) for name in _CARRIED_OVER},
    )
    given_back = InvoiceLine(
        position=1,
        kind=InvoiceLine.Kind.OTHER,
        what=f"{line.position}. {line.what}" if line else reason[:200],
        period_start=invoice.period_start,
        period_end=invoice.period_end,
        nano=note.nano,
        minor=-amount,
    )
    house = {A.REVENUE: note.nano, A.TAX: -money.nano_of_minor(tax, invoice.currency)}
    return _issue(note, [given_back], house, ZoneInfo(profile.time_zone))


def window_of(invoice: Invoice) -> Window:
    """What the invoice was drawn from: asks for the rows beneath its lines."""
    zone = ZoneInfo(invoice.time_zone)
    before = (
        Invoice.objects.for_organization(invoice.organization)
        .filter(kind=Invoice.Kind.INVOICE, currency=invoice.currency)
        .filter(period_start__lt=invoice.period_start, issued_at__isnull=False)
    )
    if invoice.issued_at is not None:
        # Those that stood when it was drawn.
        before = before.filter(issued_at__lte=invoice.issued_at)
        before = before.exclude(voided_at__lte=invoice.issued_at)
    else:
        before = before.exclude(status=Invoice.Status.VOID)
    last = before.order_by("-period_start").first()
    return Window(
        invoice.organization,
        invoice.currency,
        zone,
        invoice.period_start,
        invoice.period_end,
        last.issued_at if last else None,
        invoice.issued_at,
    )


def tax_of(amount: int, rate: Decimal) -> int:
    """Minor units of tax on an amount in minor units, at so many per cent, half to even."""
    return int((amount * rate / 100).quantize(Decimal(1), ROUND_HALF_EVEN))


_CARRIED_OVER = (
    "currency",
    "time_zone",
    "period_start",
    "period_end",
    "tax_name",
    "tax_rate",
    "issuer_name",
    "issuer_address",
    "issuer_tax_id",
    "legal_name",
    "address",
    "country",
    "tax_id_kind",
    "tax_id",
    "purchase_order",
)


def _months_due(organization: Organization, currency: str, now: datetime) -> Iterator[Month]:
    zone = ZoneInfo(wallet.profile_of(organization).time_zone)
    last = _standing(organization, currency).order_by("-period_start").first()
    charged = LedgerTransaction.objects.for_organization(organization)
    charged = charged.filter(kind__in=(*CHARGED, Kind.REVERSAL), currency=currency)
    if last is not None:
        if not charged.filter(id__gte=uuid7_floor(last.period_end - SLACK)).exists():
            return  # it has used nothing since
        month = Month.at(last.period_end + MOVED, zone)
    else:
        first = charged.order_by("id")[0]
        month = Month.at(first.created_at - SETTLING, zone)
    while month.end(zone) + SETTLING <= now:
        yield month
        month = month.following


@transaction.atomic
def _draw(organization: Organization, currency: str, month: Month) -> Invoice | None:
    profile = _held(organization)
    zone = ZoneInfo(profile.time_zone)
    wallet.hold(organization, currency)
    now = timezone.now()
    window = _window(organization, currency, zone, month)
    if window.end > now:
        raise Conflict(_("The month is not over yet."))
    standing = _standing(organization, currency)
    middle = window.start + (window.end - window.start) / 2
    there = standing.filter(period_start__lte=middle, period_end__gt=middle).first()
    if there is not None:
        return there
    if standing.filter(period_start__gt=middle).exists():
        raise Conflict(_("The invoice of a later month is there already."))
    lines = invoice_lines.lines(window)
    if not any(line.nano for line in lines):
        return None
    invoice = _begun(profile, window)
    _add_up(invoice, lines)
    rest = invoice.nano - money.nano_of_minor(invoice.subtotal, currency)
    house = {A.ROUNDING: -rest, A.TAX: money.nano_of_minor(invoice.tax, currency)}
    return _issue(invoice, lines, house, zone, now)


def _held(organization: Organization) -> BillingProfile:
    """The profile, which until the end of the transaction nobody else draws invoices for."""
    wallet.profile_of(organization)
    return BillingProfile.objects.select_for_update(no_key=True).get(organization=organization)


def _window(organization: Organization, currency: str, zone: ZoneInfo, month: Month) -> Window:
    start, end = month.start(zone), month.end(zone)
    last = _standing(organization, currency).order_by("-period_start")
    before = last.filter(period_end__lte=start + MOVED).first()
    # Where the time zone has changed since, the periods still meet.
    if before is not None and abs(before.period_end - start) < MOVED:
        start = before.period_end
    return Window(organization, currency, zone, start, end, before.issued_at if before else None)


def _standing(organization: Organization, currency: str) -> QuerySet[Invoice]:
    mine: QuerySet[Invoice] = Invoice.objects.for_organization(organization)
    return mine.filter(kind=Invoice.Kind.INVOICE, currency=currency).exclude(
        status=Invoice.Status.VOID
    )


def _begun(profile: BillingProfile, window: Window) -> Invoice:
    """A draft, with everything that stands at its head as it is now."""
    env = settings.ENV
    rate, tax_name = env.invoice_tax
    return Invoice(
        organization=window.organization,
        currency=window.currency,
        time_zone=str(window.zone),
        period_start=window.start,
        period_end=window.end,
        tax_name=tax_name,
        tax_rate=rate,
        issuer_name=env.invoice_name,
        issuer_address="\n".join(part.strip() for part in env.invoice_address.split("|")),
        issuer_tax_id=env.invoice_tax_id,
        legal_name=profile.legal_name or window.organization.name,
        address=profile.address,
        country=profile.country,
        tax_id_kind=profile.tax_id_kind,
        tax_id=profile.tax_id,
        purchase_order=profile.purchase_order,
    )


def _add_up(invoice: Invoice, lines: Sequence[InvoiceLine]) -> None:
    invoice.nano = sum(line.nano for line in lines)
    invoice.subtotal = sum(line.minor for line in lines)
    invoice.tax = tax_of(invoice.subtotal, invoice.tax_rate)
    invoice.total = invoice.subtotal + invoice.tax


def _issue(
    invoice: Invoice,
    lines: Sequence[InvoiceLine],
    house: dict[A, int],
    zone: ZoneInfo,
    now: datetime | None = None,
) -> Invoice:
    """Save it with its lines, give it its number, and post to the house's accounts."""
    now = now or timezone.now()
    invoice.save(force_insert=True)
    for line in lines:
        line.invoice = invoice
    InvoiceLine.objects.bulk_create(lines)
    year = now.astimezone(zone).year
    invoice.number = InvoiceNumbers.take(Invoice.SERIES[Invoice.Kind(invoice.kind)], year)
    amounts = {kind: nano for kind, nano in house.items() if nano}
    invoice.transaction = wallet.settle(
        invoice.organization,
        {ledger.account(kind, invoice.currency): nano for kind, nano in amounts.items()},
        Kind.INVOICE,
        f"invoice:{invoice.number}",
        description=invoice.number,
        refers_to={"invoice": invoice.number},
    )
    invoice.issued_at = now
    invoice.status = Invoice.Status.FINAL
    invoice.save(update_fields=["number", "transaction", "issued_at", "status"])
    return invoice
