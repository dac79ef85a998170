"""Credit: what there is, how long it lasts, how more is added, and every entry of the books."""

from http import HTTPStatus
from uuid import UUID

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import HttpResponse, StreamingHttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_GET

from accounts.roles import Permission
from accounts.tenancy import TenantRequest, requires
from billing import book, csv_rows, payment_page, wallet
from billing.forms import ProfileForm
from billing.models import GpuUsage, LedgerTransaction, UsageEvent
from billing.zero import AT_ZERO

LATEST, PAGE = 8, 50  # transactions
SHOWN_REQUESTS = 100
LOW = 7  # days that credit lasts, from which on the page says so


@require_GET
@requires(Permission.VIEW_BILLING)
def balance(request: TenantRequest) -> HttpResponse:
    """The balance and what belongs to it."""
    organization = request.organization
    profile = wallet.profile_of(organization)
    funds = wallet.funds(organization)
    days = book.runway(organization, funds)
    month = book.month_of(organization)
    context = {
        "profile": profile,
        "funds": funds,
        "grants": book.grants(organization),
        "days": None if days is None else int(days),
        "for_ever": days == book.LONGEST_RUNWAY,
        "is_low": days is not None and days < LOW,
        "month": month,
        "spent": book.spent(organization, profile.currency, month),
        "lines": book.lines(organization, most=LATEST),
        "may_manage": request.membership.allows(Permission.MANAGE_BILLING),
        "top_up": payment_page.address(organization),
        "presets": payment_page.presets(profile.currency),
        "at_zero": _(AT_ZERO),
    }
    return render(request, "billing/balance.html", context)


@require_GET
@requires(Permission.VIEW_BILLING)
def ledger(request: TenantRequest) -> HttpResponse:
    """Every transaction with its entries, newest first."""
    after = _uuid(request.GET.get("after", ""))
    shown = book.lines(request.organization, before=after, most=PAGE + 1)
    page, more = shown[:PAGE], len(shown) > PAGE
    context = {
        "lines": page,
        "next": page[-1].transaction.id if more else None,
        "is_first": after is None,
    }
    return render(request, "billing/ledger.html", context)


@require_GET
@requires(Permission.VIEW_BILLING)
def ledger_export(request: TenantRequest) -> StreamingHttpResponse:
    """Every entry, as CSV."""
    name = f"{request.organization.slug}-ledger.csv"
    return csv_rows.answer(name, book.EXPORTED, book.export(request.organization))


@require_GET
@requires(Permission.VIEW_BILLING)
def ledger_transaction(request: TenantRequest, transaction_id: UUID) -> HttpResponse:
    """One transaction: its entries, and the usage that it charges for."""
    mine = LedgerTransaction.objects.for_organization(request.organization)
    found = get_object_or_404(
        mine.select_related("organization", "reverses", "reversed_by"), id=transaction_id
    )
    requests = _requests(found)
    context = {
        "transaction": found,
        "line": book.line(request.organization, found),
        "requests": requests[:SHOWN_REQUESTS],
        "more": len(requests) > SHOWN_REQUESTS,
        "stretches": _stretches(found),
    }
    return render(request, "billing/ledger_transaction.html", context)


@requires(Permission.VIEW_BILLING)
def profile(request: TenantRequest) -> HttpResponse:
    """What stands on invoices, and in which currency and time zone."""
    may_manage = request.membership.allows(Permission.MANAGE_BILLING)
    if request.method == "POST" and not may_manage:
        raise PermissionDenied
    form = ProfileForm(request.POST or None, instance=wallet.profile_of(request.organization))
    if request.method == "POST" and form.is_valid():
        form.save()
        messages.success(request, _("Saved."))
        return redirect("billing-profile", request.organization.slug)
    status = HTTPStatus.UNPROCESSABLE_ENTITY if form.errors else HTTPStatus.OK
    context = {"form": form, "may_manage": may_manage}
    return render(request, "billing/profile.html", context, status=status)


def _requests(charged: LedgerTransaction) -> list[UsageEvent]:
    """The requests that it charges for, one more than are shown: found by the index, in the span
    of ids that it tells of."""
    span = charged.refers_to
    first, last = _uuid(str(span.get("first", ""))), _uuid(str(span.get("last", "")))
    if first is None or last is None:
        return []
    mine = UsageEvent.objects.filter(organization=charged.organization)
    return list(
        mine.filter(
            request_id__gte=first, request_id__lte=last, transaction_id=charged.id
        ).order_by("-request_id")[: SHOWN_REQUESTS + 1]
    )


def _stretches(charged: LedgerTransaction) -> list[GpuUsage]:
    interval = _uuid(str(charged.refers_to.get("interval", "")))
    if interval is None:
        return []
    mine = GpuUsage.objects.filter(organization=charged.organization)
    return list(mine.filter(interval_id=interval, transaction_id=charged.id))


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None
