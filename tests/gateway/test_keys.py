"""Who may call what; and that a gateway learns of it at once from a real PostgreSQL."""

import asyncio
import time
from datetime import timedelta
from urllib.parse import urlsplit

import openai
import psycopg
import pytest
from asgiref.sync import sync_to_async
from django.conf import settings
from django.db import connection, connections
from django.utils import timezone

from accounts import keys
from accounts.models import ApiKey
from inference.gateway import snapshot as snapshots
from inference.gateway.connection import GatewayProtocol
from inference.gateway.server import GatewayRuntime
from inference.models import Instance, Replica
from portal.lib import env
from tests.gateway.house import House, chat
from tests.gateway.tables import UMBRELLA

# ------------------------------------------------------------------------ by hand-made tables


async def refusal(house: House, key: str, model: str = "demo") -> openai.APIStatusError:
    async with house.sdk(key) as client:
        with pytest.raises(openai.APIStatusError) as error:
            await client.chat.completions.create(**chat() | {"model": model})
    return error.value


async def test_a_key_reaches_its_own_organization_only(house: House):
    stranger = house.new_key(organization=UMBRELLA)
    assert (await refusal(house, stranger)).code == "model_not_found"
    assert house.rows() == []


async def test_a_key_with_a_list_of_models_reaches_these_only(house: House):
    house.snapshot.add_instance("other")
    key = house.new_key(models_allowed=frozenset({"other"}))
    assert (await refusal(house, key)).code == "model_not_found"
    assert (await refusal(house, key, "other")).code == "instance_not_ready"
    async with house.sdk(key) as client:
        assert [m.id async for m in client.models.list()] == []


@pytest.mark.parametrize("kind", ["api", "playground"])
async def test_keys_for_calls_may_call(house: House, kind):
    async with house.sdk(house.new_key(kind=kind)) as client:
        assert await client.chat.completions.create(**chat())


async def test_a_management_key_may_not_and_is_told_why(house: House):
    error = await refusal(house, house.new_key(kind="management"))
    assert (error.status_code, error.code) == (401, "invalid_api_key")
    assert "management key" in error.message


async def test_a_key_ends_when_it_expires(house: House):
    key = house.new_key(expires_at=time.time() + 0.2)
    async with house.sdk(key) as client:
        assert await client.chat.completions.create(**chat())
        await asyncio.sleep(0.25)
        with pytest.raises(openai.AuthenticationError):
            await client.chat.completions.create(**chat())


@pytest.mark.parametrize("key", ["mp-wrong", "sk-proj-abc", "mp-" + "0" * 33, "ключ"])
async def test_what_is_no_key_is_refused(house: House, key):
    reader, writer = await house.connect()
    house.key = key
    try:
        writer.write(house.call(chat()))
        assert (await reader.readline()).startswith(b"HTTP/1.1 401 ")
    finally:
        writer.close()


async def test_before_the_tables_are_loaded_nobody_is_called_a_stranger(house: House):
    house.snapshot.loaded.clear()
    house.snapshot.keys.clear()
    error = await refusal(house, house.key)
    assert (error.status_code, error.code) == (503, "starting")


# ---------------------------------------------------------------------- with a real PostgreSQL


class Wired(House):
    """The same with tables that follow the test's own database."""

    def __init__(self, home, runtime, port, key) -> None:
        self.home, self.runtime, self.port, self.key = home, runtime, port, key


def database() -> str:
    name = str(connection.settings_dict["NAME"])
    return urlsplit(settings.ENV.database)._replace(path=f"/{name}").geturl()


@pytest.fixture
async def wired(transactional_db, alice, acme, house: House):
    given = await sync_to_async(furnish)(acme, alice, house)
    runtime = GatewayRuntime(
        env.read({"MODELPORT_HOME": str(house.home), "DATABASE_URL": database()})
    )
    runtime.authenticator._pepper = settings.API_KEY_PEPPER
    await runtime.start()
    server = await runtime.loop.create_server(lambda: GatewayProtocol(runtime), "127.0.0.1", 0)
    yield Wired(house.home, runtime, server.sockets[0].getsockname()[1], given)
    server.close()
    await runtime.stop()
    await sync_to_async(connections.close_all)()


def furnish(acme, alice, house: House) -> str:
    instance = Instance.objects.create(
        organization=acme, name="demo", model_source="bundled", model_id="demo", state="ready"
    )
    Replica.objects.create(
        organization=acme,
        instance=instance,
        generation=1,
        state=Replica.State.READY,
        address=house.replica.address,
        context_length=2048,
    )
    return new_key(acme, alice)[1]


