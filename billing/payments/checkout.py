"""Top-ups by hand: Stripe's page, and what is credited once it says that it was paid."""

from contextlib import suppress
from datetime import timedelta
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import transaction
from django.utils import timezone
from django.utils.translation import gettext as _

from accounts.models import Organization, User
from billing import wallet
from billing.models import StripeCall, TopUp
from billing.money import NANO, stripe_amount, unit
from billing.payments import amounts, crediting, customers, outbox
from billing.payments.client import NotSetUp
from billing.payments.operations import metadata
from portal.lib.errors import Conflict, Unavailable

OPEN_FOR = timedelta(hours=1)  # Stripe: 30 minutes to 24 hours


def begin(
    organization: Organization,
    by: User | None,
    nano: int,
    return_url: str,
    *,
    save_card: bool = False,
) -> str:
    """The address of the page where it is paid. People come back to `return_url` with
    `top_up=<id>` added to it: show them `returned()`.

    Raises ValidationError (amount), Conflict, Away, NotSetUp; then nothing was charged. Not in a
    transaction.
    """
    profile = wallet.profile_of(organization)
    check_amount(nano, profile.currency)
    if profile.postpaid:
        raise Conflict(_("Your organization pays by invoice; there is nothing to top up."))
    customer = customers.of(organization, by.email if by else "")
    with transaction.atomic(durable=True):
        top_up = TopUp.objects.create(
            organization=organization,
            source=TopUp.Source.CHECKOUT,
            nano=nano,
            currency=profile.currency,
            by=by,
        )
        call = StripeCall.enter(
            "session.create",
            _params(top_up, customer, return_url, save_card),
            organization=organization,
            about=top_up.id,
            interactive=True,
        )
    call = outbox.send_now(call)
    if call.state == StripeCall.State.REFUSED:
        raise Conflict(_("The payment service does not take this: %s") % call.problem)
    return str(call.answer["url"])


def check_amount(nano: int, currency: str) -> None:
    """Raises ValidationError with a sentence for people."""
    if not amounts.can_be_paid(nano, currency):
        raise ValidationError({"amount": limits_sentence(currency)})


def limits_sentence(currency: str) -> str:
    """What can be paid at a time."""
    least, most = (f"{limit // NANO:,}" for limit in amounts.limits(currency))
    return _("Enter an amount from %(least)s to %(most)s %(currency)s.") % {
        "least": least,
        "most": most,
        "currency": currency,
    }


def returned(organization: Organization, top_up_id: UUID) -> TopUp | None:
    """For the page that people come back to: the top-up as it is now, asked of Stripe at once,
    since events may take a while, or may not reach this machine at all."""
    mine = TopUp.objects.for_organization(organization)
    top_up: TopUp | None = mine.filter(id=top_up_id).first()
    if top_up is None or top_up.state == TopUp.State.PAID or not top_up.session_id:
        return top_up
    # Where that fails the page says that it waits; events and the daily check come later.
    with suppress(Unavailable, NotSetUp, crediting.NotOurs, crediting.Mismatch):
        crediting.settle_session(top_up.session_id)
    top_up.refresh_from_db()
    return top_up


def _params(top_up: TopUp, customer: str, return_url: str, save_card: bool) -> dict[str, Any]:
    ours = metadata(organization=top_up.organization_id, top_up=top_up.id)
    joint = "&" if "?" in return_url else "?"
    back = f"{return_url}{joint}{urlencode({'top_up': str(top_up.id)})}"
    intent: dict[str, Any] = {"metadata": ours}
    if save_card:
        intent["setup_future_usage"] = "off_session"
    params: dict[str, Any] = {
        "mode": "payment",
        "customer": customer,
        "client_reference_id": str(top_up.id),
        "line_items": [
            {
                "quantity": 1,
                "price_data": {
                    "currency": top_up.currency.lower(),
                    "unit_amount": stripe_amount(top_up.nano, top_up.currency),
                    "tax_behavior": "exclusive",
                    "product_data": {"name": _("Prepaid credit")},
                },
            }
        ],
        "payment_intent_data": intent,
        "metadata": ours,
        "success_url": back,
        "cancel_url": back,
        "expires_at": int((timezone.now() + OPEN_FOR).timestamp()),
    }
    if settings.ENV.stripe_tax:
        params["automatic_tax"] = {"enabled": True}
        params["customer_update"] = {"address": "auto", "name": "auto"}
        params["tax_id_collection"] = {"enabled": True}
    return params


def described(top_up: TopUp) -> str:
    """For people: "25 USD"."""
    return f"{unit(top_up.nano):f} {top_up.currency}"
