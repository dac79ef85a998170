"""What the gateway must know of keys, instances and replicas, in its own memory.

Loaded at the start, then kept up by PostgreSQL's NOTIFY on `modelport_gateway` (payload
`table:id`, sent by triggers) and by a full reload now and then. With PostgreSQL away the last
known state goes on serving.
"""

import asyncio
import logging
import time
from collections.abc import Mapping
from typing import Any
from uuid import UUID

import psycopg

from inference.engines import ENGINES
from inference.gateway.tables import Instance, Key, Provider, Replica, Route

log = logging.getLogger(__name__)

CHANNEL = "modelport_gateway"
FULL_RELOAD = 60.0  # seconds
RECONNECT = 1.0  # seconds
UNKNOWN_FOR = 1.0  # seconds for which a key that was not found is not looked up again
LOOKUPS = 4  # look-ups of unknown keys at a time; strangers must not keep the database busy,
MOST_LOOKUPS = 256  # nor more than so many of them wait; what comes on top is not known
LOAD_TIMEOUT = 15.0  # seconds for a query; a database that takes longer is away
MOST_UNKNOWN = 10_000

_KEYS = """
    SELECT id, organization_id, kind, models_allowed, expires_at, digest FROM accounts_apikey
    WHERE revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())
"""
_INSTANCES = """
    SELECT id, organization_id, name, engine, settings, state, desired, created_at
    FROM inference_instance WHERE deleted_at IS NULL AND desired <> 'deleted'
"""
_REPLICAS = """
    SELECT id, instance_id, address, context_length FROM inference_replica
    WHERE state = 'ready' AND address <> ''
"""

Row = tuple[Any, ...]
Connection = psycopg.AsyncConnection[Row]


