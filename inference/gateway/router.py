"""From the name in `model=` to the places that may answer, in the order to try them. PURE.

A name is an instance's, or a route's: its targets by tier, within a tier by weight; or that of an
adapter, which some replicas of its instance have loaded and serve by that name. Of an instance's
replicas the one with the fewest outstanding requests is taken, or the one that has the
conversation in its cache as long as that is not much busier than the others (rendezvous hashing
with bounded load: https://arxiv.org/abs/1608.01350).
"""

import zlib
from collections.abc import Callable, Mapping, Set
from typing import Protocol

import msgspec

from inference.gateway.errors import Refusal, no_such_model
from inference.gateway.tables import Adapter, Instance, Key, Price, Provider, Replica, Route, Target

RETRY_AFTER = 5  # seconds; what a client of an instance that is on its way should wait
FAILURES_TO_OPEN = 5  # in a row; then nobody is sent there for a while
OPEN_SECONDS = 1.0  # the first time; doubled with each failed probe
LONGEST_OPEN = 30.0
LOAD_FACTOR = 1.25  # of the mean; how much busier the replica with the cache may be
_SPREAD = 0x9E3779B1  # odd, of no pattern: 2**32 over the golden ratio
KEPT = "responses/{id}"  # among an instance's endpoints where it keeps its answers
NOT_KEPT = (
    "Answers are not kept, so they cannot be asked for later, be gone on from, or be made in the "
    "background. Turn on 'Keep responses' in the settings of the instance."
)
ONE_ANSWER = (
    "This instance gives one answer to one prompt at a time: leave 'n' at 1 and write 'prompt' "
    "as a string."
)
PROVIDED = frozenset({"chat/completions", "completions", "embeddings", "responses"})

WORDS = {
    "requested": "has just been requested",
    "provisioning": "is being prepared",
    "loading": "is loading its model",
    "degraded": "does not answer right now",
    "asleep": "is asleep",
    "stopping": "is stopping",
    "stopped": "is stopped",
    "failed": "could not start",
}


class Tables(Protocol):
    """What `snapshot` keeps."""

    @property
    def instances(self) -> Mapping[tuple[bytes, str], Instance]: ...
    @property
    def instances_by_id(self) -> Mapping[bytes, Instance]: ...
    @property
    def routes(self) -> Mapping[tuple[bytes, str], Route]: ...
    @property
    def adapters(self) -> Mapping[tuple[bytes, str], Adapter]: ...
    @property
    def providers(self) -> Mapping[bytes, Provider]: ...


class Asleep(Refusal):
    """The instance sleeps or wakes: a request may wait for it."""

    def __init__(self, instance: Instance) -> None:
        super().__init__(
            503,
            f"The instance `{instance.name}` is waking up.",
            code="instance_not_ready",
            retry_after=RETRY_AFTER,
        )
        self.instance = instance


class Choice(msgspec.Struct):
    """One way that a request may go."""

    instance: Instance | None
    provider: Provider | None
    model: str  # its name there
    price: Price


def allowed(key: Key, model: str) -> bool:
    return not key.models_allowed or model in key.models_allowed


def plan(
    tables: Tables, key: Key, model: str, endpoint: str, draw: Callable[[], float]
) -> list[Choice]:
    """The ways that a request may go, first the best. `draw` is from 0 to 1. Raises Refusal."""
    if not allowed(key, model):
        raise no_such_model(model)
    instance = tables.instances.get((key.organization_id, model))
    if instance is not None:
        refusal = _unfit(instance, endpoint)
        if refusal is not None:
            raise refusal
        return [Choice(instance, None, model, instance.price)]
    route = tables.routes.get((key.organization_id, model))
    if route is not None:
        return _ways(tables, route, endpoint, draw)
    adapter = tables.adapters.get((key.organization_id, model))
    if adapter is None:
        raise no_such_model(model)
    refusal = _not_loaded(adapter) or _unfit(adapter.instance, endpoint)
    if refusal is not None:
        raise refusal
    return [Choice(adapter.instance, None, model, adapter.instance.price)]


