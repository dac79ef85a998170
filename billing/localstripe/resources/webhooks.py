"""Events, and the endpoints that they go to."""

from stripe._api_version import _ApiVersion
from stripe.params._event_list_params import EventListParams
from stripe.params._event_retrieve_params import EventRetrieveParams
from stripe.params._webhook_endpoint_create_params import WebhookEndpointCreateParams
from stripe.params._webhook_endpoint_delete_params import WebhookEndpointDeleteParams
from stripe.params._webhook_endpoint_list_params import WebhookEndpointListParams
from stripe.params._webhook_endpoint_retrieve_params import WebhookEndpointRetrieveParams
from stripe.params._webhook_endpoint_update_params import WebhookEndpointUpdateParams

from billing.localstripe.routing import Routes, page
from billing.localstripe.world import Object, World

routes = Routes()
routes.readable(
    "webhook_endpoint",
    "/v1/webhook_endpoints",
    WebhookEndpointRetrieveParams,
    WebhookEndpointListParams,
)
routes.readable("event", "/v1/events", EventRetrieveParams, None)


@routes("GET", "/v1/events", EventListParams)
def list_events(world: World, p: Object) -> Object:
    found = page(world, "event", "/v1/events", p)
    if "delivery_success" in p:  # of this page: a stand-in's lists are short
        found["data"] = [
            each for each in found["data"] if _arrived(world, each["id"]) == p["delivery_success"]
        ]
    return found


def _arrived(world: World, event: str) -> bool:
    open_ = world.store.db.execute(
        "SELECT count(*), coalesce(sum(done), 0) FROM delivery WHERE event = ?", [event]
    ).fetchone()
    return bool(open_[0] == 0 or open_[1] > 0)


@routes("POST", "/v1/webhook_endpoints", WebhookEndpointCreateParams)
def create(world: World, p: Object) -> Object:
    return listen(world, p["url"], p["enabled_events"], world.store.new_id("whsec", 32))


def listen(world: World, url: str, events: list[str], secret: str) -> Object:
    """An endpoint; its secret is told once, here."""
    endpoint = world.make(
        "webhook_endpoint",
        url=url,
        enabled_events=events,
        status="enabled",
        api_version=_ApiVersion.CURRENT,
    )
    world.keep_secret(endpoint["id"], secret)
    return endpoint | {"secret": secret}


@routes("POST", "/v1/webhook_endpoints/{id}", WebhookEndpointUpdateParams)
def update(world: World, p: Object, id: str) -> Object:
    endpoint = world.need("webhook_endpoint", id)
    if "disabled" in p:
        endpoint["status"] = "disabled" if p["disabled"] else "enabled"
    return world.save(endpoint | {n: p[n] for n in ("url", "enabled_events") if n in p})


@routes("DELETE", "/v1/webhook_endpoints/{id}", WebhookEndpointDeleteParams)
def delete(world: World, p: Object, id: str) -> Object:
    world.need("webhook_endpoint", id)
    world.store.delete(id)
    return {"id": id, "object": "webhook_endpoint", "deleted": True}
