"""The gateway's tables, filled by hand; no database."""

import asyncio
from datetime import UTC, datetime
from typing import Any

from accounts import keys
from inference.gateway.snapshot import Snapshot
from inference.gateway.tables import Instance, Key, Limit, Meter, Window
from portal.lib.ids import uuid7

ACME, UMBRELLA = uuid7().bytes, uuid7().bytes
GENERATE = frozenset({"chat/completions", "completions"})


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
        return instance

    def add_key(self, pepper: str, *, organization: bytes = ACME, **given: Any) -> str:
        plain = keys.generate()
        fields = {"kind": "api", "models_allowed": frozenset(), "expires_at": None} | given
        self.keys[keys.digest(plain, pepper)] = Key(uuid7().bytes, organization, **fields)
        return plain


def limit(amount: int, meter: str = "requests", window: str = "day", scope: str = "key") -> Limit:
    """A limit of its own. A day, for a minute may end in the middle of a test."""
    return Limit(uuid7().bytes, scope, Meter(meter), Window(window), amount)