def _ways(tables: Tables, route: Route, endpoint: str, draw: Callable[[], float]) -> list[Choice]:
    ways: list[Choice] = []
    refusals: list[Refusal] = []
    own_before = False
    for target in _in_order(route.targets, draw):
        # One that was deleted counts as well: it must not open the way out that it had closed.
        own_before = own_before or target.instance_id is not None
        choice = _choice(tables, target)
        if choice is None:
            continue
        if choice.instance is not None:
            refusal = _unfit(choice.instance, endpoint)
        elif endpoint not in PROVIDED:
            refusal = _not_offered(route.name, endpoint)
        elif own_before and not route.data_may_leave:
            continue
        else:
            refusal = None
        if refusal is None:
            ways.append(choice)
        else:
            refusals.append(refusal)
    if not ways:
        # One that may be waited for comes before those that may not.
        refusals.sort(key=lambda refusal: not isinstance(refusal, Asleep))
        raise refusals[0] if refusals else _leads_nowhere(route.name)
    return ways


def _in_order(targets: tuple[Target, ...], draw: Callable[[], float]) -> list[Target]:
    """By tier; within one a weighted draw without putting back."""
    if len(targets) == 1:
        return list(targets)
    # Efraimidis and Spirakis: the order of u^(1/w) is that of such a draw.
    return sorted(targets, key=lambda t: (t.tier, -(max(draw(), 1e-12) ** (1 / t.weight))))


def _choice(tables: Tables, target: Target) -> Choice | None:
    """None where what it names is gone."""
    if target.instance_id is not None:
        instance = tables.instances_by_id.get(target.instance_id)
        if instance is None:
            return None
        return Choice(instance, None, instance.name, instance.price)
    provider = tables.providers.get(target.provider_id or b"")
    if provider is None:
        return None
    return Choice(None, provider, target.provider_model, provider.price)


def _unfit(instance: Instance, endpoint: str) -> Refusal | None:
    """Why this instance cannot take such a request now."""
    if endpoint not in instance.endpoints:
        return _not_offered(instance.name, endpoint)
    if instance.replicas and instance.wanted:
        return _unpriced(instance) if instance.price.missing else None
    if sleeps(instance):
        return Asleep(instance)
    if instance.failure:
        return Refusal(
            503,
            f"The instance `{instance.name}` could not start: {instance.failure}",
            code="instance_failed",
            headers=b"X-Should-Retry: false\r\n",
        )
    state = WORDS.get(instance.state, "is not ready yet")
    if not instance.wanted and instance.state == "ready":
        state = WORDS["stopping"]
    return Refusal(
        503,
        f"The instance `{instance.name}` {state}.",
        code="instance_not_ready",
        retry_after=RETRY_AFTER,
    )


def _not_loaded(adapter: Adapter) -> Refusal | None:
    """Why its instance, which serves, does not serve this adapter."""
    if not adapter.loading:
        return None
    if adapter.failure:
        return Refusal(
            503,
            f"The adapter `{adapter.name}` could not be loaded: {adapter.failure}",
            code="adapter_failed",
            headers=b"X-Should-Retry: false\r\n",
        )
    return Refusal(
        503,
        f"The adapter `{adapter.name}` is being loaded.",
        code="adapter_not_ready",
        retry_after=RETRY_AFTER,
    )


def instance_named(tables: Tables, organization_id: bytes, model: str) -> Instance | None:
    """The one whose books a request for this name belongs to, if it leads to one alone."""
    instance = tables.instances.get((organization_id, model))
    if instance is None and (adapter := tables.adapters.get((organization_id, model))):
        return adapter.instance
    return instance


def sleeps(instance: Instance) -> bool:
    """Whether a request may wait for it, because it sleeps or is on its way up from there."""
    return instance.waited_for and not (instance.replicas and instance.wanted)


def _not_offered(model: str, endpoint: str) -> Refusal:
    return Refusal(
        404, f"The model `{model}` does not offer /v1/{endpoint}.", code="unsupported_endpoint"
    )


def _unpriced(instance: Instance) -> Refusal:
    return Refusal(
        503,
        f"The instance `{instance.name}` has no price in {instance.price.currency} yet, so nothing "
        "is let in. The operator of this service can set one.",
        code="no_price",
        headers=b"X-Should-Retry: false\r\n",
    )


