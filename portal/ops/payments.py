"""Payments for the operator: what the daily check found, calls that Stripe refused, refunds."""

from http import HTTPStatus
from typing import Any
from uuid import UUID

from django import forms
from django.contrib import messages
from django.core.paginator import Paginator
from django.db.models import Sum
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.http import require_GET, require_http_methods

from accounts.forms import StyledForm
from accounts.models import User
from billing.models import PaymentCheck, StripeCall, StripeEvent, TopUp
from billing.money import parse
from billing.payments import reconcile, takebacks
from portal.lib.errors import Refusal
from portal.ops.access import operators_only

PER_PAGE, DAYS, LATEST = 50, 14, 20


class RefundForm(StyledForm):
    """How much of a top-up goes back, before tax."""

    amount = forms.CharField(
        max_length=20,
        widget=forms.TextInput(attrs={"class": "input num", "inputmode": "decimal"}),
    )
    reason = forms.CharField(label=gettext_lazy("Reason"), max_length=200)

    def __init__(self, *args: Any, currency: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.currency = currency
        self.fields["amount"].label = _("Amount (%s)") % currency

    def clean_amount(self) -> int:
        """Nano-units."""
        try:
            return parse(self.cleaned_data["amount"], self.currency)
        except ValueError as error:
            raise forms.ValidationError(_("Write an amount such as %s.") % "25") from error


@require_GET
@operators_only
def index(request: HttpRequest) -> HttpResponse:
    """Top-ups of all organizations, and what needs a person."""
    found = TopUp.objects.select_related("organization", "by").order_by("-id")
    wanted = request.GET.get("q", "").strip()[:80]
    if wanted:
        found = found.filter(organization__name__icontains=wanted)
    refused = StripeCall.objects.filter(state=StripeCall.State.REFUSED)
    context = {
        "page": Paginator(found, PER_PAGE).get_page(request.GET.get("page")),
        "query": wanted,
        "checks": _checks(),
        "refused": refused.exclude(failure="abandoned").order_by("-id")[:LATEST],
        "odd": StripeEvent.objects.filter(problem__startswith="does not match")[:LATEST],
    }
    return render(request, "ops/payments.html", context)


@require_http_methods(["GET", "POST"])
@operators_only
def refund(request: HttpRequest, top_up_id: UUID) -> HttpResponse:
    """Give a top-up back to the card that paid it, or part of it."""
    top_up = get_object_or_404(TopUp.objects.select_related("organization"), id=top_up_id)
    posted = request.POST if request.method == "POST" else None
    form = RefundForm(posted, currency=top_up.currency)
    assert isinstance(request.user, User)  # noqa: S101  an operator
    if request.method == "POST" and form.is_valid():
        try:
            takebacks.begin_refund(
                top_up, form.cleaned_data["amount"], request.user, form.cleaned_data["reason"]
            )
        except Refusal as refusal:
            form.add_error(None, str(refusal))
        else:
            messages.success(request, _("The refund is on its way."))
            return redirect("ops-refund", top_up.id)
    gone = top_up.taken_back.select_related("by")
    context = {
        "top_up": top_up,
        "form": form,
        "gone": gone,
        "gone_nano": gone.aggregate(all=Sum("nano"))["all"] or 0,
    }
    status = HTTPStatus.UNPROCESSABLE_ENTITY if form.errors else HTTPStatus.OK
    return render(request, "ops/refund.html", context, status=status)


def _checks() -> list[dict[str, Any]]:
    """The latest days, each difference with its sentence."""
    return [
        {
            "check": check,
            "differences": [
                each | {"sentence": _(reconcile.CAUSES[each["cause"]])}
                for each in check.differences
            ],
        }
        for check in PaymentCheck.objects.all()[:DAYS]
    ]
