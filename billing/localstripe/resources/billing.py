"""Meters, subscriptions and the invoices that they end in; the customer's portal."""

from decimal import ROUND_HALF_UP, Decimal
from typing import Any

from stripe.params._invoice_list_params import InvoiceListParams
from stripe.params._invoice_pay_params import InvoicePayParams
from stripe.params._invoice_retrieve_params import InvoiceRetrieveParams
from stripe.params._subscription_cancel_params import SubscriptionCancelParams
from stripe.params._subscription_create_params import SubscriptionCreateParams
from stripe.params._subscription_list_params import SubscriptionListParams
from stripe.params._subscription_retrieve_params import SubscriptionRetrieveParams
from stripe.params.billing._meter_create_params import MeterCreateParams
from stripe.params.billing._meter_event_create_params import MeterEventCreateParams
from stripe.params.billing._meter_list_params import MeterListParams
from stripe.params.billing._meter_retrieve_params import MeterRetrieveParams
from stripe.params.billing_portal._session_create_params import SessionCreateParams

from billing.localstripe.errors import ApiError
from billing.localstripe.resources import payments
from billing.localstripe.routing import Routes
from billing.localstripe.world import Object, World

routes = Routes()
routes.readable("billing.meter", "/v1/billing/meters", MeterRetrieveParams, MeterListParams)
routes.readable(
    "subscription", "/v1/subscriptions", SubscriptionRetrieveParams, SubscriptionListParams
)
routes.readable("invoice", "/v1/invoices", InvoiceRetrieveParams, InvoiceListParams)

HOUR = 3600
MONTH = 30 * 24 * HOUR
OLDEST_EVENT = 35 * 24 * HOUR  # seconds
ANY_CONFIGURATION = "bpc_default"


@routes("POST", "/v1/billing/meters", MeterCreateParams)
def create_meter(world: World, p: Object) -> Object:
    for meter in world.store.all("billing.meter"):
        if meter["event_name"] == p["event_name"] and meter["status"] == "active":
            raise ApiError("An active meter has this event name.", param="event_name")
    told = {n: p[n] for n in ("customer_mapping", "value_settings") if n in p}
    defaults = {
        "customer_mapping": {"event_payload_key": "stripe_customer_id", "type": "by_id"},
        "value_settings": {"event_payload_key": "value"},
    }
    return world.make(
        "billing.meter",
        display_name=p["display_name"],
        event_name=p["event_name"],
        event_time_window=p.get("event_time_window"),
        default_aggregation=p["default_aggregation"],
        status="active",
        updated=world.now,
        **(defaults | told),
    )


@routes("POST", "/v1/billing/meter_events", MeterEventCreateParams)
def create_meter_event(world: World, p: Object) -> Object:
    meter = _meter_named(world, p["event_name"])
    at = p.get("timestamp", world.now)
    if not world.now - OLDEST_EVENT <= at <= world.now + 300:
        raise ApiError("The timestamp is too old, or in the future.", param="timestamp")
    payload = p["payload"]
    for key in (_customer_key(meter), _value_key(meter)):
        if key not in payload:
            raise ApiError(f"The payload has no {key}.", param="payload")
    if not payload[_value_key(meter)].lstrip("-").isdecimal():
        raise ApiError("The value is no whole number.", param="payload")
    world.need("customer", payload[_customer_key(meter)], "payload[stripe_customer_id]")
    identifier = p.get("identifier") or world.store.new_id("id")
    if world.store.any(f"identifier:{identifier}"):
        raise ApiError(
            f"An event already exists with identifier {identifier}.",
            code="duplicate_meter_event",
            param="identifier",
        )
    event = world.complete(
        "billing.meter_event",
        {
            "created": world.now,
            "event_name": p["event_name"],
            "identifier": identifier,
            "payload": payload,
            "timestamp": at,
        },
    )
    world.store.put(event | {"id": f"identifier:{identifier}"})
    return event


