"""Credit that the operator gives by hand, and how an organization pays."""

from datetime import UTC, datetime, time, timedelta
from http import HTTPStatus
from typing import Any
from uuid import UUID

from django import forms
from django.contrib import messages
from django.core import signing
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.http import require_http_methods, require_POST

from accounts.forms import StyledForm
from accounts.models import Organization, User
from billing import book, wallet
from billing.ledger import Kind
from billing.money import parse, shown
from portal.lib.ids import uuid7
from portal.ops.access import operators_only

FORM_LIFETIME = timedelta(days=1)
LATEST = 20  # transactions
PURCHASE, GRANT = "purchase", "grant"
NUMBER = {"class": "input num", "inputmode": "decimal", "autocomplete": "off"}


class CreditForm(StyledForm):
    """Credit to give. `asked` makes a double click, or a page sent anew, one entry."""

    kind = forms.ChoiceField(
        label=gettext_lazy("Kind"),
        choices=[
            (PURCHASE, gettext_lazy("Paid outside of here: purchase order, bank transfer")),
            (GRANT, gettext_lazy("A gift: research grant, trial, goodwill")),
        ],
        help_text=gettext_lazy("What was paid settles what is owed first and never expires."),
    )
    amount = forms.CharField(max_length=20, widget=forms.TextInput(attrs=NUMBER))
    reason = forms.CharField(
        label=gettext_lazy("Reason"),
        max_length=200,
        help_text=gettext_lazy("The organization reads it in its ledger."),
    )
    last_day = forms.DateField(
        label=gettext_lazy("Last day (UTC)"),
        required=False,
        widget=forms.DateInput(attrs={"class": "input", "type": "date"}),
        help_text=gettext_lazy("Of a gift. Empty: it does not expire."),
    )
    asked = forms.CharField(widget=forms.HiddenInput)

    def __init__(self, *args: Any, currency: str, **kwargs: Any) -> None:
        kwargs.setdefault("initial", {}).setdefault("asked", signing.dumps(str(uuid7())))
        super().__init__(*args, **kwargs)
        self.currency = currency
        self.fields["amount"].label = _("Amount (%s)") % currency

    def clean_amount(self) -> int:
        """Nano-units."""
        try:
            nano = parse(self.cleaned_data["amount"], self.currency)
        except ValueError as error:
            raise forms.ValidationError(_("Write an amount such as %s.") % "25") from error
        if not nano:
            raise forms.ValidationError(_("Write an amount such as %s.") % "25")
        return nano

    def clean_asked(self) -> UUID:
        try:
            return UUID(signing.loads(self.cleaned_data["asked"], max_age=FORM_LIFETIME))
        except signing.BadSignature as error:
            raise forms.ValidationError(
                _("This page was open for too long. Reload it and try again.")
            ) from error

    def clean(self) -> dict[str, Any]:
        data = super().clean() or self.cleaned_data
        last = data.get("last_day")
        if last and data.get("kind") == PURCHASE:
            self.add_error("last_day", _("What was paid does not expire."))
        elif last and last < timezone.now().astimezone(UTC).date():
            self.add_error("last_day", _("Choose a day that is not over."))
        return data

    def give(self, organization: Organization, by: User) -> None:
        """Book it, once."""
        data = self.cleaned_data
        key = f"operator:{data['asked']}"
        if data["kind"] == PURCHASE:
            by_whom = {"by": str(by.id)}
            wallet.pay_in(
                organization,
                data["amount"],
                Kind.CREDIT,
                key,
                description=data["reason"],
                refers_to=by_whom,
            )
        else:
            wallet.grant(
                organization,
                data["amount"],
                by,
                reason=data["reason"],
                key=key,
                expires_at=_end_of(data["last_day"]),
            )


class TermsForm(forms.Form):
    """How it pays, and whether it may do anything at all."""

    postpaid = forms.BooleanField(
        label=gettext_lazy("It pays later: usage goes on without credit, and is owed"),
        required=False,
    )
    blocked = forms.BooleanField(
        label=gettext_lazy("It is stopped: its requests are refused, whatever its credit is"),
        required=False,
    )


@require_http_methods(["GET", "POST"])
@operators_only
def show(request: HttpRequest, organization_id: UUID) -> HttpResponse:
    """What an organization has, and the form that gives it more."""
    organization = get_object_or_404(Organization, id=organization_id)
    profile = wallet.profile_of(organization)
    form = CreditForm(request.POST or None, currency=profile.currency)
    if request.method == "POST" and form.is_valid():
        form.give(organization, request.user)  # type: ignore[arg-type]  # operators are people
        amount = shown(form.cleaned_data["amount"], profile.currency)
        messages.success(request, _("%s is credited.") % amount)
        return redirect("ops-credit", organization_id=organization.id)
    context = {
        "organization": organization,
        "profile": profile,
        "funds": wallet.funds(organization),
        "grants": book.grants(organization),
        "lines": book.lines(organization, most=LATEST),
        "form": form,
        "terms": TermsForm(
            initial={"postpaid": profile.postpaid, "blocked": bool(profile.blocked_at)}
        ),
    }
    status = HTTPStatus.UNPROCESSABLE_ENTITY if form.errors else HTTPStatus.OK
    return render(request, "ops/credit.html", context, status=status)


@require_POST
@operators_only
def terms(request: HttpRequest, organization_id: UUID) -> HttpResponse:
    """Change how it pays, stop it, or let it go on."""
    organization = get_object_or_404(Organization, id=organization_id)
    profile = wallet.profile_of(organization)
    form = TermsForm(request.POST)
    if form.is_valid():
        profile.pay_later(form.cleaned_data["postpaid"])
        if form.cleaned_data["blocked"]:
            profile.block()
        else:
            profile.unblock()
        messages.success(request, _("Saved."))
    return redirect("ops-credit", organization_id=organization.id)


def _end_of(day: Any) -> datetime | None:
    return datetime.combine(day + timedelta(days=1), time(), UTC) if day else None
