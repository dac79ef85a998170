"""Organizations as Stripe's customers."""

from typing import Any

from django.utils.translation import gettext as _

from accounts.models import Organization
from billing import wallet
from billing.models import BillingProfile, StripeCall
from billing.payments import outbox
from billing.payments.operations import metadata
from portal.lib.errors import Conflict


def of(organization: Organization, email: str = "") -> str:
    """Stripe's id of the organization, made there where it is new. Raises Away, Conflict, NotSetUp.

    Not in a transaction.
    """
    profile = wallet.profile_of(organization)
    if not profile.stripe_customer_id:
        params = _described(profile) | {"metadata": metadata(organization=organization.id)}
        if email and "email" not in params:
            params["email"] = email
        if profile.tax_id and profile.tax_id_kind:
            params["tax_id_data"] = [{"type": profile.tax_id_kind, "value": profile.tax_id}]
        call = StripeCall.enter(
            "customer.create",
            params,
            organization=organization,
            purpose=f"customer:{organization.id}",
        )
        call = outbox.send_now(call)
        if call.state == StripeCall.State.REFUSED:
            raise Conflict(
                _("The payment service does not take the details of your organization: %s")
                % call.problem
            )
        profile.refresh_from_db()
    return profile.stripe_customer_id


def push(organization: Organization) -> None:
    """Tell Stripe of a changed name or address: by the outbox, so it may be called in the
    transaction that changes it."""
    profile = wallet.profile_of(organization)
    if profile.stripe_customer_id:
        StripeCall.enter(
            "customer.update",
            _described(profile),
            organization=organization,
            target=profile.stripe_customer_id,
        )


def _described(profile: BillingProfile) -> dict[str, Any]:
    said: dict[str, Any] = {"name": profile.legal_name or profile.organization.name}
    if profile.invoice_email:
        said["email"] = profile.invoice_email
    if profile.country:
        said["address"] = {"country": profile.country, "line1": profile.address[:200]}
    return said
