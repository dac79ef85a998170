"""Stripe's own pages for customers: cards, addresses, and the invoices that Stripe made."""

from django.utils.translation import gettext as _

from accounts.models import Organization
from billing.models import StripeCall
from billing.payments import customers, outbox
from portal.lib.errors import Conflict


def begin(organization: Organization, email: str, return_url: str) -> str:
    """The address of the page. Raises Away, Conflict, NotSetUp. Not in a transaction."""
    call = StripeCall.enter(
        "portal.create",
        {"customer": customers.of(organization, email), "return_url": return_url},
        organization=organization,
        interactive=True,
    )
    call = outbox.send_now(call)
    if call.state == StripeCall.State.REFUSED:
        raise Conflict(_("The payment service does not take this: %s") % call.problem)
    return str(call.answer["url"])
