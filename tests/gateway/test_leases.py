"""Limits over two gateways of a machine: the real meter's socket, the real database."""

import asyncio
import threading
from collections import Counter
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import openai
import psycopg
import pytest
from asgiref.sync import sync_to_async
from django.db import connections
from django.utils import timezone

from billing.models import LimitGrant, LimitSlots
from inference import grants
from inference.gateway.connection import GatewayProtocol
from inference.gateway.server import GatewayRuntime
from inference.wake import wake
from portal.lib import env
from tests.gateway.house import House, chat
from tests.gateway.tables import limit
from tests.gateway.test_keys import database

pytestmark = pytest.mark.django_db(transaction=True)


class Pair:
    """The house and a second gateway beside it, which knows the same keys."""

    def __init__(self, house: House, other: GatewayRuntime, port: int) -> None:
        self.house, self.other, self.port = house, other, port
        self.environment = env.read({"MODELPORT_HOME": str(house.home)})
        self.stop = threading.Event()
        self.meter: threading.Thread | None = None

    def start_meter(self, of: str = "") -> None:
        self.stop = threading.Event()
        socket = self.environment.meter_socket
        self.meter = grants.in_thread(socket, of or database(), wake, self.stop)

    async def stop_meter(self) -> None:
        self.stop.set()
        if self.meter is not None:
            await asyncio.to_thread(self.meter.join)

    def sdks(self, key: str) -> list[openai.AsyncOpenAI]:
        return [
            openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key=key, max_retries=0)
            for port in (self.house.port, self.port)
        ]

    async def connected(self) -> None:
        leases = (self.house.runtime.leases, self.other.leases)
        await self.house.until(lambda: all(each._writer is not None for each in leases))


@pytest.fixture
async def pair(house: House):
    runtime = GatewayRuntime(env.read({"MODELPORT_HOME": str(house.home)}), snapshot=house.snapshot)
    await runtime.start()
    server = await runtime.loop.create_server(lambda: GatewayProtocol(runtime), "127.0.0.1", 0)
    made = Pair(house, runtime, server.sockets[0].getsockname()[1])
    made.start_meter()
    await made.connected()
    yield made
    server.close()
    await runtime.stop()
    await made.stop_meter()
    await sync_to_async(connections.close_all)()


@asynccontextmanager
async def clients(pair: Pair, key: str):
    both = pair.sdks(key)
    try:
        yield both
    finally:
        for each in both:
            await each.close()


async def status_of(client: openai.AsyncOpenAI, **given) -> int:
    try:
        await client.chat.completions.create(**chat(**given))
    except openai.APIStatusError as error:
        return error.status_code
    return 200


async def test_sixty_four_clients_over_two_gateways_get_just_what_the_limit_says(pair: Pair):
    key = pair.house.new_key(limits=(limit(100),))
    async with clients(pair, key) as both:

        async def client(number: int) -> list[int]:
            return [await status_of(both[(number + i) % 2]) for i in range(4)]

        statuses = await asyncio.gather(*(client(number) for number in range(64)))
    counted = Counter(status for each in statuses for status in each)
    assert counted == {200: 100, 429: 156}
    granted = await LimitGrant.objects.aget()
    assert granted.granted == 100


async def test_a_gateway_gets_what_the_other_does_not_use(pair: Pair):
    key = pair.house.new_key(limits=(limit(20),))
    async with clients(pair, key) as (first, second):
        assert await status_of(first) == 200  # and it holds a few more
        counted = Counter([await status_of(second) for _ in range(25)])
    assert counted == {200: 19, 429: 6}


