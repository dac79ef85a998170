"""Payment intents, their charges, and what they move on the account's balance."""

from typing import Any

from stripe.params._balance_transaction_list_params import BalanceTransactionListParams
from stripe.params._balance_transaction_retrieve_params import BalanceTransactionRetrieveParams
from stripe.params._charge_list_params import ChargeListParams
from stripe.params._charge_retrieve_params import ChargeRetrieveParams
from stripe.params._payment_intent_cancel_params import PaymentIntentCancelParams
from stripe.params._payment_intent_confirm_params import PaymentIntentConfirmParams
from stripe.params._payment_intent_create_params import PaymentIntentCreateParams
from stripe.params._payment_intent_list_params import PaymentIntentListParams
from stripe.params._payment_intent_retrieve_params import PaymentIntentRetrieveParams

from billing.localstripe.errors import ApiError
from billing.localstripe.resources.cards import DECLINES, method_of
from billing.localstripe.resources.catalog import check_amount, currency
from billing.localstripe.routing import Routes
from billing.localstripe.world import Object, World

routes = Routes()
routes.readable(
    "payment_intent", "/v1/payment_intents", PaymentIntentRetrieveParams, PaymentIntentListParams
)
routes.readable("charge", "/v1/charges", ChargeRetrieveParams, ChargeListParams)
routes.readable(
    "balance_transaction",
    "/v1/balance_transactions",
    BalanceTransactionRetrieveParams,
    BalanceTransactionListParams,
)


@routes("POST", "/v1/payment_intents", PaymentIntentCreateParams)
def create(world: World, p: Object) -> Object:
    code = currency(p["currency"])
    if customer := p.get("customer"):
        world.need("customer", customer, "customer")
    intent = new(
        world,
        amount=check_amount(p["amount"], code),
        currency=code,
        customer=customer,
        metadata=p.get("metadata", {}),
        description=p.get("description"),
        setup_future_usage=p.get("setup_future_usage"),
    )
    if p.get("off_session") and not p.get("confirm"):
        raise ApiError("off_session can only be used with confirm=true.", param="off_session")
    if not p.get("confirm"):
        return intent
    if "payment_method" not in p:
        raise ApiError("You cannot confirm without a payment method.", param="payment_method")
    method = method_of(world, p["payment_method"], "payment_method")
    if method["customer"] not in (None, customer):
        raise ApiError("The payment method belongs to another customer.", param="payment_method")
    if p.get("off_session") and method["customer"] is None:
        raise ApiError(
            "The payment method must be attached to the customer to be used off session.",
            param="payment_method",
        )
    return pay(world, intent, method, off_session=bool(p.get("off_session")))


@routes("POST", "/v1/payment_intents/{id}/confirm", PaymentIntentConfirmParams)
def confirm(world: World, p: Object, id: str) -> Object:
    intent = world.need("payment_intent", id)
    if intent["status"] in {"succeeded", "canceled", "processing"}:
        raise ApiError("This payment is over.", code="payment_intent_unexpected_state")
    method = method_of(
        world, p.get("payment_method") or intent["payment_method"] or "", "payment_method"
    )
    return pay(world, intent, method, off_session=bool(p.get("off_session")))


@routes("POST", "/v1/payment_intents/{id}/cancel", PaymentIntentCancelParams)
def cancel(world: World, p: Object, id: str) -> Object:
    intent = world.need("payment_intent", id)
    if intent["status"] in {"succeeded", "canceled", "processing"}:
        raise ApiError("This payment is over.", code="payment_intent_unexpected_state")
    intent = world.save(
        intent
        | {
            "status": "canceled",
            "canceled_at": world.now,
            "cancellation_reason": p.get("cancellation_reason"),
        }
    )
    world.emit("payment_intent.canceled", intent)
    return intent


def new(world: World, **fields: Any) -> Object:
    intent = world.make(
        "payment_intent",
        status="requires_payment_method",
        capture_method="automatic_async",
        confirmation_method="automatic",
        payment_method_types=["card"],
        client_secret=world.store.new_id("secret"),
        **fields,
    )
    world.emit("payment_intent.created", intent)
    return intent


def pay(world: World, intent: Object, method: Object, *, off_session: bool = False) -> Object:
    """Charge the card. Raises ApiError where it declines, which is kept."""
    last4 = method["card"]["last4"]
    if last4 in DECLINES and (last4 != "3184" or off_session):
        raise _declined(world, intent, method)
    return succeed(world, intent, method)


def succeed(world: World, intent: Object, method: Object) -> Object:
    charge = _charge(world, intent, method, paid=True)
    intent = world.save(
        intent
        | {
            "status": "succeeded",
            "amount_received": intent["amount"],
            "latest_charge": charge["id"],
            "payment_method": method["id"],
            "last_payment_error": None,
        }
    )
    world.emit("charge.succeeded", charge)
    world.emit("payment_intent.succeeded", intent)
    return intent


def decline(world: World, intent: Object, method: Object) -> Object:
    """The intent as it is after the card was declined."""
    code, decline_code = DECLINES[method["card"]["last4"]]
    charge = _charge(world, intent, method, paid=False)
    error = {
        "type": "card_error",
        "code": code,
        "decline_code": decline_code,
        "message": "Your card was declined.",
        "charge": charge["id"],
    }
    intent = world.save(
        intent
        | {
            "status": "requires_payment_method",
            "latest_charge": charge["id"],
            "last_payment_error": error,
        }
    )
    world.emit("charge.failed", charge)
    world.emit("payment_intent.payment_failed", intent)
    return intent


def _declined(world: World, intent: Object, method: Object) -> ApiError:
    intent = decline(world, intent, method)
    error = intent["last_payment_error"]
    return ApiError(
        error["message"],
        status=402,
        type="card_error",
        code=error["code"],
        keeps=True,
        decline_code=error["decline_code"],
        charge=error["charge"],
        payment_intent=intent,
    )


def _charge(world: World, intent: Object, method: Object, *, paid: bool) -> Object:
    charge = world.make(
        "charge",
        amount=intent["amount"],
        amount_captured=intent["amount"] if paid else 0,
        currency=intent["currency"],
        customer=intent["customer"],
        payment_intent=intent["id"],
        payment_method=method["id"],
        metadata=intent["metadata"],
        description=intent["description"],
        captured=paid,
        paid=paid,
        status="succeeded" if paid else "failed",
        failure_code=None if paid else DECLINES[method["card"]["last4"]][0],
    )
    if paid:
        moved = move(world, charge["id"], intent["amount"], intent["currency"], "charge")
        charge = world.save(charge | {"balance_transaction": moved["id"]})
    return charge


def move(world: World, source: str, amount: int, code: str, type: str) -> Object:
    """What comes onto the account's balance, or goes from it; Stripe keeps a fee of payments."""
    fee = round(amount * 0.029) + 30 if type == "charge" else 0
    return world.make(
        "balance_transaction",
        amount=amount,
        currency=code,
        fee=fee,
        net=amount - fee,
        source=source,
        type=type,
        reporting_category=type,
        status="available",
        balance_type="payments",
        available_on=world.now,
    )
