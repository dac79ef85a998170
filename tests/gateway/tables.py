"""The gateway's tables, filled by hand; no database."""

import asyncio
from datetime import UTC, datetime
from typing import Any

from accounts import keys
from inference.gateway.snapshot import Snapshot
from inference.gateway.tables import (
    Adapter,
    Instance,
    Key,
    Limit,
    Meter,
    Provider,
    Route,
    Target,
    Window,
)
from portal.lib.ids import uuid7

ACME, UMBRELLA = uuid7().bytes, uuid7().bytes
GENERATE = frozenset(
    {"chat/completions", "completions", "responses", "messages", "messages/count_tokens"}
)


class StillSnapshot(Snapshot):
    async def follow(self) -> None:
        self.loaded.set()
        await asyncio.Event().wait()

    async def _ask_for(self, digest: bytes) -> None:
        self._unknown[digest] = float("inf")

    def add_instance(self, name: str, *, organization: bytes = ACME, **given: Any) -> Instance:
        fields = {"state": "ready", "endpoints": GENERATE, "created_at": datetime.now(UTC)} | given
        instance = Instance(uuid7().bytes, organization, name, **fields)
        self.instances[organization, name] = instance
        self.instances_by_id[instance.id] = instance
        return instance

    def add_route(self, name: str, *targets: Target, **given: Any) -> Route:
        fields = {"data_may_leave": False, "created_at": datetime.now(UTC)} | given
        route = Route(uuid7().bytes, ACME, name, targets=targets, **fields)
        self.routes[ACME, name] = route
        return route

    def add_adapter(self, name: str, instance: Instance, **given: Any) -> Adapter:
        """One that all replicas of this instance have loaded, unless said otherwise."""
        fields = {"created_at": datetime.now(UTC), "instance": instance} | given
        adapter = self.adapters[instance.organization_id, name] = Adapter(name, **fields)
        return adapter

    def add_provider(self, name: str, base_url: str) -> Provider:
        provider = Provider(uuid7().bytes, ACME, name, base_url, "sk-theirs")
        self.providers[provider.id] = provider
        return provider

    def add_key(
        self, pepper: str, *, organization: bytes = ACME, plain: str = "", **given: Any
    ) -> str:
        plain = plain or keys.generate()
        fields = {"kind": "api", "models_allowed": frozenset(), "expires_at": None} | given
        self.keys[keys.digest(plain, pepper)] = Key(uuid7().bytes, organization, **fields)
        self._gather_origins()
        return plain


def limit(amount: int, meter: str = "requests", window: str = "day", scope: str = "key") -> Limit:
    """A limit of its own. A day, for a minute may end in the middle of a test."""
    return Limit(uuid7().bytes, scope, Meter(meter), Window(window), amount)
