"""The way to Stripe's pages, and back: adding credit, saving a card, the customer's portal."""

from collections.abc import Callable
from http import HTTPStatus
from uuid import UUID

from django.conf import settings
from django.contrib import messages
from django.core.exceptions import ValidationError
from django.http import Http404, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.http import require_POST

from accounts.roles import Permission
from accounts.tenancy import TenantRequest, requires
from billing import wallet
from billing.models import AutoTopUp, SavedCard, TopUp
from billing.money import shown
from billing.payments import cards, checkout
from billing.payments import portal as payment_portal
from billing.payments.fetching import NotKnown, NotOurs
from billing.topup_forms import AutomaticForm, TopUpForm
from portal.lib.errors import Refusal

LATEST = 10  # top-ups


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
    return _page(request, form)


@require_POST
@requires(Permission.MANAGE_BILLING)
def automatic(request: TenantRequest) -> HttpResponse:
    """Set when and how much a saved card pays by itself."""
    currency = wallet.profile_of(request.organization).currency
    form = AutomaticForm(request.POST, currency=currency)
    if form.is_valid():
        try:
            form.save(request.organization)
        except ValidationError as error:
            for name, sentences in error.message_dict.items():
                form.add_error(name if name in form.fields else None, sentences)
        except Refusal as refusal:
            form.add_error(None, str(refusal))
        else:
            messages.success(request, _("Saved."))
            return redirect("top-up", request.organization.slug)
    return _page(request, TopUpForm(currency=currency), form)


@require_POST
@requires(Permission.MANAGE_BILLING)
def card_change(request: TenantRequest, card: str, verb: str) -> HttpResponse:
    """Forget a saved card, or let it be the one that pays."""
    mine = SavedCard.objects.for_organization(request.organization).filter(removed_at=None)
    found = get_object_or_404(mine, id=card)
    if verb == "remove":
        cards.remove(found)
        messages.success(request, _("The card is removed."))
    elif verb == "default":
        cards.make_default(found)
        messages.success(request, _("Automatic top-ups are paid by this card now."))
    else:
        raise Http404
    return redirect("top-up", request.organization.slug)


def _page(
    request: TenantRequest, form: TopUpForm, automatic: AutomaticForm | None = None
) -> HttpResponse:
    organization = request.organization
    currency = wallet.profile_of(organization).currency
    setting = AutoTopUp.objects.filter(organization=organization).first()
    returned = _returned(request)  # which may change the balance, and bring a card
    saved = SavedCard.objects.for_organization(organization).filter(removed_at=None)
    context = {
        "form": form,
        "automatic": automatic or AutomaticForm.of(setting, currency),
        "setting": setting,
        "cards": saved,
        "is_set_up": bool(settings.ENV.stripe_secret_key),
        "returned": returned,
        "balance": shown(wallet.funds(organization).available, currency),
        "latest": TopUp.objects.for_organization(organization)[:LATEST],
    }
    wrong = form.errors or (automatic is not None and automatic.errors)
    status = HTTPStatus.UNPROCESSABLE_ENTITY if wrong else HTTPStatus.OK
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
