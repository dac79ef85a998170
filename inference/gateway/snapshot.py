"""What the gateway must know of keys, instances and replicas, in its own memory.

Loaded at the start, then kept up by PostgreSQL's NOTIFY on `modelport_gateway` (payload
`table:id`, sent by triggers) and by a full reload now and then. With PostgreSQL away the last
known state goes on serving.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any
from uuid import UUID

import psycopg

from billing import top_up
from inference.doctor import without_paths
from inference.engines import ENGINES
from inference.engines.base import Wire
from inference.gateway import prices
from inference.gateway.tables import (
    Adapter,
    Credit,
    Instance,
    Key,
    Limit,
    Meter,
    Provider,
    Replica,
    Route,
    Target,
    Window,
)

log = logging.getLogger(__name__)

CHANNEL = "modelport_gateway"
PROVIDER_SECRETS = "provider"  # what they are encrypted for
FULL_RELOAD = 60.0  # seconds
RECONNECT = 1.0  # seconds
UNKNOWN_FOR = 1.0  # seconds for which a key that was not found is not looked up again
LOOKUPS = 4  # look-ups of unknown keys at a time; strangers must not keep the database busy,
MOST_LOOKUPS = 256  # nor more than so many of them wait; what comes on top is not known
LOAD_TIMEOUT = 15.0  # seconds for a query; a database that takes longer is away
MOST_UNKNOWN = 10_000

_KEYS = """
    SELECT k.id, k.organization_id, k.kind, k.models_allowed, k.expires_at, k.digest, k.origins, (
        SELECT m.id FROM accounts_membership m
        WHERE m.organization_id = k.organization_id AND m.user_id = k.created_by_id
    )
    FROM accounts_apikey k
    WHERE k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > now())
"""
_INSTANCES = """
    SELECT id, organization_id, name, engine, settings, state, desired, created_at,
        queue_size, queue_seconds, sleep_after_minutes IS NOT NULL AND approval IN ('', 'granted'),
        CASE WHEN state = 'failed' AND attempts > 0 THEN message ELSE '' END,
        stage, typical_start_seconds, CASE WHEN state <> 'ready' AND desired = 'running' THEN (
            SELECT max(e.at) FROM inference_instanceevent e
            WHERE e.instance_id = i.id AND e.generation = i.generation
                AND e.reason = 'wake_requested'
        ) END, model_id
    FROM inference_instance i WHERE deleted_at IS NULL AND desired <> 'deleted'
"""
_REPLICAS = """
    SELECT id, instance_id, address, context_length, gpu_type, adapters FROM inference_replica
    WHERE state = 'ready' AND address <> '' ORDER BY id
"""
_ADAPTERS = """
    SELECT id, instance_id, name, created_at, CASE WHEN state = 'failed' THEN message ELSE '' END
    FROM inference_adapter WHERE removed_at IS NULL AND state <> 'removing'
"""
_CREDIT = """
    SELECT o.id, o.slug, p.currency, COALESCE(p.postpaid, false), p.suspended_at IS NOT NULL
    FROM accounts_organization o LEFT JOIN billing_profile p ON p.organization_id = o.id
"""
_LIMITS = """
    SELECT id, scope, meter, "window", amount,
        COALESCE(instance_id, api_key_id, membership_id, organization_id)
    FROM inference_limit
    UNION ALL  -- budgets that are spent, of keys with the key that was there before
    SELECT b.id, CASE WHEN b.project_id IS NOT NULL THEN 'project' WHEN b.api_key_id IS NOT NULL
            THEN 'key' WHEN b.membership_id IS NOT NULL THEN 'member' ELSE 'organization' END,
        'spend', 'month', 0, COALESCE(k.id, b.membership_id, b.organization_id)
    FROM billing_budget b LEFT JOIN accounts_apikey k ON k.project_id = b.project_id
        OR k.id = b.api_key_id
        OR k.id = (SELECT n.rotated_from_id FROM accounts_apikey n WHERE n.id = b.api_key_id)
    WHERE b.stopped_until > now() AND (b.project_id IS NULL OR k.id IS NOT NULL)
    UNION ALL  -- organizations that the operator has stopped
    SELECT organization_id, 'organization', 'spend', 'month', 0, organization_id
    FROM billing_profile WHERE blocked_at IS NOT NULL
    ORDER BY 1