@routes("POST", "/v1/subscriptions", SubscriptionCreateParams)
def create_subscription(world: World, p: Object) -> Object:
    if "customer" not in p or not p.get("items"):
        raise ApiError("Missing required param: customer and items.", param="customer")
    return subscribe(
        world,
        customer=world.need("customer", p["customer"], "customer")["id"],
        prices=[each["price"] for each in p["items"]],
        default_payment_method=p.get("default_payment_method"),
        collection_method=p.get("collection_method", "charge_automatically"),
        days_until_due=p.get("days_until_due"),
        metadata=p.get("metadata") or {},
    )


@routes("DELETE", "/v1/subscriptions/{id}", SubscriptionCancelParams)
def cancel(world: World, p: Object, id: str) -> Object:
    subscription = world.need("subscription", id)
    ended = {"status": "canceled", "canceled_at": world.now, "ended_at": world.now}
    subscription = world.save(subscription | ended)
    world.emit("customer.subscription.deleted", subscription)
    return subscription


@routes("POST", "/v1/invoices/{id}/pay", InvoicePayParams)
def pay_invoice(world: World, p: Object, id: str) -> Object:
    invoice = world.need("invoice", id)
    if invoice["status"] != "open":
        raise ApiError("Only open invoices can be paid.")
    return _settled(world, invoice, paid_elsewhere=p.get("paid_out_of_band", False))


@routes("POST", "/v1/billing_portal/sessions", SessionCreateParams)
def create_portal(world: World, p: Object) -> Object:
    if "customer" not in p:
        raise ApiError("Missing required param: customer.", param="customer")
    customer = world.need("customer", p["customer"], "customer")["id"]
    session = world.make(
        "billing_portal.session",
        customer=customer,
        configuration=ANY_CONFIGURATION,
        return_url=p.get("return_url"),
        locale=p.get("locale"),
        url="",
    )
    return world.save(session | {"url": f"{world.base}/p/session/{session['id']}"})


def subscribe(world: World, *, customer: str, prices: list[str], **told: Any) -> Object:
    items = [world.need("price", price, "items[0][price]") for price in prices]
    id, now = world.store.new_id("sub"), world.now
    rows = [
        world.make(
            "subscription_item",
            subscription=id,
            price=price,
            plan=_plan(world, price),
            current_period_start=now,
            current_period_end=now + MONTH,
        )
        for price in items
    ]
    subscription = world.make(
        "subscription",
        id=id,
        customer=customer,
        currency=items[0]["currency"],
        status="active",
        billing_mode={"type": "flexible"},
        billing_cycle_anchor=now,
        start_date=now,
        invoice_settings={"issuer": {"type": "self"}},
        items=_list(rows, f"/v1/subscription_items?subscription={id}"),
        **({"collection_method": "charge_automatically"} | told),
    )
    world.emit("customer.subscription.created", subscription)
    return subscription


def end_period(world: World, id: str) -> Object:
    """A month is over: what the meters say becomes an invoice, and is paid where a card is."""
    subscription = world.need("subscription", id)
    lines = [_line(world, subscription, item) for item in subscription["items"]["data"]]
    total = sum(line["amount"] for line in lines)
    first = subscription["items"]["data"][0]
    invoice = world.make(
        "invoice",
        status="open",
        number=world.store.new_id("INV", 8).upper(),
        billing_reason="subscription_cycle",
        collection_method=subscription["collection_method"],
        customer=subscription["customer"],
        currency=subscription["currency"],
        issuer={"type": "self"},
        parent={
            "type": "subscription_details",
            "subscription_details": {"subscription": id, "metadata": subscription["metadata"]},
        },
        period_start=first["current_period_start"],
        period_end=first["current_period_end"],
        lines=_list(lines, "/v1/invoices/lines"),
        subtotal=total,
        total=total,
        total_excluding_tax=total,
        amount_due=total,
        amount_remaining=total,
        auto_advance=True,
    )
    for item in subscription["items"]["data"]:
        start = item["current_period_end"]
        item |= {"current_period_start": start, "current_period_end": start + MONTH}
        world.save(item)
    world.save(subscription | {"latest_invoice": invoice["id"]})
    world.emit("invoice.created", invoice | {"status": "draft"})
    world.emit("invoice.finalized", invoice)
    if subscription["collection_method"] == "charge_automatically" or not total:
        return _settled(world, invoice)
    return invoice


