"""Saved cards: how they get here, and how they go. Their numbers stay with Stripe."""

from typing import Any
from urllib.parse import urlencode

from django.db import transaction
from django.utils import timezone
from django.utils.translation import gettext as _
from stripe import PaymentIntent, PaymentMethod, SetupIntent

from accounts.models import Organization, User
from billing.models import AutoTopUp, BillingProfile, SavedCard, StripeCall, TopUp
from billing.payments import customers, outbox
from billing.payments.fetching import NotKnown, NotOurs, fetch, id_of, our_id
from billing.payments.operations import metadata
from portal.lib.errors import Conflict


def begin(organization: Organization, by: User | None, return_url: str) -> str:
    """The address of the page where a card is saved; people come back to `return_url`.

    Raises Away, Conflict, NotSetUp. Not in a transaction.
    """
    customer = customers.of(organization, by.email if by else "")
    ours = metadata(organization=organization.id)
    joint = "&" if "?" in return_url else "?"
    call = StripeCall.enter(
        "session.create",
        {
            "mode": "setup",
            "customer": customer,
            "allowed_payment_method_types": ["card"],
            "setup_intent_data": {"metadata": ours},
            "metadata": ours,
            # Stripe puts the session's id in place of the braces.
            "success_url": f"{return_url}{joint}card={{CHECKOUT_SESSION_ID}}",
            "cancel_url": f"{return_url}{joint}{urlencode({'card': 'canceled'})}",
        },
        organization=organization,
        interactive=True,
    )
    call = outbox.send_now(call)
    if call.state == StripeCall.State.REFUSED:
        raise Conflict(_("The payment service does not take this: %s") % call.problem)
    return str(call.answer["url"])


def settle_session(session_id: str) -> SavedCard | None:
    """Keep the card that was saved there; None where none was. Raises Away, NotKnown, NotOurs."""
    expand = ["setup_intent.payment_method"]
    session = fetch(
        lambda stripe: stripe.v1.checkout.sessions.retrieve(session_id, {"expand": expand})
    )
    our_id(session, "organization")
    intent = session.setup_intent
    if not isinstance(intent, SetupIntent) or intent.status != "succeeded":
        return None
    return _keep(_whose(id_of(session.customer)), intent.payment_method)


def returned(organization: Organization, session_id: str) -> SavedCard | None:
    """For the page that people come back to. Raises Away, NotKnown, NotOurs."""
    card = settle_session(session_id)
    if card is None or card.organization_id != organization.id:
        return None
    return card


def learn_of_payment(top_up: TopUp, intent: Any) -> None:
    """Keep the card of a payment whose payer agreed to that."""
    if not isinstance(intent, PaymentIntent) or intent.setup_future_usage != "off_session":
        return
    if intent.status == "succeeded":
        _keep(top_up.organization, intent.payment_method)


def settle_method(method_id: str) -> None:
    """A card as it is now: renewed by its bank, or taken away on Stripe's own pages."""
    known = SavedCard.objects.filter(id=method_id).select_related("organization").first()
    if known is None:
        return
    method = fetch(lambda stripe: stripe.v1.payment_methods.retrieve(method_id))
    if not method.customer:
        _forget(known)
    else:
        _keep(known.organization, method)


@transaction.atomic
def remove(card: SavedCard) -> None:
    """Forget it here at once, and at Stripe by the outbox."""
    _forget(card)
    StripeCall.enter(
        "card.detach", {}, organization=card.organization, target=card.id, purpose=f"off:{card.id}"
    )


@transaction.atomic
def make_default(card: SavedCard) -> None:
    """Automatic top-ups are paid by this one; those that a declined card paused go on."""
    mine = SavedCard.objects.filter(organization=card.organization_id, removed_at=None)
    mine.exclude(id=card.id).update(is_default=False)
    mine.filter(id=card.id).update(is_default=True)
    AutoTopUp.objects.filter(organization=card.organization_id).update(paused_at=None, failure="")


def _whose(customer_id: str) -> Organization:
    profile = (
        BillingProfile.objects.filter(stripe_customer_id=customer_id)
        .exclude(stripe_customer_id="")
        .select_related("organization")
        .first()
    )
    if profile is None:
        raise NotKnown(customer_id)
    organization: Organization = profile.organization
    return organization


@transaction.atomic
def _keep(organization: Organization, method: Any) -> SavedCard | None:
    if not isinstance(method, PaymentMethod) or method.card is None:
        return None  # a bank account, say: paid by hand only
    BillingProfile.objects.select_for_update().get(organization=organization)
    facts = {
        "brand": str(method.card.brand)[:32],
        "last4": method.card.last4 or "",
        "exp_month": method.card.exp_month,
        "exp_year": method.card.exp_year,
    }
    card, new = SavedCard.objects.update_or_create(
        id=method.id,
        defaults=facts,
        create_defaults=facts | {"organization": organization},
    )
    if card.organization_id != organization.id:
        raise NotOurs(method.id)
    # The newest is what its owner wants to pay with; one that was removed stays removed.
    if new:
        make_default(card)
        card.refresh_from_db()
    return card


def _forget(card: SavedCard) -> None:
    SavedCard.objects.filter(id=card.id, removed_at=None).update(
        removed_at=timezone.now(), is_default=False
    )
