"""Every day, Stripe's payments beside the books: object by object, each difference with its cause.

What was paid and not credited (an event that never came) is credited now, by the same way as ever.
The last days are looked at again, since some payments take days to arrive.
"""

import logging
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from functools import partial
from typing import Any

from django.db.models import Q
from django.utils import timezone
from django.utils.translation import gettext_noop
from stripe import StripeClient

from billing.ledger import Kind
from billing.models import LedgerTransaction, PaymentCheck, Subscription, TakenBack, TopUp
from billing.money import nano_of_stripe
from billing.payments import crediting, postpaid, takebacks
from billing.payments.fetching import Mismatch, NotKnown, NotOurs, fetch, id_of, is_ours
from billing.payments.takebacks import DISPUTED, NOT_REFUNDED

log = logging.getLogger(__name__)

DAYS = 7  # that each check looks at
UNDER_WAY = timedelta(minutes=30)  # in which an event may still be on its way

CAUSES = {
    "under_way": gettext_noop("Paid a moment ago; it is about to be credited."),
    "credited_now": gettext_noop("Stripe's message had not arrived; it has been credited now."),
    "amount": gettext_noop("Stripe and the books tell different amounts."),
    "not_credited": gettext_noop("Paid at Stripe, but it could not be credited."),
    "not_at_stripe": gettext_noop("In the books, but Stripe knows of no such payment."),
    "no_payment": gettext_noop("An entry in the books belongs to no payment."),
}
EXPLAINED = frozenset({"under_way", "credited_now"})


@dataclass
class _Day:
    """The sums of one day and currency, in nano-units."""

    stripe: int = 0
    ledger: int = 0
    seen: int = 0
    differences: list[dict[str, Any]] = field(default_factory=list)

    def differ(self, cause: str, id: str, stripe: int, ledger: int, organization: Any = "") -> None:
        self.differences.append(
            {
                "cause": cause,
                "id": id,
                "organization": str(organization),
                "stripe_nano": stripe,
                "ledger_nano": ledger,
            }
        )


Days = dict[tuple[date, str], _Day]


def check(today: date | None = None) -> list[PaymentCheck]:
    """Check the last days, up to now; one row for each day and currency. Raises Away, NotSetUp."""
    now = timezone.now()
    last = today or now.astimezone(UTC).date()
    start = datetime.combine(last - timedelta(days=DAYS), time(), UTC)
    days: Days = defaultdict(_Day)
    seen = set(_payments(days, start, now))
    _take_backs(days, start)
    _invoices(days, start)
    _only_in_the_books(days, start, seen)
    return [_kept(day, currency, found) for (day, currency), found in sorted(days.items())]


def _kept(day: date, currency: str, found: _Day) -> PaymentCheck:
    unexplained = [each for each in found.differences if each["cause"] not in EXPLAINED]
    if unexplained:
        log.error("payments of %s: %s unexplained differences", day, len(unexplained))
    wanted = {
        "stripe_nano": found.stripe,
        "ledger_nano": found.ledger,
        "objects_seen": found.seen,
        "differences": found.differences,
        "unexplained": len(unexplained),
    }
    rows = PaymentCheck.objects
    return rows.update_or_create(day=day, currency=currency, defaults=wanted)[0]


def _all(service: str, start: datetime, **more: Any) -> Iterator[Any]:
    asked = {"created": {"gte": int(start.timestamp())}, "limit": 100} | more
    yield from fetch(partial(_listed, service, asked))


def _listed(service: str, asked: Any, stripe: StripeClient) -> list[Any]:
    return list(getattr(stripe.v1, service).list(asked).auto_paging_iter())


def _day(days: Days, made: Any) -> _Day:
    return days[datetime.fromtimestamp(made.created, UTC).date(), made.currency.upper()]


def _payments(days: Days, start: datetime, now: datetime) -> Iterator[str]:
    """Payments of top-ups; their ids."""
    for intent in _all("payment_intents", start):
        if not is_ours(intent) or intent.status != "succeeded":
            continue
        yield intent.id
        day = _day(days, intent)
        paid = nano_of_stripe(intent.amount_received, intent.currency.upper())
        day.stripe += paid
        day.seen += 1
        booked, organization = _booked(intent.id)
        if booked == 0:
            booked = _credit_now(day, intent, paid, now)
        elif booked != paid:
            day.differ("amount", intent.id, paid, booked, organization)
        day.ledger += booked


def _booked(intent_id: str) -> tuple[int, str]:
    top_up = TopUp.objects.filter(intent_id=intent_id, state=TopUp.State.PAID).first()
    if top_up is None or top_up.transaction is None:
        return 0, ""
    return top_up.nano + top_up.tax_nano, str(top_up.organization_id)