def new_key(acme, alice, **given):
    return ApiKey.issue(acme, alice, "test", **given)


async def works(wired: Wired, key: str) -> bool:
    async with wired.sdk(key) as client:
        try:
            await client.chat.completions.create(**chat())
        except openai.AuthenticationError:
            return False
    return True


async def test_what_the_database_has_is_served(wired: Wired):
    assert await works(wired, wired.key)


async def test_a_key_works_at_once_and_a_revoked_one_dies_within_a_second(wired, acme, alice):
    key, plain = await sync_to_async(new_key)(acme, alice)
    assert await works(wired, plain)
    await ApiKey.objects.filter(id=key.id).aupdate(revoked_at=timezone.now())
    revoked = time.monotonic()
    while await works(wired, plain):
        await asyncio.sleep(0.01)
    assert time.monotonic() - revoked < 1


async def test_a_key_is_looked_up_where_its_notice_has_not_come(wired, acme, alice, monkeypatch):
    async def deaf(*args: object) -> None: ...

    monkeypatch.setattr(wired.runtime.snapshot, "_take_in", deaf)
    _, plain = await sync_to_async(new_key)(acme, alice)
    assert await works(wired, plain)


async def test_a_stranger_s_key_is_looked_up_once_a_second(wired, monkeypatch):
    asked = []
    real = wired.runtime.snapshot._ask_for

    async def counted(digest: bytes) -> None:
        asked.append(digest)
        await real(digest)

    monkeypatch.setattr(wired.runtime.snapshot, "_ask_for", counted)
    stranger = keys.generate()
    assert [await works(wired, stranger) for _ in range(5)] == [False] * 5
    assert not any(await asyncio.gather(*[works(wired, stranger) for _ in range(10)]))
    assert len(asked) == 1


async def test_an_instance_that_is_stopped_takes_no_more_calls(wired: Wired):
    await Instance.objects.aupdate(desired="stopped")
    started = time.monotonic()
    async with wired.sdk() as client:
        while True:
            try:
                await client.chat.completions.create(**chat())
            except openai.InternalServerError as error:
                assert error.code == "instance_not_ready"
                break
            assert time.monotonic() - started < 1


async def test_with_the_database_away_it_goes_on_with_what_it_knows(wired, acme, alice):
    snapshot = wired.runtime.snapshot
    right, snapshot._database = snapshot._database, "postgresql:///nowhere?host=/nonexistent"
    await sync_to_async(hang_up_all)()
    async with asyncio.timeout(3):
        for _ in range(5):
            assert await works(wired, wired.key)
            assert not await works(wired, keys.generate())
            await asyncio.sleep(0.05)
    snapshot._database = right
    key, plain = await sync_to_async(new_key)(acme, alice, expires_at=None)
    async with asyncio.timeout(5):
        while not await works(wired, plain):
            await asyncio.sleep(0.1)
    await ApiKey.objects.filter(id=key.id).aupdate(expires_at=timezone.now() - timedelta(seconds=1))
    async with asyncio.timeout(5):
        while await works(wired, plain):
            await asyncio.sleep(0.05)


async def test_a_fault_of_ours_does_not_keep_revoked_keys_alive(wired, acme, alice, monkeypatch):
    real, faults = snapshots._endpoints, [RuntimeError("nobody foresaw this")]

    def faulty(*given: object) -> frozenset[str]:
        if faults:
            raise faults.pop()
        return real(*given)

    monkeypatch.setattr(snapshots, "_endpoints", faulty)
    await Instance.objects.aupdate(state="degraded")
    async with asyncio.timeout(5):
        while faults:
            await asyncio.sleep(0.01)
        await ApiKey.objects.aupdate(revoked_at=timezone.now())
        while await works(wired, wired.key):
            await asyncio.sleep(0.05)


def hang_up_all() -> None:
    """As a restart of PostgreSQL does to its clients."""
    with psycopg.connect(database(), autocommit=True) as other:
        other.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND application_name = 'modelport gateway'"
        )


async def test_the_playground_s_short_key_is_metered_as_its_own(wired, acme, alice):
    kind, soon = ApiKey.Kind.PLAYGROUND, timezone.now() + timedelta(minutes=10)
    key, plain = await sync_to_async(new_key)(acme, alice, kind=kind, expires_at=soon)
    assert await works(wired, plain)
    assert (await wired.closed_row()).admit.key_id == key.id.bytes
