"""What a test can make happen: what banks and time do elsewhere."""

from collections.abc import Callable
from typing import Any

from billing.localstripe.errors import ApiError
from billing.localstripe.faults import Faults
from billing.localstripe.resources import billing, checkout, refunds
from billing.localstripe.world import Object, World


def act(world: World, what: str, told: dict[str, Any]) -> Object:
    """Raises ApiError."""
    if what not in ACTS:
        raise ApiError(f"There is no {what}; there are {', '.join(sorted(ACTS))}.", status=404)
    try:
        return ACTS[what](world, **told)
    except (TypeError, ValueError) as error:
        raise ApiError(f"{what}: {error}") from error


def _faults(world: World, **told: Any) -> Object:
    world.faults = Faults.of(told)
    return world.faults.told()


def _sleep(world: World, seconds: int) -> Object:
    """The clock goes on."""
    world.store.skew += int(seconds)
    for session in list(world.store.all("checkout.session")):
        checkout.look(world, session["id"])
    return {"now": world.now}


def _forget_keys(world: World) -> Object:
    world.store.forget_keys()
    return {}


def _waiting(world: World) -> Object:
    """How many deliveries nobody has taken yet."""
    rows = world.store.db.execute("SELECT count(*) FROM delivery WHERE done = 0")
    return {"deliveries": rows.fetchone()[0]}


ACTS: dict[str, Callable[..., Object]] = {
    "faults": _faults,
    "sleep": _sleep,
    "forget_keys": _forget_keys,
    "waiting": _waiting,
    "pay": checkout.pay,
    "arrive": checkout.arrive,
    "fail_refund": refunds.fail,
    "dispute": refunds.dispute,
    "close_dispute": refunds.close,
    "end_period": billing.end_period,
}
