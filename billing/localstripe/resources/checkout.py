"""Checkout sessions: a page of ours where somebody pays, saves a card, or subscribes."""

from typing import Any

from stripe.params.checkout._session_create_params import SessionCreateParams
from stripe.params.checkout._session_expire_params import SessionExpireParams
from stripe.params.checkout._session_line_item_list_params import SessionLineItemListParams
from stripe.params.checkout._session_list_params import SessionListParams
from stripe.params.checkout._session_retrieve_params import SessionRetrieveParams

from billing.localstripe.errors import ApiError
from billing.localstripe.resources import billing, cards, payments
from billing.localstripe.resources.catalog import check_amount, create_price
from billing.localstripe.routing import Routes
from billing.localstripe.world import Object, World

routes = Routes()
routes.readable(
    "checkout.session", "/v1/checkout/sessions", SessionRetrieveParams, SessionListParams
)

KIND = "checkout.session"
OPEN_FOR = 24 * 3600  # seconds, where nothing else is asked for
TAX = {"TW": 5, "JP": 10, "DE": 19, "FR": 20, "GB": 20, "KR": 10, "SG": 9}  # percent, by country


@routes("POST", "/v1/checkout/sessions", SessionCreateParams)
def create(world: World, p: Object) -> Object:
    mode = p.get("mode")
    if mode is None:
        raise ApiError("Missing required param: mode.", code="parameter_missing", param="mode")
    if "success_url" not in p:
        raise ApiError("Missing required param: success_url.", param="success_url")
    customer = _customer(world, p)
    items = [_line(world, mode, each) for each in p.get("line_items", [])]
    if (mode == "setup") == bool(items):
        raise ApiError("line_items are for the modes payment and subscription.", param="line_items")
    _check_lifetime(world, p.get("expires_at"))
    _check_of_mode(p, mode)
    subtotal = sum(item["amount_total"] for item in items) if items else None
    code = items[0]["currency"] if items else None
    if mode == "payment":
        check_amount(subtotal or 0, code or "", "line_items[0][price_data][unit_amount]")
    session = world.make(
        KIND,
        mode=mode,
        status="open",
        payment_status="unpaid" if mode != "setup" else "no_payment_required",
        customer=customer,
        client_reference_id=p.get("client_reference_id"),
        metadata=p.get("metadata", {}),
        currency=code,
        amount_subtotal=subtotal,
        amount_total=subtotal,
        total_details=_details(0),
        automatic_tax={"enabled": p.get("automatic_tax", {}).get("enabled", False)},
        payment_method_types=p.get("allowed_payment_method_types", ["card"]),
        success_url=p["success_url"],
        cancel_url=p.get("cancel_url"),
        expires_at=p.get("expires_at", world.now + OPEN_FOR),
        ui_mode=p.get("ui_mode", "hosted_page"),
    )
    session = world.save(session | {"url": f"{world.base}/c/pay/{session['id']}"})
    asked = {name: p.get(f"{name}_data", {}) for name in ("payment_intent", "setup_intent")}
    asked["subscription"] = p.get("subscription_data", {})
    world.store.put(
        {"id": f"asked:{session['id']}", "object": "asked", "items": items} | asked,
    )
    return session


@routes("POST", "/v1/checkout/sessions/{id}/expire", SessionExpireParams)
def expire(world: World, p: Object, id: str) -> Object:
    session = world.need(KIND, id)
    if session["status"] != "open":
        raise ApiError("Only open sessions can be expired.")
    session = world.save(session | {"status": "expired", "url": None})
    world.emit("checkout.session.expired", session)
    return session


@routes("GET", "/v1/checkout/sessions/{id}/line_items", SessionLineItemListParams)
def line_items(world: World, p: Object, id: str) -> Object:
    world.need(KIND, id)
    url = f"/v1/checkout/sessions/{id}/line_items"
    return {"object": "list", "url": url, "has_more": False, "data": asked(world, id)["items"]}


def asked(world: World, id: str) -> Object:
    """What was asked for and is on no object yet."""
    found = world.store.any(f"asked:{id}")
    assert found is not None  # noqa: S101  made with the session
    return found


def look(world: World, id: str) -> Object:
    """The session as it is now: expired, if its time is over. Raises ApiError."""
    session = world.need(KIND, id)
    if session["status"] == "open" and session["expires_at"] <= world.now:
        return expire(world, {}, id)
    return session


def pay(world: World, id: str, card: str = "pm_card_visa", *, later: bool = False) -> Object:
    """Somebody presses the button. `later`: a payment that takes days, see `arrive`.

    Raises ApiError where the card declines, which is kept; the session stays open then.
    """
    session = look(world, id)
    if session["status"] != "open":
        raise ApiError(f"This session is {session['status']}.")
    if session["mode"] == "setup":
        return _saved(world, session, card)
    if session["mode"] == "subscription":
        return _subscribed(world, session, card)
    return _paid(world, session, card, later)


