"""Organizations that pay later: a monthly subscription, billed by what its meter was told.

The meter counts in what people pay (cents, whole yen), so that Stripe's invoice comes to exactly
what the books say. It is told the whole of each hour; of several reports of an hour the last counts
(`event_time_window`), so a repeated or corrected one is harmless. What an hour's cents leave over
goes to the next hour: over all hours they add up to the rounded sum, not to a sum of roundings.
"""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models import Sum
from django.db.models.functions import TruncHour
from django.utils import timezone
from django.utils.translation import gettext as _

from accounts.models import Organization
from billing import ledger, wallet
from billing.ledger import Kind
from billing.models import Entry, LedgerAccount, MeterReport, StripeCall, Subscription
from billing.money import minor, nano_of_minor, nano_of_stripe, stripe_amount
from billing.payments import customers, outbox
from billing.payments.client import Away
from billing.payments.fetching import (
    Mismatch,
    NotKnown,
    NotOurs,
    check_mode,
    fetch,
    id_of,
    is_ours,
    metadata_of,
)
from billing.payments.operations import metadata
from portal.lib.errors import Conflict

HOUR = timedelta(hours=1)
LATE = timedelta(minutes=5)  # after an hour's end, until which its usage may still be written
LOOK_BACK = timedelta(days=3)  # hours that are looked at again
PAID = "invoice:in_"  # keys of what was paid of Stripe's invoices
BILLED = frozenset({"active", "past_due", "unpaid", "trialing"})


def start(organization: Organization, *, days_until_due: int = 30) -> None:
    """Send an invoice every month, due in so many days. Raises Away, Conflict, NotSetUp.

    Not in a transaction. Only an operator decides who may pay later.
    """
    profile = wallet.profile_of(organization)
    if not profile.postpaid:
        raise Conflict(_("This organization pays in advance."))
    customer = customers.of(organization)
    price = _price(profile.currency)
    call = StripeCall.enter(
        "subscription.create",
        {
            "customer": customer,
            "items": [{"price": price}],
            "collection_method": "send_invoice",
            "days_until_due": days_until_due,
            "metadata": metadata(organization=organization.id),
        },
        organization=organization,
        purpose=f"subscription:{organization.id}",
    )
    settle_subscription(_done(call).answer["id"])


def begin(organization: Organization, email: str, return_url: str) -> str:
    """The address of the page where a card is given that is charged every month. Raises Away,
    Conflict, NotSetUp. Not in a transaction."""
    profile = wallet.profile_of(organization)
    if not profile.postpaid:
        raise Conflict(_("This organization pays in advance."))
    ours = metadata(organization=organization.id)
    call = StripeCall.enter(
        "session.create",
        {
            "mode": "subscription",
            "customer": customers.of(organization, email),
            "line_items": [{"price": _price(profile.currency)}],
            "subscription_data": {"metadata": ours},
            "metadata": ours,
            "success_url": return_url,
            "cancel_url": return_url,
        },
        organization=organization,
        interactive=True,
    )
    return str(_done(call).answer["url"])


def settle_subscription(subscription_id: str) -> Subscription:
    """The subscription as it is now. Raises Away, NotKnown, NotOurs, NotSetUp."""
    found = fetch(lambda stripe: stripe.v1.subscriptions.retrieve(subscription_id))
    if not is_ours(found):
        raise NotOurs(subscription_id)
    organization = _organization(metadata_of(found).get("organization", ""))
    known = Subscription.objects.filter(organization=organization).first()
    ended = found.status in {"canceled", "incomplete_expired"}
    if known is not None and known.stripe_id != found.id and ended:
        return known  # an old one; there is a newer
    since = datetime.fromtimestamp(found.start_date, UTC)
    if known is not None and known.stripe_id == found.id:
        since = known.since
    wanted = {
        "stripe_id": found.id,
        "status": found.status,
        "since": since.replace(minute=0, second=0, microsecond=0),
    }
    return Subscription.objects.update_or_create(organization=organization, defaults=wanted)[0]


def settle_invoice(invoice_id: str) -> None:
    """Book a paid invoice against what is owed, once. Raises Away, Mismatch, NotKnown, NotOurs."""
    invoice = fetch(lambda stripe: stripe.v1.invoices.retrieve(invoice_id))
    details = invoice.parent.subscription_details if invoice.parent else None
    if details is None:
        raise NotOurs(invoice_id)
    known = Subscription.objects.select_related("organization")
    subscription = known.filter(stripe_id=id_of(details.subscription)).first()
    if subscription is None:
        if (metadata_of(details)).get("modelport") == metadata()["modelport"]:
            raise NotKnown(invoice_id)
        raise NotOurs(invoice_id)
    if invoice.status != "paid":
        return
    check_mode(invoice)
    _book(subscription.organization, invoice)


@transaction.atomic
def _book(organization: Organization, invoice: Any) -> None:
    currency = wallet.profile_of(organization).currency
    if invoice.currency.upper() != currency:
        raise Mismatch("currency")
    net = invoice.total_excluding_tax if invoice.total_excluding_tax is not None else invoice.total
    if invoice.amount_paid != invoice.total or net > invoice.total:
        raise Mismatch("amount")
    key, refers_to = f"invoice:{invoice.id}", {"invoice": invoice.id}
    if net:
        wallet.pay_in(
            organization,
            nano_of_stripe(net, currency),
            Kind.INVOICE,
            key,
            description=invoice.number or "",
            refers_to=refers_to,
        )
    if tax := nano_of_stripe(invoice.total - net, currency):
        cash = ledger.account(LedgerAccount.Kind.CASH, currency)
        taxes = ledger.account(LedgerAccount.Kind.TAX, currency)
        ledger.post(
            Kind.INVOICE,
            f"{key}:tax",
            {cash: -tax, taxes: tax},
            organization=organization,
            refers_to=refers_to,
        )


