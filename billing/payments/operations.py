"""What can be asked of Stripe, one entry each: how to send it, how to find out whether it was done,
and what an answer means for our own rows."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from stripe import RequestOptions, StripeClient, StripeObject

from billing.models import BillingProfile, Installation, StripeCall, TakenBack, TopUp
from billing.payments.fetching import metadata_of

CLOCKS_DIFFER = timedelta(minutes=10)


def _nothing(call: StripeCall, *_: Any) -> None:
    return None


@dataclass(frozen=True)
class Operation:
    """`find` gives what the call has made at Stripe, if it has; None too where sending it again
    does no harm. `answered` and `refused` run in the transaction that ends the call."""

    send: Callable[[StripeClient, StripeCall, Any, RequestOptions], StripeObject]
    find: Callable[[StripeClient, StripeCall], StripeObject | None] = lambda client, call: None
    answered: Callable[[StripeCall, StripeObject], None] = _nothing
    refused: Callable[[StripeCall], None] = _nothing


def metadata(**ids: Any) -> dict[str, str]:
    """What our objects at Stripe carry: whose they are, and what for."""
    return {"modelport": Installation.mark()} | {name: str(id) for name, id in ids.items()}


def _made(service: Any, call: StripeCall, *same: str) -> StripeObject | None:
    """What the call has made, among all that was made since, by either clock."""
    asked: dict[str, Any] = {"created": {"gte": int((call.created_at - CLOCKS_DIFFER).timestamp())}}
    asked |= {name: call.params[name] for name in same}
    for each in service.list(asked).auto_paging_iter():
        if metadata_of(each).get("call") == str(call.id):
            found: StripeObject = each
            return found
    return None


def _customer_made(call: StripeCall, answer: Any) -> None:
    BillingProfile.objects.filter(organization=call.organization).update(
        stripe_customer_id=answer.id
    )


def _row(call: StripeCall) -> UUID:
    """The id of the row of ours that it is made for; of none, where it is made for none."""
    return call.about or UUID(int=0)


def _session_made(call: StripeCall, answer: Any) -> None:
    TopUp.objects.filter(id=_row(call), session_id="").update(session_id=answer.id)


def _top_up_refused(call: StripeCall) -> None:
    if top_up := TopUp.objects.select_for_update().filter(id=_row(call)).first():
        top_up.fail(call.failure)


def _intent_made(call: StripeCall, answer: Any) -> None:
    TopUp.objects.filter(id=_row(call), intent_id="").update(intent_id=answer.id)


def _refund_made(call: StripeCall, answer: Any) -> None:
    made = TakenBack.objects.filter(id=_row(call), stripe_id="")
    made.update(stripe_id=answer.id, status=answer.status or "")


OPERATIONS = {
    "customer.create": Operation(
        lambda client, call, params, options: client.v1.customers.create(params, options),
        lambda client, call: _made(client.v1.customers, call),
        _customer_made,
    ),
    "customer.update": Operation(
        lambda client, call, params, options: client.v1.customers.update(
            call.target, params, options
        ),
    ),
    "session.create": Operation(
        lambda client, call, params, options: client.v1.checkout.sessions.create(params, options),
        lambda client, call: _made(client.v1.checkout.sessions, call, "customer"),
        _session_made,
        _top_up_refused,
    ),
    "intent.create": Operation(
        lambda client, call, params, options: client.v1.payment_intents.create(params, options),
        lambda client, call: _made(client.v1.payment_intents, call, "customer"),
        _intent_made,
        _top_up_refused,
    ),
    "refund.create": Operation(
        lambda client, call, params, options: client.v1.refunds.create(params, options),
        lambda client, call: _made(client.v1.refunds, call, "payment_intent"),
        _refund_made,
    ),
    "portal.create": Operation(
        lambda client, call, params, options: client.v1.billing_portal.sessions.create(
            params, options
        ),
    ),
    "card.detach": Operation(
        lambda client, call, params, options: client.v1.payment_methods.detach(
            call.target, params, options
        ),
    ),
    "meter.create": Operation(
        lambda client, call, params, options: client.v1.billing.meters.create(params, options),
        lambda client, call: next(
            (
                meter
                for meter in client.v1.billing.meters.list({}).auto_paging_iter()
                if meter.event_name == call.params["event_name"]
            ),
            None,
        ),
    ),
    "price.create": Operation(
        lambda client, call, params, options: client.v1.prices.create(params, options),
        lambda client, call: _made(client.v1.prices, call),
    ),
    "subscription.create": Operation(
        lambda client, call, params, options: client.v1.subscriptions.create(params, options),
        lambda client, call: _made(client.v1.subscriptions, call, "customer"),
    ),
    # The hour's last event counts, whichever was sent how often.
    "meter_event.create": Operation(
        lambda client, call, params, options: client.v1.billing.meter_events.create(
            params, options
        ),
    ),
}