"""
_ROUTES = """
    SELECT id, organization_id, name, data_may_leave, created_at FROM inference_route
"""
_TARGETS = """
    SELECT route_id, instance_id, provider_id, provider_model, tier, weight
    FROM inference_routetarget ORDER BY tier, id
"""
_PROVIDERS = """
    SELECT id, organization_id, name, base_url, encrypted FROM inference_provider
"""
Row = tuple[Any, ...]
Connection = psycopg.AsyncConnection[Row]


class Snapshot:
    """The tables. Read on the hot path by plain look-ups; written by `follow` alone."""

    def __init__(
        self, database: str, secret: str = "", currency: str = "USD", *, url: str = ""
    ) -> None:
        """`secret` is the installation's own, with which providers' are encrypted; `currency` that
        of organizations that have not chosen one; `url` is where people find the portal."""
        self._database = database
        self._secret = secret
        self._currency = currency
        self._url = url
        self._prices_change_at = float("inf")  # monotonic seconds
        self.keys: dict[bytes, Key] = {}  # by digest
        self.instances: dict[tuple[bytes, str], Instance] = {}  # by organization and name
        self.instances_by_id: dict[bytes, Instance] = {}
        self.routes: dict[tuple[bytes, str], Route] = {}  # by organization and name
        self.adapters: dict[tuple[bytes, str], Adapter] = {}  # by organization and name
        self.providers: dict[bytes, Provider] = {}
        self.origins: set[str] = set()  # of browser programs, over all keys
        self._limits: dict[bytes, tuple[Limit, ...]] = {}  # by the id of whose they are
        self._credit: dict[bytes, Credit] = {}  # by organization
        self._digests: dict[bytes, bytes] = {}  # key id → digest
        self._unknown: dict[bytes, float] = {}
        self._lookups = asyncio.Semaphore(LOOKUPS)
        self._looking = 0
        self._keys_changed = 0
        self.on_change: Callable[[], None] = lambda: None  # called when the tables are new
        self.loaded = asyncio.Event()
        self.loaded_at = time.monotonic()  # the newest full look

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

    def adapters_of(self, organization_id: bytes) -> list[Adapter]:
        return [a for (owner, _), a in self.adapters.items() if owner == organization_id]

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
                rows = await _fetch(connection, _KEYS + " AND k.digest = %s", [digest])
        for row in rows:
            self._add_key(row)
        self._gather_origins()
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
            self.on_change()
            self.loaded_at = time.monotonic()
            until = time.monotonic() + FULL_RELOAD
            while (left := min(until, self._prices_change_at) - time.monotonic()) > 0:
                # Taken in first: the connection can ask nothing while it listens.
                notices = [n.payload async for n in connection.notifies(timeout=left, stop_after=1)]
                async with asyncio.timeout(LOAD_TIMEOUT):
                    await self._take_in(connection, notices)
                if notices:
                    self.on_change()

    async def _load(self, connection: Connection) -> None:
        keys = await _fetch(connection, _KEYS)
        await self._load_rest(connection)
        self._keys_changed += 1
        self.keys.clear()
        self._digests.clear()
        for row in keys:
            self._add_key(row)
        self._gather_origins()

    async def _take_in(self, connection: Connection, notices: list[str]) -> None:
        changed = {tuple(notice.split(":", 1)) for notice in notices if ":" in notice}
        ids = [id_ for table, id_ in changed if table == "accounts_apikey"]
        if ids:
            rows = await _fetch(connection, _KEYS + " AND k.id = ANY(%s::uuid[])", [ids])
            self._keys_changed += 1
            for id_ in ids:
                self._forget_key(UUID(id_).bytes)
            for row in rows:
                self._add_key(row)
            self._gather_origins()
        if len(ids) < len(changed):
            # Few and small: read anew, so that an instance and its replicas never disagree.
            await self._load_rest(connection)
            for key in self.keys.values():
                key.limits = self._limits_of(key)
                key.credit = self._credit_of(key)

    async def _load_rest(self, connection: Connection) -> None:
        """All but the keys."""
        instances = await _fetch(connection, _INSTANCES)
        replicas = await _fetch(connection, _REPLICAS)
        adapters = await _fetch(connection, _ADAPTERS)
        limits = await _fetch(connection, _LIMITS)
        credit = await _fetch(connection, _CREDIT)
        routes = await _fetch(connection, _ROUTES)
        targets = await _fetch(connection, _TARGETS)
        providers = await _fetch(connection, _PROVIDERS)
        versions = await _fetch(connection, prices.VERSIONS)
        currencies = await _fetch(connection, prices.CURRENCIES)
        discounts = await _fetch(connection, prices.DISCOUNTS)
        ((changes_in,),) = await _fetch(connection, prices.NEXT)
        # No await from here on: nobody sees it half done.
        self._limits = _limits(limits)
        self._credit = {id_.bytes: self._credit_in(id_, *rest) for id_, *rest in credit}
        made = {instance.id: instance for instance in map(_instance, instances)}
        for instance in made.values():
            instance.limits = self._limits.get(instance.id, ())
        former = {r.id: r for i in self.instances.values() for r in i.replicas}
        for row in replicas:
            _add_replica(made, row[:5], former)
        loaded = {row[0].bytes: set(row[-1]) for row in replicas}
        now = prices.Prices(versions, currencies, discounts, self._currency)
        _set_prices(made, instances, [row[:5] for row in replicas], now)
        # A breath later, so that the database's clock is past it by then.
        soon = float("inf") if changes_in is None else max(0.0, changes_in) + 0.01
        self._prices_change_at = time.monotonic() + soon
        self.instances_by_id = made
        self.instances = {(i.organization_id, i.name): i for i in made.values()}
        self.adapters = {
            (adapter.instance.organization_id, adapter.name): adapter
            for row in adapters
            if (adapter := _adapter(row, made, loaded)) is not None
        }
        self.routes = {(r.organization_id, r.name): r for r in _routes(routes, targets)}
        self.providers = {
            provider.id: provider
            for row in providers
            if (provider := _provider(row, self._secret, self.providers)) is not None
        }

    def _limits_of(self, key: Key) -> tuple[Limit, ...]:
        limits = self._limits
        return (
            limits.get(key.id, ())
            + limits.get(key.membership_id, ())
            + limits.get(key.organization_id, ())
        )

    def _credit_in(
        self, id_: UUID, slug: str, currency: str | None, postpaid: bool, suspended: bool
    ) -> Credit:
        return Credit(
            id_.bytes,
            currency=currency or self._currency,
            page=self._url + top_up.path(slug),
            postpaid=postpaid,
            suspended=suspended,
        )

    def _credit_of(self, key: Key) -> Credit:
        """One that was founded a moment ago is as any that has paid nothing in yet."""
        known = self._credit.get(key.organization_id)
        return known or Credit(key.organization_id, currency=self._currency, page=self._url)

    def _gather_origins(self) -> None:
        self.origins = {origin for key in self.keys.values() for origin in key.origins}

    def _add_key(self, row: Row) -> None:
        id_, organization, kind, models, expires, digest, origins, membership = row
        key = Key(
            id_.bytes,
            organization.bytes,
            kind,
            frozenset(models),
            expires.timestamp() if expires else None,
            origins=frozenset(origins),
            membership_id=membership.bytes if membership else b"",
        )
        key.limits = self._limits_of(key)
        key.credit = self._credit_of(key)
        self.keys[bytes(digest)] = key
        self._digests[key.id] = bytes(digest)
        self._unknown.pop(bytes(digest), None)

    def _forget_key(self, id_: bytes) -> None:
        digest = self._digests.pop(id_, None)
        if digest is not None:
            self.keys.pop(digest, None)


def _instance(row: Row) -> Instance:
    id_, organization, name, engine, settings, state, desired, created, *rest = row
    size, seconds, sleeper, failure, stage, typical, woken, _model = rest
    asleep = desired == "asleep"
    failure = "" if asleep else without_paths(failure)
    return Instance(
        id_.bytes,
        organization.bytes,
        name,
        state,
        _endpoints(engine, settings),
        created,
        engine,
        _wire(engine),
        wanted=desired == "running",
        asleep=asleep,
        waited_for=asleep
        or (desired == "running" and not failure and (sleeper or woken is not None)),
        failure=failure,
        stage=stage,
        typical_start_seconds=typical,
        woken_at=woken.timestamp() if woken else 0.0,
        queue_size=size,
        queue_seconds=seconds,
    )


def _add_replica(
    instances: Mapping[bytes, Instance], row: Row, former: Mapping[bytes, Replica]
) -> None:
    id_, instance_id, address, context_length, _gpu_type = row
    instance = instances.get(instance_id.bytes)
    if instance is None:
        return
    known = former.get(id_.bytes)
    if known is not None and known.address == address:
        known.context_length = context_length
        instance.replicas.append(known)  # it keeps its count of outstanding requests
    else:
        instance.replicas.append(Replica(id_.bytes, instance.id, address, context_length))


def _adapter(
    row: Row, instances: Mapping[bytes, Instance], loaded: Mapping[bytes, set[str]]
) -> Adapter | None:
    """`loaded` are the ids of the adapters that each replica has."""
    id_, instance_id, name, created, failure = row
    instance = instances.get(instance_id.bytes)
    if instance is None:
        return None
    having = [replica for replica in instance.replicas if str(id_) in loaded[replica.id]]
    return Adapter(
        name,
        created,
        replace(instance, replicas=having),
        failure,
        loading=bool(instance.replicas and instance.wanted and not having),
    )


def _endpoints(engine: str, settings: Mapping[str, Any]) -> frozenset[str]:
    known = ENGINES.get(engine)
    paths = known.endpoints(settings) if known else frozenset()
    return frozenset(path.removeprefix("/v1/") for path in paths)


def _wire(engine: str) -> Wire:
    known = ENGINES.get(engine)
    return known.wire if known else Wire()


def _limits(rows: list[Row]) -> dict[bytes, tuple[Limit, ...]]:
    """By the id of whose they are."""
    limits: dict[bytes, tuple[Limit, ...]] = {}
    for id_, scope, meter, window, amount, subject in rows:
        limit = Limit(id_.bytes, scope, Meter(meter), Window(window), amount)
        limits[subject.bytes] = (*limits.get(subject.bytes, ()), limit)
    return limits


def _routes(rows: list[Row], targets: list[Row]) -> list[Route]:
    ways: dict[bytes, list[Target]] = {}
    for route_id, instance_id, provider_id, model, tier, weight in targets:
        target = Target(
            instance_id.bytes if instance_id else None,
            provider_id.bytes if provider_id else None,
            model,
            tier,
            weight,
        )
        ways.setdefault(route_id.bytes, []).append(target)
    return [
        Route(id_.bytes, owner.bytes, name, leave, created, tuple(ways.get(id_.bytes, ())))
        for id_, owner, name, leave, created in rows
    ]


def _provider(row: Row, secret: str, former: Mapping[bytes, Provider]) -> Provider | None:
    """The provider with its secret in clear; None where that cannot be read."""
    id_, organization, name, base_url, encrypted = row
    try:
        from portal.lib import crypto  # noqa: PLC0415  6 MB for what few gateways have

        plain = crypto.decrypt(bytes(encrypted), key=secret, purpose=PROVIDER_SECRETS)
    except crypto.UnreadableSecret:
        log.error("the secret of provider %s cannot be read; enter it again", id_)
        return None
    known = former.get(id_.bytes)
    if known is not None and (known.base_url, known.secret) == (base_url, plain):
        known.name = name
        return known  # it keeps its count of failures
    return Provider(id_.bytes, organization.bytes, name, base_url, plain)


def _set_prices(
    made: Mapping[bytes, Instance], instances: list[Row], replicas: list[Row], now: prices.Prices
) -> None:
    """Where replicas run on several types of GPU, the one that has been there longest says which
    price holds: a request is priced before it is known which replica takes it."""
    gpu_types: dict[bytes, str] = {}
    for _id, instance_id, _address, _context, gpu_type in replicas:
        gpu_types.setdefault(instance_id.bytes, gpu_type)
    for id_, *_rest, model in instances:
        instance = made[id_.bytes]
        instance.price = now.of(
            instance.organization_id,
            model=model,
            engine=instance.engine,
            gpu_type=gpu_types.get(instance.id, ""),
        )


async def _fetch(connection: Connection, query: Any, parameters: Any = None) -> list[Row]:
    cursor = await connection.execute(query, parameters)
    return await cursor.fetchall()
