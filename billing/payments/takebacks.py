"""What goes back of a payment: refunds of ours, refunds made on Stripe's pages, disputes.

Each is fetched anew, and the books follow what it is now: taken back, or not. So it does not
matter in which order, how often or how late we are told.
"""

from typing import Any
from uuid import UUID

from django.db import IntegrityError, transaction
from django.db.models import Q, Sum
from django.utils.translation import gettext as _
from stripe import PaymentIntent

from accounts.models import User
from billing import ledger, wallet
from billing.ledger import Kind, Overdrawn
from billing.models import AutoTopUp, LedgerAccount, StripeCall, TakenBack, TopUp
from billing.money import minor, nano_of_minor, nano_of_stripe, stripe_amount
from billing.payments import outbox
from billing.payments.fetching import NotKnown, NotOurs, fetch, id_of, is_ours, metadata_of
from billing.payments.operations import metadata
from portal.lib.errors import Conflict

# Others (inquiries, disputes that were prevented or won) leave the money with us.
DISPUTED = frozenset(
    {"needs_response", "under_review", "lost", "appeal_needs_response", "appeal_under_review"}
)
NOT_REFUNDED = frozenset({"failed", "canceled"})


def begin_refund(top_up: TopUp, nano: int, by: User | None, reason: str = "") -> TakenBack:
    """Give so much of a top-up back to the card that paid it: out of the wallet at once, to the
    card by the outbox. Tax goes back with it in proportion.

    Raises Conflict: not paid, not so much left of it, spent already.
    """
    with transaction.atomic(durable=True):
        top_up = TopUp.objects.select_for_update(of=("self",)).get(id=top_up.id)
        if top_up.state != TopUp.State.PAID or not top_up.intent_id:
            raise Conflict(_("This top-up was not paid."))
        if nano <= 0 or minor(nano, top_up.currency)[1]:
            raise Conflict(_("Enter an amount that can be paid."))
        if nano > top_up.nano - _gone_of(top_up):
            raise Conflict(_("That is more than is left of this top-up."))
        gross = nano + _tax_part(top_up, nano)
        taken = TakenBack.objects.create(
            organization=top_up.organization,
            kind=TakenBack.Kind.REFUND,
            top_up=top_up,
            amount_nano=gross,
            currency=top_up.currency,
            reason=reason[:200],
            by=by,
        )
        try:
            _book(taken, gone=True, wholly=True)
        except Overdrawn as error:
            raise Conflict(_("So much of it is not left in the wallet.")) from error
        call = StripeCall.enter(
            "refund.create",
            {
                "payment_intent": top_up.intent_id,
                "amount": stripe_amount(gross, top_up.currency),
                "reason": "requested_by_customer",
                "metadata": metadata(organization=top_up.organization_id, taken_back=taken.id),
            },
            organization=top_up.organization,
            about=taken.id,
        )
    _follow(outbox.send(call))
    taken.refresh_from_db()
    return taken


def follow_refused() -> int:
    """Put back what refunds took that Stripe then refused; how many those were."""
    refused = StripeCall.objects.filter(
        operation="refund.create", state=StripeCall.State.REFUSED
    ).values("about")
    open_ = TakenBack.objects.filter(id__in=refused, status="")
    for taken in open_:
        with transaction.atomic():
            _become(_held(id=taken.id), "refused", gone=False)
    return len(open_)


def _follow(call: StripeCall) -> None:
    if call.state == StripeCall.State.REFUSED:
        follow_refused()


def settle_refund(refund_id: str) -> TakenBack:
    """Raises Away, NotKnown, NotOurs, NotSetUp."""
    expand = ["payment_intent"]
    refund = fetch(lambda stripe: stripe.v1.refunds.retrieve(refund_id, {"expand": expand}))
    gone = refund.status not in NOT_REFUNDED
    ours = metadata_of(refund).get("taken_back") if is_ours(refund) else None
    with transaction.atomic():
        taken = _held(id=_uuid(ours)) if ours else _row_of(TakenBack.Kind.REFUND, refund)
        if not taken.stripe_id:
            taken.stripe_id = refund.id
            taken.save(update_fields=["stripe_id"])
        return _become(taken, refund.status or "", gone=gone)


def settle_dispute(dispute_id: str) -> TakenBack:
    """Raises Away, NotKnown, NotOurs, NotSetUp."""
    expand = ["payment_intent"]
    dispute = fetch(lambda stripe: stripe.v1.disputes.retrieve(dispute_id, {"expand": expand}))
    with transaction.atomic():
        taken = _row_of(TakenBack.Kind.DISPUTE, dispute)
        return _become(taken, dispute.status, gone=dispute.status in DISPUTED)


