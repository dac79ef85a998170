"""The way to Stripe's pages, and back: adding credit, saving a card, the customer's portal."""

from collections.abc import Callable
from decimal import Decimal
from http import HTTPStatus
from uuid import UUID

from django import forms
from django.conf import settings
from django.contrib import messages
from django.core.exceptions import ValidationError
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.http import require_POST

from accounts.roles import Permission
from accounts.tenancy import TenantRequest, requires
from billing import wallet
from billing.money import NANO, decimals, minor, parse
from billing.payments import amounts, cards, checkout
from billing.payments import portal as payment_portal
from billing.payments.fetching import NotKnown, NotOurs
from portal.lib.errors import Refusal


class TopUpForm(forms.Form):
    """How much; as people type it, in the currency of the organization."""

    amount = forms.CharField(
        label=gettext_lazy("Amount"),
        max_length=20,
        widget=forms.TextInput(attrs={"inputmode": "decimal", "autocomplete": "off"}),
    )
    save_card = forms.BooleanField(
        label=gettext_lazy("Save the card for automatic top-ups"), required=False
    )

    def __init__(self, *args: object, currency: str, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        self.currency = currency
        least, most = (f"{limit // NANO:,}" for limit in amounts.limits(currency))
        self.fields["amount"].label = _("Amount (%s)") % currency
        self.fields["amount"].help_text = _("From %(least)s to %(most)s.") % {
            "least": least,
            "most": most,
        }

    def clean_amount(self) -> int:
        """Nano-units."""
        try:
            nano = parse(self.cleaned_data["amount"], self.currency)
        except ValueError as error:
            raise ValidationError(_("Write an amount such as %s.") % "25") from error
        try:
            checkout.check_amount(nano, self.currency)
        except ValidationError as error:
            raise ValidationError(error.messages) from error
        return nano


@requires(Permission.MANAGE_BILLING)
def top_up(request: TenantRequest) -> HttpResponse:
    """Add credit. Whoever comes back from Stripe's page sees here what became of it."""
    profile = wallet.profile_of(request.organization)
    posted = request.POST if request.method == "POST" else None
    form = TopUpForm(posted, currency=profile.currency)
    if request.method == "POST" and form.is_valid():
        try:
            url = checkout.begin(
                request.organization,
                request.user,
                form.cleaned_data["amount"],
                _here(request, "top-up"),
                save_card=form.cleaned_data["save_card"],
            )
        except Refusal as refusal:
            form.add_error(None, str(refusal))
        else:
            return redirect(url)
    returned = _returned(request)  # which may change the balance
    context = {
        "form": form,
        "is_set_up": bool(settings.ENV.stripe_secret_key),
        "returned": returned,
        "balance": shown(wallet.funds(request.organization).available, profile.currency),
    }
    status = HTTPStatus.UNPROCESSABLE_ENTITY if form.errors else HTTPStatus.OK
    return render(request, "billing/top_up.html", context, status=status)


@require_POST
@requires(Permission.MANAGE_BILLING)
def card(request: TenantRequest) -> HttpResponse:
    """Save a card for automatic top-ups."""
    to = _here(request, "top-up")
    return _away(request, lambda: cards.begin(request.organization, request.user, to))


@require_POST
@requires(Permission.MANAGE_BILLING)
def portal(request: TenantRequest) -> HttpResponse:
    """Stripe's own page with cards, addresses and its invoices."""
    to = _here(request, "top-up")
    email = request.user.email
    return _away(request, lambda: payment_portal.begin(request.organization, email, to))


def shown(nano: int, currency: str) -> str:
    """As people read it: "1,250.00 USD", "300 TWD". Rounded to what is paid."""
    whole, _rest = minor(nano, currency)
    return f"{Decimal(whole).scaleb(-decimals(currency)):,f} {currency}"


def _returned(request: TenantRequest) -> dict[str, object] | None:
    """What became of the top-up, or of the card, that they have just been away for."""
    session = request.GET.get("card", "")
    if session.startswith("cs_"):
        try:
            saved = cards.returned(request.organization, session)
        except (Refusal, NotKnown, NotOurs):
            saved = None
        return {"card": saved}
    try:
        id_ = UUID(request.GET.get("top_up", ""))
    except ValueError:
        return None
    found = checkout.returned(request.organization, id_)
    if found is None:
        return None
    return {"top_up": found, "amount": shown(found.nano, found.currency)}


def _here(request: TenantRequest, name: str) -> str:
    return settings.PUBLIC_URL + reverse(name, args=[request.organization.slug])


def _away(request: TenantRequest, begin: Callable[[], str]) -> HttpResponse:
    try:
        return redirect(begin())
    except Refusal as refusal:
        messages.error(request, str(refusal))
        return redirect("top-up", request.organization.slug)