def _leads_nowhere(name: str) -> Refusal:
    return Refusal(
        404,
        f"The route `{name}` leads to nothing that may answer any more.",
        code="model_not_found",
        param="model",
    )


def keepers(tables: Tables, key: Key) -> list[Choice]:
    """The instances that may have kept an answer. Raises Refusal."""
    ways = [
        Choice(instance, None, name, instance.price)
        for (organization_id, name), instance in tables.instances.items()
        if organization_id == key.organization_id
        and allowed(key, name)
        and _unfit(instance, KEPT) is None
    ]
    asked = {way.instance.id for way in ways if way.instance is not None}
    ways += [
        Choice(adapter.instance, None, name, adapter.instance.price)
        for (organization_id, name), adapter in tables.adapters.items()
        if organization_id == key.organization_id
        and adapter.instance.id not in asked  # a key may be kept to the adapter's name
        and allowed(key, name)
        and _unfit(adapter.instance, KEPT) is None
    ]
    if not ways:
        raise Refusal(404, NOT_KEPT, code="responses_not_kept")
    return ways


def that_keep(ways: list[Choice]) -> list[Choice]:
    """The ways among these that keep their answers. Raises Refusal."""
    keeping = [w for w in ways if w.instance is not None and KEPT in w.instance.endpoints]
    if not keeping:
        raise Refusal(400, NOT_KEPT, code="responses_not_kept")
    return keeping


def that_count_all(ways: list[Choice]) -> list[Choice]:
    """The ways among these that tell the usage of more than one answer. Raises Refusal."""
    able = [w for w in ways if w.instance is None or not w.instance.wire.one_answer]
    if not able:
        raise Refusal(400, ONE_ANSWER, code="unsupported_value")
    return able


def pick(instance: Instance, affinity: int | None, now: float, tried: Set[bytes]) -> Replica | None:
    """The replica to ask; None where all have been tried. `now` is monotonic seconds."""
    replicas = instance.replicas
    if len(replicas) == 1:
        only = replicas[0]
        return None if only.id in tried else only
    left = [replica for replica in replicas if replica.id not in tried]
    closed = [replica for replica in left if replica.open_until <= now]
    if not closed:  # all are said to be ill: ask the one that may be well soonest
        return min(left, key=lambda replica: replica.open_until) if left else None
    if affinity is not None:
        most = LOAD_FACTOR * sum(r.outstanding for r in closed) / len(closed) + 1
        preferred = max(closed, key=lambda replica: _rank(affinity, replica.id))
        if preferred.outstanding <= most:
            return _probed(preferred, now)
    return _probed(min(closed, key=lambda replica: replica.outstanding), now)


def reachable(provider: Provider, now: float, tried: Set[bytes]) -> Provider | None:
    """The provider, unless it has been tried or has failed too often of late."""
    if provider.id in tried or provider.open_until > now:
        return None
    if provider.failures >= FAILURES_TO_OPEN:
        provider.open_until = now + _open_seconds(provider.failures)
    return provider


def _rank(affinity: int, id_: bytes) -> int:
    # Of two ids the checksums differ by the same bits whatever the affinity, so alone they would
    # prefer one replica of three for half of all conversations. A product mixes them.
    return zlib.crc32(id_, affinity) * _SPREAD & 0xFFFFFFFF


def _probed(replica: Replica, now: float) -> Replica:
    """One that was ill is asked by a single request, until that one's answer is known."""
    if replica.failures >= FAILURES_TO_OPEN:
        replica.open_until = now + _open_seconds(replica.failures)
    return replica


def failed(where: Replica | Provider, now: float) -> None:
    """It did not answer, or with a fault of its own."""
    where.failures += 1
    if where.failures >= FAILURES_TO_OPEN:
        where.open_until = now + _open_seconds(where.failures)


def succeeded(where: Replica | Provider) -> None:
    where.failures = 0
    where.open_until = 0.0


def _open_seconds(failures: int) -> float:
    return min(OPEN_SECONDS * 2.0 ** (failures - FAILURES_TO_OPEN), LONGEST_OPEN)