def _settled(world: World, invoice: Object, *, paid_elsewhere: bool = False) -> Object:
    subscription = invoice["parent"]["subscription_details"]["subscription"]
    card = world.need("subscription", subscription)["default_payment_method"]
    if invoice["total"] and not paid_elsewhere:
        method = world.need("payment_method", card) if card else None
        intent = payments.new(
            world,
            amount=invoice["total"],
            currency=invoice["currency"],
            customer=invoice["customer"],
        )
        if method is None or method["card"]["last4"] in payments.DECLINES:
            if method is not None:
                payments.decline(world, intent, method)
            world.emit("invoice.payment_failed", invoice)
            return invoice
        payments.succeed(world, intent, method)
    paid = {"status": "paid", "amount_paid": invoice["total"], "amount_remaining": 0}
    invoice = world.save(invoice | paid)
    world.emit("invoice.paid", invoice)
    return invoice


def _line(world: World, subscription: Object, item: Object) -> Object:
    price = item["price"]
    start, end = item["current_period_start"], item["current_period_end"]
    quantity = usage(world, price["recurring"]["meter"], subscription["customer"], start, end)
    exact = Decimal(quantity) * Decimal(price["unit_amount_decimal"])
    amount = int(exact.quantize(Decimal(1), ROUND_HALF_UP))
    return world.make(
        "line_item",
        amount=amount,
        subtotal=amount,
        currency=price["currency"],
        quantity=quantity,
        period={"start": start, "end": end},
        subscription=subscription["id"],
        pricing={
            "type": "price_details",
            "price_details": {"price": price["id"], "product": price["product"]},
            "unit_amount_decimal": price["unit_amount_decimal"],
        },
    )


def usage(world: World, meter_id: str, customer: str, start: int, end: int) -> int:
    """The sum over the period. Of a meter with windows, only the last event of each counts."""
    meter = world.need("billing.meter", meter_id)
    window = {"hour": HOUR, "day": 24 * HOUR}.get(meter["event_time_window"] or "", 0)
    sums: dict[Any, int] = {}
    for number, event in enumerate(reversed(list(world.store.all("billing.meter_event")))):
        mine = event["payload"][_customer_key(meter)] == customer
        if event["event_name"] != meter["event_name"] or not mine:
            continue
        if start <= event["timestamp"] < end:
            place = event["timestamp"] // window if window else ("raw", number)
            sums[place] = int(event["payload"][_value_key(meter)])
    return sum(sums.values())


def _meter_named(world: World, event_name: str) -> Object:
    for meter in world.store.all("billing.meter"):
        if meter["event_name"] == event_name and meter["status"] == "active":
            return meter
    raise ApiError(f"No active meter has the event name {event_name}.", param="event_name")


def _customer_key(meter: Object) -> str:
    return str(meter["customer_mapping"]["event_payload_key"])


def _value_key(meter: Object) -> str:
    return str(meter["value_settings"]["event_payload_key"])


def _plan(world: World, price: Object) -> Object:
    return world.complete(
        "plan",
        {
            "id": price["id"],
            "active": True,
            "billing_scheme": "per_unit",
            "created": price["created"],
            "currency": price["currency"],
            "interval": price["recurring"]["interval"],
            "interval_count": price["recurring"]["interval_count"],
            "meter": price["recurring"]["meter"],
            "product": price["product"],
            "usage_type": price["recurring"]["usage_type"],
        },
    )


def _list(rows: list[Object], url: str) -> Object:
    return {"object": "list", "url": url, "has_more": False, "data": rows}
