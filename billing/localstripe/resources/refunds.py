"""What goes back: refunds, and disputes, which only the cardholder's bank begins."""

from stripe.params._dispute_list_params import DisputeListParams
from stripe.params._dispute_retrieve_params import DisputeRetrieveParams
from stripe.params._refund_create_params import RefundCreateParams
from stripe.params._refund_list_params import RefundListParams
from stripe.params._refund_retrieve_params import RefundRetrieveParams

from billing.localstripe.errors import ApiError
from billing.localstripe.resources.payments import move
from billing.localstripe.routing import Routes
from billing.localstripe.world import Object, World

routes = Routes()
routes.readable("refund", "/v1/refunds", RefundRetrieveParams, RefundListParams)
routes.readable("dispute", "/v1/disputes", DisputeRetrieveParams, DisputeListParams)


@routes("POST", "/v1/refunds", RefundCreateParams)
def create(world: World, p: Object) -> Object:
    charge = _charge_of(world, p)
    left = charge["amount"] - charge["amount_refunded"]
    amount = p.get("amount", left)
    if left == 0:
        raise ApiError(
            "The charge has already been refunded.", code="charge_already_refunded", param="amount"
        )
    if not 0 < amount <= left:
        raise ApiError("Refund amount is greater than unrefunded amount on charge.", param="amount")
    if charge["disputed"]:
        raise ApiError("The charge is disputed.", code="charge_disputed")
    refund = world.make(
        "refund",
        amount=amount,
        currency=charge["currency"],
        charge=charge["id"],
        payment_intent=charge["payment_intent"],
        metadata=p.get("metadata", {}),
        reason=p.get("reason"),
        status="succeeded",
    )
    moved = move(world, refund["id"], -amount, charge["currency"], "refund")
    refund = world.save(refund | {"balance_transaction": moved["id"]})
    charge = _refunded(world, charge, amount)
    world.emit("refund.created", refund)
    world.emit("charge.refunded", charge)
    return refund


def fail(world: World, id: str) -> Object:
    """The money could not be given back, and is on the account again."""
    refund = world.need("refund", id)
    if refund["status"] != "succeeded":
        raise ApiError("This refund is over.")
    moved = move(world, id, refund["amount"], refund["currency"], "refund_failure")
    refund = world.save(
        refund
        | {
            "status": "failed",
            "failure_reason": "expired_or_canceled_card",
            "failure_balance_transaction": moved["id"],
        }
    )
    _refunded(world, world.need("charge", refund["charge"]), -refund["amount"])
    world.emit("refund.updated", refund)
    world.emit("refund.failed", refund)
    return refund


def dispute(world: World, charge_id: str, amount: int | None = None) -> Object:
    """The cardholder says that they did not buy it; the bank takes the money back meanwhile."""
    charge = world.need("charge", charge_id)
    if charge["disputed"] or not charge["paid"]:
        raise ApiError("This charge cannot be disputed.")
    made = world.make(
        "dispute",
        amount=amount or charge["amount"],
        currency=charge["currency"],
        charge=charge_id,
        payment_intent=charge["payment_intent"],
        reason="fraudulent",
        status="needs_response",
        evidence_details={"submission_method": "not_submitted"},
    )
    moved = move(world, made["id"], -made["amount"], made["currency"], "adjustment")
    made = world.save(made | {"balance_transactions": [moved]})
    world.save(charge | {"disputed": True})
    world.emit("charge.dispute.created", made)
    world.emit("charge.dispute.funds_withdrawn", made)
    return made


def close(world: World, id: str, *, won: bool) -> Object:
    made = world.need("dispute", id)
    if made["status"] in {"won", "lost"}:
        raise ApiError("This dispute is over.")
    made["status"] = "won" if won else "lost"
    if won:
        back = move(world, id, made["amount"], made["currency"], "adjustment")
        made["balance_transactions"].append(back)
    made = world.save(made)
    world.emit("charge.dispute.closed", made)
    if won:
        world.emit("charge.dispute.funds_reinstated", made)
    return made


def _refunded(world: World, charge: Object, amount: int) -> Object:
    refunded = charge["amount_refunded"] + amount
    whole = refunded == charge["amount"]
    return world.save(charge | {"amount_refunded": refunded, "refunded": whole})


def _charge_of(world: World, p: Object) -> Object:
    if ("charge" in p) == ("payment_intent" in p):
        raise ApiError("You must pass one of charge or payment_intent.")
    if "charge" in p:
        return world.need("charge", p["charge"], "charge")
    intent = world.need("payment_intent", p["payment_intent"], "payment_intent")
    if intent["status"] != "succeeded":
        raise ApiError("This payment has no successful charge to refund.", param="payment_intent")
    return world.need("charge", intent["latest_charge"], "payment_intent")
