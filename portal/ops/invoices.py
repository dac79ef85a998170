"""Invoices over all organizations: take one back, or correct it by a credit note."""

from http import HTTPStatus
from uuid import UUID

from django import forms
from django.contrib import messages
from django.core.paginator import Paginator
from django.db.models import Q
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.http import require_GET, require_http_methods

from accounts.forms import StyledForm
from billing import invoices, money
from billing.models import Invoice, InvoiceLine
from portal.lib.errors import Conflict
from portal.ops.access import operators_only

PER_PAGE = 50


class VoidForm(StyledForm):
    prefix = "void"
    reason = forms.CharField(
        label=gettext_lazy("Reason"),
        max_length=200,
        help_text=gettext_lazy("It stands on the invoice."),
    )


class CreditForm(StyledForm):
    prefix = "credit"
    amount = forms.CharField(label=gettext_lazy("Amount before tax"), max_length=20)
    position = forms.IntegerField(
        label=gettext_lazy("Line"),
        required=False,
        min_value=1,
        help_text=gettext_lazy("The line that it corrects; empty: the invoice."),
    )
    reason = forms.CharField(
        label=gettext_lazy("Reason"),
        max_length=200,
        help_text=gettext_lazy("It stands on the credit note."),
    )

    def __init__(self, *args: object, invoice: Invoice, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        self.invoice = invoice
        self.fields["amount"].label = _("Amount before tax (%(currency)s)") % {
            "currency": invoice.currency
        }

    def clean_amount(self) -> int:
        """Minor units."""
        try:
            nano = money.parse(self.cleaned_data["amount"], self.invoice.currency)
        except ValueError:
            raise forms.ValidationError(
                _("Write an amount such as %(example)s.")
                % {"example": money.shown_minor(1250, self.invoice.currency)}
            ) from None
        return money.minor(nano, self.invoice.currency)[0]

    def clean_position(self) -> InvoiceLine | None:
        position = self.cleaned_data["position"]
        if position is None:
            return None
        line: InvoiceLine | None = self.invoice.lines.filter(position=position).first()
        if line is None:
            raise forms.ValidationError(_("The invoice has no such line."))
        return line


@require_GET
@operators_only
def index(request: HttpRequest) -> HttpResponse:
    """The newest first."""
    found = Invoice.objects.select_related("organization")
    wanted = request.GET.get("q", "").strip()[:80]
    if wanted:
        found = found.filter(Q(number__iexact=wanted) | Q(legal_name__icontains=wanted))
    page = Paginator(found, PER_PAGE).get_page(request.GET.get("page"))
    return render(request, "ops/invoices.html", {"page": page, "query": wanted})


@require_http_methods(["GET", "POST"])
@operators_only
def show(request: HttpRequest, invoice_id: UUID) -> HttpResponse:
    """One of them, and what an operator may do with it."""
    invoice = get_object_or_404(
        Invoice.objects.select_related("organization", "corrects", "decided_by"), id=invoice_id
    )
    verb = request.POST.get("verb") if request.method == "POST" else None
    void = VoidForm(request.POST if verb == "void" else None)
    credit = CreditForm(request.POST if verb == "credit" else None, invoice=invoice)
    done = _void(request, invoice, void) if verb == "void" else None
    done = _credit(request, invoice, credit) if verb == "credit" else done
    if done is not None:
        return redirect("ops-invoice", invoice_id=done.id)
    context = {
        "invoice": invoice,
        "lines": invoice.lines.all()[:PER_PAGE],
        "notes": invoice.credit_notes.order_by("id"),
        "void": void,
        "credit": credit,
    }
    wrong = void.errors or credit.errors
    status = HTTPStatus.UNPROCESSABLE_ENTITY if wrong else HTTPStatus.OK
    return render(request, "ops/invoice.html", context, status=status)


def _void(request: HttpRequest, invoice: Invoice, form: VoidForm) -> Invoice | None:
    if not form.is_valid():
        return None
    try:
        invoices.void(invoice, request.user, form.cleaned_data["reason"])  # type: ignore[arg-type]
    except Conflict as problem:
        form.add_error(None, str(problem))
        return None
    messages.success(request, _("The invoice is void. Its month is drawn again within the hour."))
    return invoice


def _credit(request: HttpRequest, invoice: Invoice, form: CreditForm) -> Invoice | None:
    if not form.is_valid():
        return None
    said = form.cleaned_data
    try:
        note = invoices.credit(
            invoice,
            request.user,  # type: ignore[arg-type]
            said["amount"],
            said["reason"],
            said["position"],
        )
    except Conflict as problem:
        form.add_error("amount", str(problem))
        return None
    messages.success(request, _("The credit note is issued."))
    return note