async def test_a_refused_client_is_told_when_to_come_back(pair: Pair):
    key = pair.house.new_key(limits=(limit(1),))
    async with clients(pair, key) as (first, second):
        answer = await first.chat.completions.with_raw_response.create(**chat())
        assert answer.headers["x-ratelimit-limit-requests"] == "1"
        assert answer.headers["x-ratelimit-remaining-requests"] == "0"
        assert answer.headers["x-ratelimit-reset-requests"].endswith("s")
        with pytest.raises(openai.RateLimitError) as refused:
            await second.chat.completions.create(**chat())
    assert refused.value.code == "rate_limit_exceeded"
    assert int(refused.value.response.headers["retry-after"]) > 0


async def test_requests_at_a_time_hold_over_both_and_are_let_go(pair: Pair):
    key = pair.house.new_key(limits=(limit(4, "concurrent", "now"),))
    pair.house.engine.delay = 0.05
    async with clients(pair, key) as both:
        counted = Counter(await asyncio.gather(*(status_of(both[i % 2]) for i in range(12))))
        assert counted == {200: 4, 429: 8}
        pair.house.engine.delay = 0
        assert [await status_of(both[i % 2]) for i in range(8)] == [200] * 8


async def test_the_line_of_an_instance_serves_everybody_in_turn(pair: Pair):
    slots = limit(2, "concurrent", "now", "instance")
    pair.house.instance.limits = (slots,)
    pair.house.instance.queue_size, pair.house.instance.queue_seconds = 100, 20
    key = pair.house.new_key()
    async with clients(pair, key) as both:
        calls = [status_of(both[i % 2]) for i in range(40)]
        assert Counter(await asyncio.gather(*calls)) == {200: 40}
    assert pair.house.replica.outstanding == 0


async def test_a_meter_that_begins_anew_forgets_nothing(pair: Pair):
    key = pair.house.new_key(limits=(limit(30), limit(3, "concurrent", "now")))
    async with clients(pair, key) as both:
        served = Counter([await status_of(both[i % 2]) for i in range(10)])
        await pair.stop_meter()
        served += Counter([await status_of(both[i % 2]) for i in range(4)])
        pair.start_meter()
        await pair.connected()
        served += Counter([await status_of(both[i % 2]) for i in range(30)])
    assert served == {200: 30, 429: 14}


async def test_with_the_database_away_the_limit_holds_all_the_same(pair: Pair):
    await pair.stop_meter()
    pair.start_meter("postgresql:///nowhere?host=/nonexistent")
    await pair.connected()
    key = pair.house.new_key(limits=(limit(50),))
    async with clients(pair, key) as both:
        served = Counter([await status_of(both[i % 2]) for i in range(64)])
    assert served == {200: 50, 429: 14}


class Machine:
    """A gateway and a meter as on another machine, with the house's engine and keys."""

    def __init__(self, runtime: GatewayRuntime, port: int, home: Path) -> None:
        self.runtime, self.port = runtime, port
        self.socket = env.read({"MODELPORT_HOME": str(home)}).meter_socket
        self.stop = threading.Event()
        self.meter = grants.in_thread(self.socket, database(), wake, self.stop)

    def sdk(self, key: str) -> openai.AsyncOpenAI:
        base_url = f"http://127.0.0.1:{self.port}/v1"
        return openai.AsyncOpenAI(base_url=base_url, api_key=key, max_retries=0)


@pytest.fixture
async def machines(house: House, tmp_path_factory):
    """Two, of which the house is none."""
    made: list[Machine] = []
    servers = []
    for name in ("a", "b"):
        home = tmp_path_factory.mktemp(name)
        (home / "secrets").mkdir(mode=0o700)
        for secret in (house.home / "secrets").iterdir():
            (home / "secrets" / secret.name).write_bytes(secret.read_bytes())
            (home / "secrets" / secret.name).chmod(0o600)
        runtime = GatewayRuntime(env.read({"MODELPORT_HOME": str(home)}), snapshot=house.snapshot)
        await runtime.start()
        server = await runtime.loop.create_server(
            lambda runtime=runtime: GatewayProtocol(runtime), "127.0.0.1", 0
        )
        servers.append(server)
        made.append(Machine(runtime, server.sockets[0].getsockname()[1], home))
    await house.until(lambda: all(each.runtime.leases._writer is not None for each in made))
    yield made
    for server, machine in zip(servers, made, strict=True):
        server.close()
        await machine.runtime.stop()
        machine.stop.set()
        await asyncio.to_thread(machine.meter.join)
    await sync_to_async(connections.close_all)()