class Snapshot:
    """The tables. Read on the hot path by plain look-ups; written by `follow` alone."""

    def __init__(self, database: str) -> None:
        self._database = database
        self.keys: dict[bytes, Key] = {}  # by digest
        self.instances: dict[tuple[bytes, str], Instance] = {}  # by organization and name
        self.instances_by_id: dict[bytes, Instance] = {}
        self.routes: dict[tuple[bytes, str], Route] = {}  # by organization and name
        self.providers: dict[bytes, Provider] = {}
        self.origins: set[str] = set()  # of browser programs, over all keys
        self._digests: dict[bytes, bytes] = {}  # key id → digest
        self._unknown: dict[bytes, float] = {}
        self._lookups = asyncio.Semaphore(LOOKUPS)
        self._looking = 0
        self._keys_changed = 0
        self.loaded = asyncio.Event()

    def key(self, digest: bytes) -> Key | None:
        """The key of this digest, unless it has expired."""
        key = self.keys.get(digest)
        if key is not None and key.expires_at is not None and key.expires_at <= time.time():
            return None
        return key

    def of_organization(self, organization_id: bytes) -> list[Instance]:
        return [i for (owner, _), i in self.instances.items() if owner == organization_id]

    def routes_of(self, organization_id: bytes) -> list[Route]:
        return [r for (owner, _), r in self.routes.items() if owner == organization_id]

    async def look_up(self, digest: bytes) -> Key | None:
        """A key that was made so lately that its notice is still on its way."""
        if self._unknown.get(digest, 0) > time.monotonic() or self._looking >= MOST_LOOKUPS:
            return self.key(digest)
        self._looking += 1
        try:
            async with self._lookups, asyncio.timeout(LOAD_TIMEOUT):
                # Somebody may have asked for the same one, or the notice have come, meanwhile.
                if self._unknown.get(digest, 0) <= time.monotonic() and digest not in self.keys:
                    await self._ask_for(digest)
        except (psycopg.Error, TimeoutError) as error:
            log.warning("an unknown key could not be looked up: %s", error)
        finally:
            self._looking -= 1
        return self.key(digest)

    async def _ask_for(self, digest: bytes) -> None:
        async with await self._connect() as connection:
            changed = -1
            while changed != self._keys_changed:  # it may be revoked while we read it
                changed = self._keys_changed
                rows = await _fetch(connection, _KEYS + " AND digest = %s", [digest])
        for row in rows:
            self._add_key(row)
        if not rows:
            if len(self._unknown) >= MOST_UNKNOWN:
                self._unknown.clear()
            self._unknown[digest] = time.monotonic() + UNKNOWN_FOR

    async def follow(self) -> None:
        """Load, then keep up, for ever."""
        while True:
            try:
                async with await self._connect() as connection:
                    await connection.execute(f"LISTEN {CHANNEL}")
                    await self._keep_up(connection)
            except (psycopg.Error, TimeoutError) as error:
                log.warning("the gateway goes on with what it knows: %s", error)
            except Exception:  # whatever it was: a gateway that stopped following serves dead keys
                log.exception("the gateway could not take in what changed")
            await asyncio.sleep(RECONNECT)

    async def _connect(self) -> Connection:
        return await psycopg.AsyncConnection.connect(
            self._database,
            autocommit=True,
            application_name="modelport gateway",
            connect_timeout=5,
            keepalives_idle=5,  # a database that vanished without a word is noticed
            keepalives_interval=2,
            keepalives_count=3,
        )

    async def _keep_up(self, connection: Connection) -> None:
        while True:
            async with asyncio.timeout(LOAD_TIMEOUT):
                await self._load(connection)
            self.loaded.set()
            until = time.monotonic() + FULL_RELOAD
            while (left := until - time.monotonic()) > 0:
                # Taken in first: the connection can ask nothing while it listens.
                notices = [n.payload async for n in connection.notifies(timeout=left, stop_after=1)]
                async with asyncio.timeout(LOAD_TIMEOUT):
                    await self._take_in(connection, notices)

    async def _load(self, connection: Connection) -> None:
        keys = await _fetch(connection, _KEYS)
        self._keys_changed += 1
        self.keys.clear()
        self._digests.clear()
        for row in keys:
            self._add_key(row)
        await self._load_instances(connection)

    async def _take_in(self, connection: Connection, notices: list[str]) -> None:
        changed = {tuple(notice.split(":", 1)) for notice in notices if ":" in notice}
        ids = [id_ for table, id_ in changed if table == "accounts_apikey"]
        if ids:
            rows = await _fetch(connection, _KEYS + " AND id = ANY(%s::uuid[])", [ids])
            self._keys_changed += 1
            for id_ in ids:
                self._forget_key(UUID(id_).bytes)
            for row in rows:
                self._add_key(row)
        if len(ids) < len(changed):
            # Few and small: read anew, so that an instance and its replicas never disagree.
            await self._load_instances(connection)

    async def _load_instances(self, connection: Connection) -> None:
        instances = await _fetch(connection, _INSTANCES)
        replicas = await _fetch(connection, _REPLICAS)
        made = {instance.id: instance for instance in map(_instance, instances)}
        former = {r.id: r for i in self.instances.values() for r in i.replicas}
        for row in replicas:
            _add_replica(made, row, former)
        self.instances_by_id = made
        self.instances = {(i.organization_id, i.name): i for i in made.values()}

    def _add_key(self, row: Row) -> None:
        id_, organization, kind, models, expires, digest = row
        key = Key(
            id_.bytes,
            organization.bytes,
            kind,
            frozenset(models),
            expires.timestamp() if expires else None,
        )
        self.keys[bytes(digest)] = key
        self._digests[key.id] = bytes(digest)
        self._unknown.pop(bytes(digest), None)

    def _forget_key(self, id_: bytes) -> None:
        digest = self._digests.pop(id_, None)
        if digest is not None:
            self.keys.pop(digest, None)


def _instance(row: Row) -> Instance:
    id_, organization, name, engine, settings, state, desired, created = row
    offered, wanted = _endpoints(engine, settings), desired == "running"
    return Instance(id_.bytes, organization.bytes, name, state, offered, created, wanted=wanted)


def _add_replica(
    instances: Mapping[bytes, Instance], row: Row, former: Mapping[bytes, Replica]
) -> None:
    id_, instance_id, address, context_length = row
    instance = instances.get(instance_id.bytes)
    if instance is None:
        return
    known = former.get(id_.bytes)
    if known is not None and known.address == address:
        known.context_length = context_length
        instance.replicas.append(known)  # it keeps its count of outstanding requests
    else:
        instance.replicas.append(Replica(id_.bytes, instance.id, address, context_length))


def _endpoints(engine: str, settings: Mapping[str, Any]) -> frozenset[str]:
    known = ENGINES.get(engine)
    paths = known.endpoints(settings) if known else frozenset()
    return frozenset(path.removeprefix("/v1/") for path in paths)


async def _fetch(connection: Connection, query: Any, parameters: Any = None) -> list[Row]:
    cursor = await connection.execute(query, parameters)
    return await cursor.fetchall()