def arrive(world: World, id: str, *, well: bool = True) -> Object:
    """The payment that was made `later` comes, or does not."""
    session = world.need(KIND, id)
    if session["status"] != "complete" or session["payment_status"] != "unpaid":
        raise ApiError("No payment is on its way.")
    intent = world.need("payment_intent", session["payment_intent"])
    method = world.need("payment_method", intent["payment_method"])
    if not well:
        failed = cards.new_card(world, "pm_card_chargeDeclined")
        payments.decline(world, intent, failed)
        world.emit("checkout.session.async_payment_failed", session)
        return session
    payments.succeed(world, intent, method)
    session = world.save(session | {"payment_status": "paid"})
    world.emit("checkout.session.async_payment_succeeded", session)
    return session


def _paid(world: World, session: Object, card: str, later: bool) -> Object:
    told = asked(world, session["id"])["payment_intent"]
    tax = _tax(world, session)
    total = session["amount_subtotal"] + tax
    keep = told.get("setup_future_usage")
    method = cards.new_card(world, card, session["customer"] if keep else None)
    intent = payments.new(
        world,
        amount=total,
        currency=session["currency"],
        customer=session["customer"],
        metadata=told.get("metadata", {}),
        description=told.get("description"),
        setup_future_usage=keep,
    )
    done: Object = {
        "status": "complete",
        "payment_status": "paid",
        "amount_total": total,
        "total_details": _details(tax),
        "url": None,
    }
    if later:
        done["payment_status"] = "unpaid"
        intent = world.save(intent | {"status": "processing", "payment_method": method["id"]})
        world.emit("payment_intent.processing", intent)
    else:
        intent = payments.pay(world, intent, method)
    session = world.save(session | done | {"payment_intent": intent["id"]})
    world.emit("checkout.session.completed", session)
    return session


def _saved(world: World, session: Object, card: str) -> Object:
    told = asked(world, session["id"])["setup_intent"]
    intent = cards.saved(world, card, session["customer"], told.get("metadata", {}))
    done = {"status": "complete", "setup_intent": intent["id"], "url": None}
    session = world.save(session | done)
    world.emit("checkout.session.completed", session)
    return session


def _subscribed(world: World, session: Object, card: str) -> Object:
    told = asked(world, session["id"])
    method = cards.new_card(world, card, session["customer"])
    subscription = billing.subscribe(
        world,
        customer=session["customer"],
        prices=[item["price"]["id"] for item in told["items"]],
        default_payment_method=method["id"],
        metadata=told["subscription"].get("metadata", {}),
    )
    done = {
        "status": "complete",
        "payment_status": "paid",
        "subscription": subscription["id"],
        "url": None,
    }
    session = world.save(session | done)
    world.emit("checkout.session.completed", session)
    return session


def _customer(world: World, p: Object) -> str | None:
    if "customer" in p:
        return str(world.need("customer", p["customer"], "customer")["id"])
    if p["mode"] == "payment":
        return None
    return str(world.make("customer", email=p.get("customer_email"))["id"])


def _line(world: World, mode: str, told: Object) -> Object:
    if ("price" in told) == ("price_data" in told):
        raise ApiError("You must specify either price or price_data.", param="line_items[0][price]")
    if "price" in told:
        price = world.need("price", told["price"], "line_items[0][price]")
    else:
        price = create_price(world, told["price_data"])
    if (mode == "subscription") != (price["type"] == "recurring"):
        raise ApiError("The price does not fit the mode.", param="line_items[0][price]")
    metered = price["recurring"] is not None and price["recurring"]["usage_type"] == "metered"
    if metered == ("quantity" in told):
        raise ApiError("Quantity is for prices that are not metered.", param="quantity")
    amount = 0 if metered else (price["unit_amount"] or 0) * told["quantity"]
    return world.complete(
        "item",
        {
            "id": world.store.new_id("li"),
            "amount_subtotal": amount,
            "amount_total": amount,
            "currency": price["currency"],
            "price": price,
            "quantity": told.get("quantity"),
        },
    )


def _check_lifetime(world: World, expires_at: int | None) -> None:
    if expires_at is not None and not 1800 - 60 <= expires_at - world.now <= OPEN_FOR + 60:
        raise ApiError("expires_at must be from 30 minutes to 24 hours away.", param="expires_at")


def _check_of_mode(p: Object, mode: str) -> None:
    for name, its in (
        ("payment_intent_data", "payment"),
        ("setup_intent_data", "setup"),
        ("subscription_data", "subscription"),
    ):
        if name in p and mode != its:
            raise ApiError(f"You can not pass {name} in {mode} mode.", param=name)
    if mode == "setup" and not {"currency", "allowed_payment_method_types"} & p.keys():
        raise ApiError("Missing required param: currency.", param="currency")
    taxed = p.get("automatic_tax", {}).get("enabled")
    if taxed and "customer" in p and "customer_update" not in p:
        raise ApiError("Automatic tax with a customer needs customer_update.", param="customer")


def _tax(world: World, session: Object) -> int:
    """By the customer's country, on top of the amount."""
    if not session["automatic_tax"]["enabled"] or not session["customer"]:
        return 0
    address = world.need("customer", session["customer"])["address"] or {}
    tax = round(session["amount_subtotal"] * TAX.get(address.get("country") or "", 0) / 100)
    return tax // 100 * 100 if session["currency"] == "twd" else tax


def _details(tax: int) -> dict[str, Any]:
    return {"amount_discount": 0, "amount_shipping": 0, "amount_tax": tax}