def _become(taken: TakenBack, status: str, *, gone: bool) -> TakenBack:
    _book(taken, gone=gone)
    taken.status = status[:32]
    taken.save(update_fields=["status"])
    return taken


def _book(taken: TakenBack, *, gone: bool, wholly: bool = False) -> None:
    """Bring the books to it. The caller holds the row. Raises Overdrawn, if `wholly`."""
    nano = taken.amount_nano if gone else 0
    if nano == taken.nano:
        return
    taken.changes += 1
    tax = _tax_within(taken)
    kind = Kind.REFUND if taken.kind == TakenBack.Kind.REFUND else Kind.DISPUTE
    key = f"{taken.kind}:{taken.id}:{taken.changes}"
    refers_to = {"taken_back": str(taken.id), "top_up": str(taken.top_up_id or "")}
    net = taken.amount_nano - tax
    if gone:
        wallet.pay_out(taken.organization, net, kind, key, wholly=wholly, refers_to=refers_to)
    else:
        wallet.pay_in(taken.organization, net, kind, key, refers_to=refers_to)
    if tax:
        signed = tax if gone else -tax
        cash = ledger.account(LedgerAccount.Kind.CASH, taken.currency)
        taxes = ledger.account(LedgerAccount.Kind.TAX, taken.currency)
        ledger.post(
            kind,
            f"{key}:tax",
            {cash: signed, taxes: -signed},
            organization=taken.organization,
            refers_to=refers_to,
        )
    if gone:  # else a card that has just got its money back would be charged again
        AutoTopUp.pause(taken.organization, str(taken.kind))
    taken.nano = nano
    taken.save(update_fields=["nano", "changes"])


def _gone_of(top_up: TopUp) -> int:
    """How much of the credit, without tax, has gone back or is on its way back."""
    gross = top_up.taken_back.aggregate(all=Sum("nano"))["all"] or 0
    return int(gross) - _share_of_tax(top_up, gross)


def _tax_part(top_up: TopUp, net: int) -> int:
    """The tax that goes back with so much credit, in what can be paid."""
    if not top_up.tax_nano:
        return 0
    return _payable(top_up.tax_nano * net // top_up.nano, top_up.currency)


def _share_of_tax(top_up: TopUp, gross: int) -> int:
    if not top_up.tax_nano:
        return 0
    return _payable(top_up.tax_nano * gross // (top_up.nano + top_up.tax_nano), top_up.currency)


def _tax_within(taken: TakenBack) -> int:
    return _share_of_tax(taken.top_up, taken.amount_nano) if taken.top_up else 0


def _payable(nano: int, currency: str) -> int:
    return nano_of_minor(minor(nano, currency)[0], currency)


def _held(**which: Any) -> TakenBack:
    try:
        rows = TakenBack.objects.select_for_update(of=("self",))
        return rows.select_related("organization", "top_up").get(**which)
    except TakenBack.DoesNotExist as error:
        raise NotKnown(str(which)) from error


def _row_of(kind: str, found: Any) -> TakenBack:
    """The row of what began elsewhere, locked; made where it is new."""
    if not TakenBack.objects.filter(stripe_id=found.id).exists():
        top_up = _top_up_of(found.payment_intent)
        currency = found.currency.upper()
        try:
            with transaction.atomic():
                TakenBack.objects.create(
                    organization=top_up.organization,
                    kind=kind,
                    top_up=top_up,
                    stripe_id=found.id,
                    amount_nano=nano_of_stripe(found.amount, currency),
                    currency=currency,
                    reason=str(found.reason or "")[:200],
                )
        except IntegrityError:
            pass  # somebody else a moment ago
    return _held(stripe_id=found.id)


def _top_up_of(intent: Any) -> TopUp:
    """Raises NotOurs; NotKnown, where the payment is ours but not in the books yet."""
    if not isinstance(intent, PaymentIntent) or not is_ours(intent):
        raise NotOurs(id_of(intent))
    named = Q(intent_id=intent.id)
    if top_up_id := metadata_of(intent).get("top_up"):
        named |= Q(id=_uuid(top_up_id))
    top_up = TopUp.objects.filter(named, state=TopUp.State.PAID).first()
    if top_up is None:
        raise NotKnown(intent.id)
    return top_up


def _uuid(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError as error:
        raise NotKnown(text) from error
