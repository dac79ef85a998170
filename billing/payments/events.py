"""What an event means: which object to look at again. Nothing else of it is believed."""

import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from django.utils import timezone
from stripe import StripeClient

from billing.models import StripeEvent
from billing.payments import cards, crediting, postpaid, takebacks
from billing.payments.fetching import Mismatch, NotKnown, NotOurs, fetch, value_of

log = logging.getLogger(__name__)

CAUGHT_UP = timedelta(days=3)  # how far back events are looked for that did not reach us

_SETTLE_SESSION = {
    "payment": crediting.settle_session,
    "setup": cards.settle_session,
}


def _session(found: Any) -> None:
    mode = value_of(found, "mode")
    if mode == "subscription":
        if subscription := value_of(found, "subscription"):
            postpaid.settle_subscription(subscription)
    elif mode in _SETTLE_SESSION:
        _SETTLE_SESSION[mode](found["id"])


def _by_id(settle: Callable[[str], object]) -> Callable[[Any], None]:
    def handle(found: Any) -> None:
        settle(found["id"])

    return handle


HANDLERS: dict[str, Callable[[Any], None]] = {
    "checkout.session.completed": _session,
    "checkout.session.async_payment_succeeded": _session,
    "checkout.session.async_payment_failed": _session,
    "checkout.session.expired": _session,
    "payment_intent.succeeded": _by_id(crediting.settle_intent),
    "payment_intent.payment_failed": _by_id(crediting.settle_intent),
    "payment_intent.canceled": _by_id(crediting.settle_intent),
    "refund.created": _by_id(takebacks.settle_refund),
    "refund.updated": _by_id(takebacks.settle_refund),
    "refund.failed": _by_id(takebacks.settle_refund),
    "charge.dispute.created": _by_id(takebacks.settle_dispute),
    "charge.dispute.updated": _by_id(takebacks.settle_dispute),
    "charge.dispute.closed": _by_id(takebacks.settle_dispute),
    "charge.dispute.funds_withdrawn": _by_id(takebacks.settle_dispute),
    "charge.dispute.funds_reinstated": _by_id(takebacks.settle_dispute),
    "payment_method.updated": _by_id(cards.settle_method),
    "payment_method.automatically_updated": _by_id(cards.settle_method),
    "payment_method.detached": _by_id(cards.settle_method),
    "customer.subscription.created": _by_id(postpaid.settle_subscription),
    "customer.subscription.updated": _by_id(postpaid.settle_subscription),
    "customer.subscription.deleted": _by_id(postpaid.settle_subscription),
    "invoice.paid": _by_id(postpaid.settle_invoice),
}


def receive(event: Any) -> bool:
    """Do what a verified event asks for, once; False where it is to come again later.

    It is marked done after its effect has been committed: whatever happens in between, it comes
    again, and does nothing a second time. Raises Away.
    """
    handler = HANDLERS.get(event.type)
    if handler is None:
        return True
    found = event.data.object
    created = datetime.fromtimestamp(event.created, UTC)
    known = StripeEvent.note(event.id, event.type, str(value_of(found, "id") or ""), created)
    if known.done_at is not None:
        return True
    problem = ""
    try:
        handler(found)
    except NotOurs:
        problem = "not ours"
    except Mismatch as mismatch:
        # It will not get better: a person has to look, and the daily check says so too.
        problem = f"does not match: {mismatch}"
        log.error("Stripe's %s %s is not what we asked for: %s", event.type, event.id, mismatch)
    except NotKnown as unknown:
        StripeEvent.objects.filter(id=event.id).update(problem=f"not known yet: {unknown}"[:200])
        return False
    StripeEvent.objects.filter(id=event.id).update(done_at=timezone.now(), problem=problem[:200])
    return True


def catch_up() -> int:
    """Fetch what did not reach us: events of the last days that Stripe could not deliver, as it
    cannot to a laptop; how many there were. Raises Away, NotSetUp."""
    since = int((timezone.now() - CAUGHT_UP).timestamp())
    kinds = sorted(HANDLERS)
    missed = []
    for first in range(0, len(kinds), 20):  # Stripe takes so many at a time
        asked: Any = {
            "created": {"gte": since},
            "types": kinds[first : first + 20],
            "delivery_success": False,
            "limit": 100,
        }
        missed += fetch(partial(_listed, asked))
    done = set(
        StripeEvent.objects.filter(id__in=[each.id for each in missed])
        .exclude(done_at=None)
        .values_list("id", flat=True)
    )
    new = [each for each in reversed(missed) if each.id not in done]
    for event in new:
        receive(event)
    return len(new)


def _listed(asked: Any, stripe: StripeClient) -> list[Any]:
    return list(stripe.v1.events.list(asked).auto_paging_iter())


def forget(now: datetime | None = None) -> int:
    """Delete what Stripe will not send again; how many."""
    old = (now or timezone.now()) - timedelta(days=90)
    return StripeEvent.objects.filter(received_at__lt=old).exclude(done_at=None).delete()[0]