def tell(now: datetime | None = None) -> int:
    """Report the hours that are over and are not yet told, or not as they are now; how many."""
    now = now or timezone.now()
    billed = Subscription.objects.filter(status__in=BILLED).select_related("organization")
    return sum(_tell_of(subscription, now) for subscription in billed)


@transaction.atomic
def _tell_of(subscription: Subscription, now: datetime) -> int:
    organization = subscription.organization
    profile = wallet.profile_of(organization)
    # One at a time: two at once would both tell of the same hours.
    Subscription.objects.select_for_update().get(organization=organization)
    over = (now - LATE).astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    first = max(subscription.since, over - LOOK_BACK)
    reports = MeterReport.objects.filter(organization=organization)
    told = reports.filter(hour__gte=subscription.since, hour__lt=first)
    before = told.aggregate(all=Sum("amount"))["all"] or 0
    owed = _owed(organization, profile.currency, subscription.since, first)
    hours = _owed_by_hour(organization, profile.currency, first, over)
    known = {report.hour: report for report in reports.filter(hour__gte=first, hour__lt=over)}
    changed = 0
    for hour in sorted(hours.keys() | known.keys()):
        owed += hours.get(hour, 0)
        amount = max(0, minor(max(0, owed), profile.currency)[0] - before)
        changed += _report(subscription, profile.stripe_customer_id, hour, amount, known)
        before += amount
    return changed


def _report(
    subscription: Subscription,
    customer: str,
    hour: datetime,
    amount: int,
    known: dict[datetime, MeterReport],
) -> bool:
    organization = subscription.organization
    report = known.get(hour)
    if amount == (report.amount if report else 0):
        return False
    if report is None:
        report = MeterReport(organization=organization, hour=hour)
    elif StripeCall.objects.filter(about=report.id, state=StripeCall.State.WAITING).exists():
        return False  # one after the other: of two on their way, the older could arrive last
    report.currency = wallet.profile_of(organization).currency
    report.amount = amount
    report.save()
    StripeCall.enter(
        "meter_event.create",
        {
            "event_name": _event_name(),
            "identifier": f"{report.id}:{StripeCall.objects.filter(about=report.id).count()}",
            # Within the hour, and not before a subscription that began in its midst.
            "timestamp": int((hour + HOUR).timestamp()) - 1,
            "payload": {"stripe_customer_id": customer, "value": str(amount)},
        },
        organization=organization,
        about=report.id,
    )
    return True


def _owing(organization: Organization, currency: str) -> Any:
    """Entries of what came to be owed: usage, and what our own invoices round and tax. What was
    paid of Stripe's invoices was owed all the same."""
    return Entry.objects.filter(
        account__organization=organization,
        account__kind=LedgerAccount.Kind.RECEIVABLE,
        account__currency=currency,
    ).exclude(transaction__kind=Kind.INVOICE, transaction__key__startswith=PAID)


def _owed(organization: Organization, currency: str, start: datetime, end: datetime) -> int:
    within = _owing(organization, currency).filter(
        transaction__created_at__gte=start, transaction__created_at__lt=end
    )
    return -int(within.aggregate(all=Sum("nano"))["all"] or 0)


def _owed_by_hour(
    organization: Organization, currency: str, start: datetime, end: datetime
) -> dict[datetime, int]:
    within = _owing(organization, currency).filter(
        transaction__created_at__gte=start, transaction__created_at__lt=end
    )
    by_hour = within.annotate(hour=TruncHour("transaction__created_at", tzinfo=UTC))
    sums = by_hour.values("hour").annotate(all=Sum("nano")).values_list("hour", "all")
    return {hour: -nano for hour, nano in sums}


def _event_name() -> str:
    """One meter for each installation, though several may share an account."""
    return f"modelport_{metadata()['modelport'].replace('-', '')}"


def _meter() -> str:
    call = StripeCall.enter(
        "meter.create",
        {
            "display_name": "Modelport",
            "event_name": _event_name(),
            "default_aggregation": {"formula": "sum"},
            "event_time_window": "hour",
        },
        purpose="meter",
    )
    return str(_done(call).answer["id"])


def _price(currency: str) -> str:
    """One minor unit of the currency for each that the meter counts."""
    one = stripe_amount(nano_of_minor(1, currency), currency)
    call = StripeCall.enter(
        "price.create",
        {
            "currency": currency.lower(),
            "unit_amount": one,
            "recurring": {"interval": "month", "usage_type": "metered", "meter": _meter()},
            "tax_behavior": "exclusive",
            "product_data": {"name": _("Usage of Modelport")},
            "metadata": metadata(),
        },
        purpose=f"price:{currency}",
    )
    return str(_done(call).answer["id"])


def _done(call: StripeCall) -> StripeCall:
    """Raises Away, Conflict."""
    call = outbox.send_now(call)
    if call.state == StripeCall.State.REFUSED:
        raise Conflict(_("The payment service does not take this: %s") % call.problem)
    if call.state != StripeCall.State.DONE:
        raise Away
    return call


def _organization(id: str) -> Organization:
    try:
        return Organization.objects.get(id=UUID(id))
    except (Organization.DoesNotExist, ValueError) as error:
        raise NotKnown(id) from error
