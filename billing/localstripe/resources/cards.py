"""Payment methods (cards, by the names that Stripe's tests know) and setup intents."""

from stripe.params._customer_payment_method_list_params import CustomerPaymentMethodListParams
from stripe.params._payment_method_attach_params import PaymentMethodAttachParams
from stripe.params._payment_method_detach_params import PaymentMethodDetachParams
from stripe.params._payment_method_list_params import PaymentMethodListParams
from stripe.params._payment_method_retrieve_params import PaymentMethodRetrieveParams
from stripe.params._setup_intent_list_params import SetupIntentListParams
from stripe.params._setup_intent_retrieve_params import SetupIntentRetrieveParams

from billing.localstripe.errors import ApiError, missing
from billing.localstripe.routing import Routes, page
from billing.localstripe.world import Object, World

routes = Routes()
routes.readable("payment_method", "/v1/payment_methods", None, PaymentMethodListParams)
routes.readable(
    "setup_intent", "/v1/setup_intents", SetupIntentRetrieveParams, SetupIntentListParams
)

# What a card does is told by its number's end, as it is with Stripe's own test cards.
CARDS = {
    "pm_card_visa": ("visa", "4242"),
    "pm_card_mastercard": ("mastercard", "4444"),
    "pm_card_chargeDeclined": ("visa", "0002"),
    "pm_card_chargeDeclinedInsufficientFunds": ("visa", "9995"),
    "pm_card_chargeCustomerFail": ("visa", "0341"),  # can be saved, but not charged
    "pm_card_authenticationRequired": ("visa", "3184"),
}
DECLINES = {
    "0002": ("card_declined", "generic_decline"),
    "9995": ("card_declined", "insufficient_funds"),
    "0341": ("card_declined", "generic_decline"),
    "3184": ("authentication_required", "authentication_required"),
}


def new_card(world: World, name: str, customer: str | None = None) -> Object:
    """One of the test cards, by its name."""
    brand, last4 = CARDS[name]
    card = {
        "brand": brand,
        "last4": last4,
        "exp_month": 12,
        "exp_year": 2034,
        "funding": "credit",
        "country": "US",
        "display_brand": brand,
        "fingerprint": world.store.new_id("fp", 12),
    }
    method = world.make("payment_method", type="card", card=card, customer=customer)
    if customer:
        world.emit("payment_method.attached", method)
    return method


def method_of(world: World, id: str, param: str) -> Object:
    """The method; one of the test cards is made anew at each use. Raises ApiError."""
    if id in CARDS:
        return new_card(world, id)
    return world.need("payment_method", id, param)


@routes("GET", "/v1/payment_methods/{id}", PaymentMethodRetrieveParams)
def retrieve(world: World, p: Object, id: str) -> Object:
    return method_of(world, id, "id")


@routes("GET", "/v1/customers/{id}/payment_methods", CustomerPaymentMethodListParams)
def of_customer(world: World, p: Object, id: str) -> Object:
    url = f"/v1/customers/{id}/payment_methods"
    return page(world, "payment_method", url, p | {"customer": id})


@routes("POST", "/v1/payment_methods/{id}/attach", PaymentMethodAttachParams)
def attach(world: World, p: Object, id: str) -> Object:
    world.need("customer", p["customer"], "customer")
    if id in CARDS:
        return new_card(world, id, p["customer"])
    method = world.need("payment_method", id)
    if method["customer"] not in (None, p["customer"]):
        raise ApiError("The payment method is attached to another customer.")
    method = world.save(method | {"customer": p["customer"]})
    world.emit("payment_method.attached", method)
    return method


@routes("POST", "/v1/payment_methods/{id}/detach", PaymentMethodDetachParams)
def detach(world: World, p: Object, id: str) -> Object:
    method = world.need("payment_method", id)
    if method["customer"] is None:
        raise ApiError("The payment method is not attached to a customer.")
    method = world.save(method | {"customer": None})
    world.emit("payment_method.detached", method)
    return method


def saved(world: World, card: str, customer: str | None, metadata: Object) -> Object:
    """A setup intent that went well, with its card."""
    if customer is None:
        raise missing("customer", "", "customer")
    method = new_card(world, card, customer)
    intent = world.make(
        "setup_intent",
        status="succeeded",
        usage="off_session",
        payment_method_types=["card"],
        payment_method=method["id"],
        customer=customer,
        metadata=metadata,
    )
    world.emit("setup_intent.created", intent | {"status": "requires_confirmation"})
    world.emit("setup_intent.succeeded", intent)
    return intent
