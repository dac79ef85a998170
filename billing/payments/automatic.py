"""Automatic top-ups: a saved card pays when credit runs low, once for each need.

While one is open no other begins (the database sees to that), and after a card was declined nothing
is tried until its people have looked: a machine must not go on charging a card that says no.
"""

import logging
from datetime import UTC

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.db.models import Sum
from django.utils import timezone
from django.utils.translation import gettext as _

from accounts.models import Organization
from billing import wallet
from billing.models import AutoTopUp, SavedCard, StripeCall, TopUp
from billing.money import stripe_amount
from billing.payments import amounts, checkout, crediting, outbox
from billing.payments.fetching import Mismatch, NotKnown, NotOurs
from billing.payments.operations import metadata
from portal.lib.errors import Conflict, Unavailable

log = logging.getLogger(__name__)

S = TopUp.State


def configure(
    organization: Organization,
    *,
    enabled: bool,
    threshold_nano: int,
    nano: int,
    monthly_nano: int | None = None,
) -> AutoTopUp:
    """Set it, and let it go on if it was paused. Raises ValidationError, Conflict."""
    currency = wallet.profile_of(organization).currency
    if enabled:
        if settings.ENV.stripe_tax:  # which is calculated on Stripe's page, where somebody is
            raise Conflict(_("Where tax is added to payments, top-ups are made by hand."))
        if not amounts.can_be_paid(nano, currency):
            raise ValidationError({"adds": checkout.limits_sentence(currency)})
        if threshold_nano < 0 or threshold_nano > amounts.limits(currency)[1]:
            raise ValidationError({"threshold": _("Enter a smaller amount.")})
        if monthly_nano is not None and monthly_nano < nano:
            raise ValidationError(
                {"monthly": _("In a month at least one top-up has to be possible.")}
            )
        if default_card(organization) is None:
            raise Conflict(_("Save a card first; automatic top-ups are paid by it."))
    wanted = {
        "enabled": enabled,
        "threshold_nano": max(0, threshold_nano),
        "nano": max(0, nano),
        "monthly_nano": monthly_nano,
        "paused_at": None,
        "failure": "",
    }
    return AutoTopUp.objects.update_or_create(organization=organization, defaults=wanted)[0]


def default_card(organization: Organization) -> SavedCard | None:
    """The card that pays."""
    mine = SavedCard.objects.for_organization(organization)
    card: SavedCard | None = mine.filter(is_default=True, removed_at=None).first()
    return card


def run() -> int:
    """Begin what is needed, and bring what was begun to its end; how many began."""
    begun = sum(consider(each) for each in _awake())
    outbox.work()
    finish()
    return begun


def consider(wish: AutoTopUp) -> bool:
    """Begin a top-up, if one is needed; whether one has begun."""
    try:
        with transaction.atomic():
            return _begin(wish)
    except IntegrityError:
        return False  # another process has just begun it


def finish() -> None:
    """Credit what was paid, without waiting to be told."""
    open_ = TopUp.objects.filter(source=TopUp.Source.AUTOMATIC, state=S.OPEN)
    for top_up in open_.exclude(intent_id=""):
        try:
            crediting.settle_intent(top_up.intent_id)
        except (Unavailable, NotKnown, NotOurs, Mismatch) as problem:
            log.warning("automatic top-up %s waits: %s", top_up.id, problem)


def _awake() -> list[AutoTopUp]:
    on = AutoTopUp.objects.filter(enabled=True, paused_at=None)
    return list(on.filter(organization__billing_profile__postpaid=False))


def _begin(wish: AutoTopUp) -> bool:
    wish = (
        AutoTopUp.objects.select_for_update(of=("self",))
        .select_related("organization")
        .get(organization=wish.organization_id)
    )
    organization = wish.organization
    profile = wallet.profile_of(organization)
    mine = TopUp.objects.filter(organization=organization, source=TopUp.Source.AUTOMATIC)
    card = default_card(organization)
    if (
        not wish.enabled
        or wish.paused_at is not None
        or card is None
        or not profile.stripe_customer_id
        or mine.filter(state=S.OPEN).exists()
        or wallet.funds(organization).available >= wish.threshold_nano
        or not _within_month(wish)
    ):
        return False
    top_up = mine.model.objects.create(
        organization=organization,
        source=TopUp.Source.AUTOMATIC,
        nano=wish.nano,
        currency=profile.currency,
    )
    ours = metadata(organization=organization.id, top_up=top_up.id)
    StripeCall.enter(
        "intent.create",
        {
            "amount": stripe_amount(top_up.nano, top_up.currency),
            "currency": top_up.currency.lower(),
            "customer": profile.stripe_customer_id,
            "payment_method": card.id,
            "allowed_payment_method_types": ["card"],
            "off_session": True,
            "confirm": True,
            "description": _("Automatic top-up"),
            "metadata": ours,
        },
        organization=organization,
        about=top_up.id,
    )
    return True


def _within_month(wish: AutoTopUp) -> bool:
    if wish.monthly_nano is None:
        return True
    now = timezone.now().astimezone(UTC)
    month = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    paid = TopUp.objects.filter(
        organization=wish.organization_id,
        source=TopUp.Source.AUTOMATIC,
        state__in=[S.PAID, S.OPEN],
        created_at__gte=month,
    ).aggregate(all=Sum("nano"))["all"]
    return (paid or 0) + wish.nano <= wish.monthly_nano