async def test_requests_at_a_time_hold_over_machines(house: House, machines: list[Machine]):
    most = 6
    key = house.new_key(limits=(limit(most, "concurrent", "now"),))
    house.engine.delay = 0.02
    seen: list[int] = []
    counted: Counter[int] = Counter()

    async def client(machine: Machine) -> None:
        async with machine.sdk(key) as sdk:
            for _ in range(6):
                counted[await status_of(sdk)] += 1

    async def watch() -> None:
        while True:
            seen.append(house.replica.outstanding)
            await asyncio.sleep(0.001)

    watching = asyncio.create_task(watch())
    await asyncio.gather(*(client(machines[n % 2]) for n in range(24)))
    watching.cancel()
    assert 0 < max(seen) <= most
    assert set(counted) == {200, 429}
    assert counted[200] >= most


async def test_a_machine_gets_the_slots_that_another_does_not_use(house: House, machines):
    key = house.new_key(limits=(limit(4, "concurrent", "now"),))
    first, second = (machine.sdk(key) for machine in machines)
    async with first, second:
        assert await status_of(first) == 200  # and it has claimed more than it uses now
        assert [await status_of(second) for _ in range(4)] == [200] * 4
        house.engine.delay = 0.05
        counted = Counter(await asyncio.gather(*(status_of(second) for _ in range(8))))
    assert counted[200] >= 4
    claims = [row async for row in LimitSlots.objects.all()]
    assert len(claims) == 2
    assert sum(row.slots for row in claims) <= 4


async def test_lines_of_an_instance_on_two_machines_both_move_on(house: House, machines):
    house.instance.limits = (limit(3, "concurrent", "now", "instance"),)
    house.instance.queue_size, house.instance.queue_seconds = 200, 30
    key = house.new_key()
    house.engine.delay = 0.005
    first, second = (machine.sdk(key) for machine in machines)
    async with first, second:
        calls = [status_of((first, second)[n % 2]) for n in range(40)]
        assert Counter(await asyncio.gather(*calls)) == {200: 40}
    assert house.replica.outstanding == 0


async def test_a_machine_that_fell_silent_loses_its_claim(house: House, machines):
    key = house.new_key(limits=(limit(2, "concurrent", "now"),))
    first, second = (machine.sdk(key) for machine in machines)
    async with first, second:
        assert await status_of(first) == 200
        machines[0].stop.set()
        await asyncio.to_thread(machines[0].meter.join)
        await LimitSlots.objects.aupdate(slots=2, seen_at=timezone.now() - timedelta(seconds=5))
        assert await status_of(second) == 429  # it may be restarting
        await LimitSlots.objects.aupdate(seen_at=timezone.now() - timedelta(seconds=20))
        await asyncio.sleep(grants.PATIENCE)
        assert await status_of(second) == 200


async def test_a_database_that_hangs_holds_up_a_claim_for_a_moment_only(house: House, machines):
    slots = limit(3, "concurrent", "now")
    key = house.new_key(limits=(slots,))
    other = house.new_key(limits=(limit(5),))
    lock = f"SELECT pg_advisory_lock(hashtextextended('limit {UUID(bytes=slots.id)}', 0))"
    async with await psycopg.AsyncConnection.connect(database(), autocommit=True) as hanging:
        await hanging.execute(lock)
        async with machines[0].sdk(key) as sdk, machines[0].sdk(other) as another:
            async with asyncio.timeout(8):
                assert await status_of(sdk) == 200
                assert [await status_of(another) for _ in range(6)] == [200] * 5 + [429]
