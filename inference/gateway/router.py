"""From an organization's model name to a replica that can answer. PURE."""

from inference.gateway.errors import Refusal, no_such_model
from inference.gateway.tables import Instance, Key, Replica

RETRY_AFTER = 5  # seconds; what a client of an instance that is on its way should wait

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


def allowed(key: Key, model: str) -> bool:
    return not key.models_allowed or model in key.models_allowed


def choose(instance: Instance | None, key: Key, model: str, endpoint: str) -> Replica:
    """The replica with the fewest outstanding requests. Raises Refusal."""
    if instance is None or not allowed(key, model):
        raise no_such_model(model)
    if endpoint not in instance.endpoints:
        raise Refusal(
            404,
            f"The instance `{model}` does not offer /v1/{endpoint}.",
            code="unsupported_endpoint",
        )
    if not instance.replicas or not instance.wanted:
        state = WORDS.get(instance.state, "is not ready yet")
        if not instance.wanted and instance.state == "ready":
            state = WORDS["stopping"]
        raise Refusal(
            503,
            f"The instance `{model}` {state}.",
            code="instance_not_ready",
            retry_after=RETRY_AFTER,
        )
    return min(instance.replicas, key=lambda replica: replica.outstanding)
