"""`/v1/models`: what an organization's key may name in `model=`. PURE."""

from typing import Any, Protocol

import msgspec

from inference.gateway.errors import no_such_model
from inference.gateway.router import allowed, sleeps
from inference.gateway.tables import Adapter, Instance, Key, Route

MAX_NAME = 64  # characters of a name that an error repeats


class Tables(Protocol):
    def of_organization(self, organization_id: bytes) -> list[Instance]: ...
    def routes_of(self, organization_id: bytes) -> list[Route]: ...
    def adapters_of(self, organization_id: bytes) -> list[Adapter]: ...


def answer(tables: Tables, key: Key, name: str) -> bytes:
    """The list, or the one of that name. Raises Refusal."""
    listed = {model["id"]: model for model in _models(tables, key)}
    if not name:
        data = [listed[id_] for id_ in sorted(listed)]
        return msgspec.json.encode({"object": "list", "data": data})
    if name not in listed:
        raise no_such_model(name[:MAX_NAME])
    return msgspec.json.encode(listed[name])


def _models(tables: Tables, key: Key) -> list[dict[str, Any]]:
    routes = [
        _model(route.name, route.created_at.timestamp())
        for route in tables.routes_of(key.organization_id)
        if allowed(key, route.name)
    ]
    adapters = [
        _model(adapter.name, adapter.created_at.timestamp())
        | {"parent": adapter.instance.name, "max_model_len": _context(adapter.instance)}
        for adapter in tables.adapters_of(key.organization_id)
        if not adapter.loading and _is_there(adapter.instance) and allowed(key, adapter.name)
    ]
    # An instance's name wins over a route's, here as for calls.
    return (
        adapters
        + routes
        + [
            _model(instance.name, instance.created_at.timestamp())
            | {"max_model_len": _context(instance)}
            for instance in tables.of_organization(key.organization_id)
            if _is_there(instance) and allowed(key, instance.name)
        ]
    )


def _is_there(instance: Instance) -> bool:
    """Whether it answers, or wakes for whoever asks."""
    return bool(instance.replicas and instance.wanted) or sleeps(instance)


def _context(instance: Instance) -> int | None:
    return instance.replicas[0].context_length if instance.replicas else None


def _model(name: str, created: float) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": int(created), "owned_by": "organization"}
