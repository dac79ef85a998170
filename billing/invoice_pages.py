"""The pages of invoices: the list, one with its lines, the requests beneath a line, PDF and CSV."""

from collections.abc import Iterator, Sequence
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from django.core.paginator import Paginator
from django.http import Http404, HttpResponse, HttpResponseBase
from django.shortcuts import get_object_or_404, render
from django.views.decorators.http import require_GET

from accounts.models import Organization
from accounts.roles import Permission
from accounts.tenancy import TenantRequest, requires
from billing import analytics, csv_rows, invoice_lines, invoice_pdf, invoices, money
from billing.invoice_lines import TOKENS, plain
from billing.models import Invoice, InvoiceLine, UsageEvent
from billing.periods import last_day

PER_PAGE = 50
LINES_PER_PAGE = 200
CURRENT = "current"

LINE_COLUMNS = (
    "position",
    "kind",
    "what",
    "period_start",
    "period_end",
    "project",
    "project_id",
    "member",
    "membership_id",
    "key_name",
    "key_id",
    "instance_id",
    "requests",
    *TOKENS,
    "quantity",
    "unit",
    "unit_price",
)
REQUEST_COLUMNS = (
    "request_id",
    "admitted_at",
    "model",
    "key_id",
    "membership_id",
    "project_id",
    *TOKENS,
    "cost_nano",
    "currency",
    "price_version_id",
    "transaction_id",
    "client_request_id",
)


@require_GET
@requires(Permission.MANAGE_BILLING)
def index(request: TenantRequest) -> HttpResponse:
    """All of them, the newest first, after what the running month has come to."""
    found = Invoice.objects.for_organization(request.organization).select_related("corrects")
    page = Paginator(found, PER_PAGE).get_page(request.GET.get("page"))
    context = {
        "page": page,
        "rows": [(invoice, *period(invoice)) for invoice in page],
        "running": [(each, *period(each)) for each in invoices.statements(request.organization)],
    }
    return render(request, "billing/invoices.html", context)


@require_GET
@requires(Permission.MANAGE_BILLING)
def show(request: TenantRequest, number: str) -> HttpResponse:
    """One of them with its lines; "current" is the running month's."""
    invoice, lines = found(request, number)
    per_page = LINES_PER_PAGE if invoice.number else max(1, len(lines))
    page = Paginator(lines, per_page).get_page(request.GET.get("page"))
    first, last = period(invoice)
    context = {
        "invoice": invoice,
        "number": number,
        "currency": request.GET.get("currency", ""),
        "page": page,
        "lines": [(line, invoice_pdf.title(line), invoice_pdf.quantity(line)) for line in page],
        "first": first,
        "last": last,
        "issued": invoice.issued_at
        and invoice.issued_at.astimezone(ZoneInfo(invoice.time_zone)).date(),
        "notes": invoice.credit_notes.order_by("id") if invoice.number else [],
    }
    return render(request, "billing/invoice.html", context)


@require_GET
@requires(Permission.MANAGE_BILLING)
def line(request: TenantRequest, number: str, position: int) -> HttpResponse:
    """What one line is the sum of: requests by the id that clients saw, or stretches of time."""
    invoice, lines = found(request, number)
    shown = next((each for each in lines if each.position == position), None)
    if shown is None:
        raise Http404
    window = invoices.window_of(invoice)
    rows = invoice_lines.requests_of(window, shown) if not invoice.is_credit_note else None
    page: list[UsageEvent] = []
    more = False
    if rows is not None:
        if (after := request.GET.get("after", "")) and (last := _uuid(after)):
            rows = rows.filter(request_id__lt=last)
        asked = list(rows.order_by("-request_id")[: PER_PAGE + 1])
        page, more = asked[:PER_PAGE], len(asked) > PER_PAGE
    times = invoice_lines.gpu_time_of(window, shown)
    names = analytics.key_names(request.organization, (row.key_id for row in page))
    context = {
        "invoice": invoice,
        "number": number,
        "currency": request.GET.get("currency", ""),
        "line": shown,
        "title": invoice_pdf.title(shown),
        "rows": [(row, names.get(row.key_id, "")) for row in page],
        "next": page[-1].request_id if more else None,
        "times": Paginator(times, LINES_PER_PAGE).get_page(request.GET.get("page")),
    }
    return render(request, "billing/invoice_line.html", context)


@require_GET
@requires(Permission.MANAGE_BILLING)
def pdf(request: TenantRequest, number: str) -> HttpResponse:
    """The document."""
    invoice, lines = found(request, number)
    answer = HttpResponse(invoice_pdf.render(invoice, lines), content_type="application/pdf")
    name = _file_name(request.organization, invoice)
    answer["Content-Disposition"] = f'inline; filename="{name}.pdf"'
    return answer


@require_GET
@requires(Permission.MANAGE_BILLING)
def lines_csv(request: TenantRequest, number: str) -> HttpResponseBase:
    """Its lines, with exact amounts beside the rounded ones."""
    invoice, lines = found(request, number)
    header = (*LINE_COLUMNS, "currency", "exact_amount", "amount")
    rows = (
        [
            *(getattr(each, name) for name in LINE_COLUMNS),
            invoice.currency,
            plain(money.unit(each.nano)),
            money.shown_minor(each.minor, invoice.currency).replace(",", ""),
        ]
        for each in lines
    )
    return csv_rows.answer(f"{_file_name(request.organization, invoice)}-lines.csv", header, rows)


@require_GET
@requires(Permission.MANAGE_BILLING)
def requests_csv(request: TenantRequest, number: str) -> HttpResponseBase:
    """Every request beneath its lines, each with the line that it is on."""
    invoice, lines = found(request, number)
    name = f"{_file_name(request.organization, invoice)}-requests.csv"
    return csv_rows.answer(name, ("line", *REQUEST_COLUMNS), _requests(invoice, lines))


def found(request: TenantRequest, number: str) -> tuple[Invoice, Sequence[InvoiceLine]]:
    """The organization's invoice of this number, or the running month's draft, with its lines."""
    if number != CURRENT:
        mine = Invoice.objects.for_organization(request.organization)
        mine = mine.select_related("organization", "corrects")
        invoice = get_object_or_404(mine, number=number)
        return invoice, list(invoice.lines.all())
    running = invoices.statements(request.organization)
    wanted = request.GET.get("currency") or running[0].currency
    draft = next((each for each in running if each.currency == wanted), None)
    if draft is None:
        raise Http404
    return draft, draft.drawn  # type: ignore[attr-defined]


def period(invoice: Invoice) -> tuple[Any, Any]:
    """Its first and last day, where its months are counted."""
    zone = ZoneInfo(invoice.time_zone)
    return invoice.period_start.astimezone(zone).date(), last_day(invoice.period_end, zone)


def _requests(invoice: Invoice, lines: Sequence[InvoiceLine]) -> Iterator[list[Any]]:
    if invoice.is_credit_note:
        return
    window = invoices.window_of(invoice)
    for each in lines:
        if each.kind == InvoiceLine.Kind.MODEL:
            rows = invoice_lines.requests_of(window, each).order_by("request_id")
            for row in rows.values_list(*REQUEST_COLUMNS).iterator(chunk_size=2000):
                yield [each.position, *row]


def _file_name(organization: Organization, invoice: Invoice) -> str:
    first, _last = period(invoice)
    return f"{organization.slug}-{invoice.number or f'{first:%Y-%m}-draft'}"


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None
