"""What was paid gets into the books: once per payment, after a look at Stripe's own object.

Both ways here (a page of Stripe's that somebody paid on, a saved card that we charged) end in
`wallet.pay_in`, with the id of the one as its key.
"""

import logging
from typing import Any
from uuid import UUID

from django.db import transaction
from stripe.checkout import Session

from billing import ledger, wallet
from billing.ledger import Kind
from billing.models import LedgerAccount, TopUp
from billing.money import nano_of_stripe, stripe_amount
from billing.payments import cards
from billing.payments.fetching import (
    Mismatch,
    NotKnown,
    NotOurs,
    check_mode,
    fetch,
    id_of,
    our_id,
    value_of,
)

__all__ = ["Mismatch", "NotKnown", "NotOurs", "settle_intent", "settle_session"]

log = logging.getLogger(__name__)


def settle_session(session_id: str) -> TopUp:
    """Do what the session, as it is now, says of its top-up; nothing where that is done already.

    Raises Away, NotKnown, NotOurs, Mismatch, NotSetUp.
    """
    expand = ["payment_intent.payment_method"]
    session = fetch(
        lambda stripe: stripe.v1.checkout.sessions.retrieve(session_id, {"expand": expand})
    )
    with transaction.atomic():
        top_up = _held(our_id(session, "top_up"))
        if top_up.state != TopUp.State.PAID:
            _follow_session(top_up, session)
    cards.learn_of_payment(top_up, session.payment_intent)
    return top_up


def _follow_session(top_up: TopUp, session: Session) -> None:
    _note_ids(top_up, session.id, id_of(session.payment_intent))
    if session.payment_status == "paid":
        _credit(top_up, f"checkout:{session.id}", {"checkout_session": session.id}, session)
    elif session.status == "expired":
        top_up.expire()
    elif session.status == "complete":
        _fail_if_over(top_up, session.payment_intent)


def settle_intent(intent_id: str) -> TopUp:
    """The same for a payment by a saved card; those that a session of ours made are its own.

    Raises Away, NotKnown, NotOurs, Mismatch, NotSetUp.
    """
    intent = fetch(lambda stripe: stripe.v1.payment_intents.retrieve(intent_id))
    with transaction.atomic():
        top_up = _held(our_id(intent, "top_up"))
        if top_up.source != TopUp.Source.AUTOMATIC or top_up.state == TopUp.State.PAID:
            return top_up
        _note_ids(top_up, "", intent.id)
        if intent.status == "succeeded":
            _credit(top_up, f"intent:{intent.id}", {"payment_intent": intent.id}, intent)
        else:
            _fail_if_over(top_up, intent)
    return top_up


def _held(top_up_id: str) -> TopUp:
    """The row, locked, so that what comes twice comes one after the other."""
    try:
        known = TopUp.objects.select_for_update(of=("self",)).select_related("organization")
        return known.get(id=UUID(top_up_id))
    except (TopUp.DoesNotExist, ValueError) as error:
        raise NotKnown(top_up_id) from error


def _note_ids(top_up: TopUp, session_id: str, intent_id: str) -> None:
    for name, id_ in (("session_id", session_id), ("intent_id", intent_id)):
        known = getattr(top_up, name)
        if id_ and known and known != id_:
            raise Mismatch(name)
        if id_ and not known:
            setattr(top_up, name, id_)
            top_up.save(update_fields=[name])


def _credit(top_up: TopUp, key: str, refers_to: dict[str, str], paid: Any) -> None:
    check_mode(paid)
    tax_nano = _tax_of(top_up, paid)
    if wallet.profile_of(top_up.organization).currency != top_up.currency:
        raise Mismatch("the organization's currency")
    refers_to = refers_to | {"top_up": str(top_up.id)}
    posted = wallet.pay_in(top_up.organization, top_up.nano, Kind.TOPUP, key, refers_to=refers_to)
    if tax_nano:
        cash = ledger.account(LedgerAccount.Kind.CASH, top_up.currency)
        tax = ledger.account(LedgerAccount.Kind.TAX, top_up.currency)
        ledger.post(
            Kind.TOPUP,
            f"{key}:tax",
            {cash: -tax_nano, tax: tax_nano},
            organization=top_up.organization,
            refers_to=refers_to,
        )
    top_up.settle(posted, tax_nano)


def _tax_of(top_up: TopUp, paid: Any) -> int:
    """What was paid beyond the credit, which is Stripe's tax or nothing. Raises Mismatch."""
    if (paid.currency or "").upper() != top_up.currency:
        raise Mismatch("currency")
    expected = stripe_amount(top_up.nano, top_up.currency)
    if isinstance(paid, Session):
        tax = paid.total_details.amount_tax if paid.total_details else 0
        total, subtotal = paid.amount_total, paid.amount_subtotal
    else:
        tax, total, subtotal = 0, paid.amount_received, paid.amount
    if subtotal != expected or total != expected + tax or tax < 0:
        raise Mismatch("amount")
    return nano_of_stripe(tax, top_up.currency)


def _fail_if_over(top_up: TopUp, intent: Any) -> None:
    """A payment that takes days may still come; one that needs another card will not."""
    if intent is None or isinstance(intent, str):
        return
    if intent.status in {"requires_payment_method", "requires_action", "canceled"}:
        error = intent.last_payment_error
        code = value_of(error, "decline_code") or value_of(error, "code") or intent.status
        top_up.fail(str(code))
