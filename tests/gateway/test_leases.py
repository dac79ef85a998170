"""Limits over two gateways of a machine: the real meter's socket, the real database."""

import asyncio
import threading
from collections import Counter
from contextlib import asynccontextmanager

import openai
import pytest
from asgiref.sync import sync_to_async
from django.db import connections

from billing.models import LimitGrant
from inference import grants
from inference.gateway.connection import GatewayProtocol
from inference.gateway.server import GatewayRuntime
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
        self.meter = grants.in_thread(socket, of or database(), self.stop)

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