def _credit_now(day: _Day, intent: Any, paid: int, now: datetime) -> int:
    if now - datetime.fromtimestamp(intent.created, UTC) < UNDER_WAY:
        day.differ("under_way", intent.id, paid, 0)
        return 0
    try:
        _settle(intent)
    except (NotKnown, NotOurs, Mismatch) as problem:
        log.error("payment %s is not credited: %r", intent.id, problem)
    booked, organization = _booked(intent.id)
    cause = "credited_now" if booked == paid else "not_credited"
    day.differ(cause, intent.id, paid, booked, organization)
    return booked


def _settle(intent: Any) -> None:
    """By its session, if it has one."""
    asked: Any = {"payment_intent": intent.id}
    sessions = fetch(lambda stripe: stripe.v1.checkout.sessions.list(asked)).data
    if sessions:
        crediting.settle_session(sessions[0].id)
    else:
        crediting.settle_intent(intent.id)


def _take_backs(days: Days, start: datetime) -> None:
    kinds: Any = (
        ("refunds", takebacks.settle_refund, lambda each: each.status not in NOT_REFUNDED),
        ("disputes", takebacks.settle_dispute, lambda each: each.status in DISPUTED),
    )
    for service, settle, is_gone in kinds:
        for each in _all(service, start):
            try:
                taken = settle(each.id)
            except NotOurs:
                continue
            except NotKnown:
                taken = None
            day = _day(days, each)
            gone = nano_of_stripe(each.amount, each.currency.upper()) if is_gone(each) else 0
            booked = taken.nano if taken else 0
            day.stripe -= gone
            day.ledger -= booked
            day.seen += 1
            if gone != booked:
                cause = "amount" if taken else "not_credited"
                day.differ(cause, each.id, -gone, -booked, taken.organization_id if taken else "")


def _invoices(days: Days, start: datetime) -> None:
    ours = dict(Subscription.objects.values_list("stripe_id", "organization_id"))
    if not ours:
        return
    for invoice in _all("invoices", start, status="paid"):
        details = invoice.parent.subscription_details if invoice.parent else None
        if details is None or id_of(details.subscription) not in ours or not invoice.total:
            continue
        day = _day(days, invoice)
        paid = nano_of_stripe(invoice.amount_paid, invoice.currency.upper())
        known = LedgerTransaction.objects.filter(key=f"invoice:{invoice.id}").exists()
        try:
            postpaid.settle_invoice(invoice.id)
        except (NotKnown, NotOurs, Mismatch) as problem:
            log.error("invoice %s is not booked: %r", invoice.id, problem)
        booked = _cash_of(Q(key__startswith=f"invoice:{invoice.id}"))
        day.stripe += paid
        day.ledger += booked
        day.seen += 1
        if booked != paid:
            day.differ("amount", invoice.id, paid, booked)
        elif not known:
            day.differ("credited_now", invoice.id, paid, booked)


def _cash_of(which: Q) -> int:
    """What came in by these transactions."""
    rows = LedgerTransaction.objects.filter(which, entries__account__kind="cash")
    return -sum(rows.values_list("entries__nano", flat=True))


def _only_in_the_books(days: Days, start: datetime, seen: set[str]) -> None:
    """Credit for which there is no payment at Stripe would be money that nobody paid."""
    paid = TopUp.objects.filter(state=TopUp.State.PAID, settled_at__gte=start)
    for top_up in paid.exclude(intent_id__in=seen).iterator():
        if _is_paid(top_up):
            continue  # an older payment, which took its days
        assert top_up.settled_at is not None  # noqa: S101  paid
        nano = top_up.nano + top_up.tax_nano
        day = days[top_up.settled_at.astimezone(UTC).date(), top_up.currency]
        day.ledger += nano
        day.differ("not_at_stripe", top_up.intent_id, 0, nano, top_up.organization_id)
    by_payment = Q(key__startswith="checkout:") | Q(key__startswith="intent:")
    posted = LedgerTransaction.objects.filter(
        by_payment, kind=Kind.TOPUP, created_at__gte=start, top_up=None
    ).exclude(key__endswith=":tax")
    for each in posted.iterator():
        nano = _cash_of(Q(id=each.id))
        day = days[each.created_at.astimezone(UTC).date(), each.currency]
        day.ledger += nano
        day.differ("no_payment", each.key, 0, nano, each.organization_id)


def _is_paid(top_up: TopUp) -> bool:
    if not top_up.intent_id:
        return False
    try:
        intent = fetch(lambda stripe: stripe.v1.payment_intents.retrieve(top_up.intent_id))
    except NotOurs:
        return False
    return is_ours(intent) and intent.status == "succeeded"


def open_refunds() -> int:
    """Refunds of ours that Stripe has not answered yet, for the operator's page."""
    return TakenBack.objects.filter(kind=TakenBack.Kind.REFUND, status="").count()
