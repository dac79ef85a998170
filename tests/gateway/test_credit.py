"""Credit over two gateways of a machine: the real meter's socket, the real database."""

import asyncio
import threading
from collections import Counter
from dataclasses import replace
from functools import partial
from uuid import UUID, uuid4

import openai
import pytest
from asgiref.sync import sync_to_async
from django.db import connections

from accounts.models import Organization
from billing import holds, wallet
from billing.ledger import Kind
from billing.models import CreditLease
from inference import grants
from inference.credit import Credit as Keeper
from inference.gateway import purse
from inference.gateway.connection import GatewayProtocol
from inference.gateway.limits import Limiter
from inference.gateway.server import GatewayRuntime
from inference.gateway.tables import Credit, Price, Target
from inference.wake import wake
from portal.lib import env
from tests.gateway.house import House, chat
from tests.gateway.tables import ACME
from tests.gateway.test_keys import database
from tests.gateway.test_leases import Pair, clients, status_of

pytestmark = pytest.mark.django_db(transaction=True)

MACHINE = uuid4()
NANO = 10**9
DEAR = Price(bytes(16), prompt=NANO, completion=NANO)  # a thousand nano-units for a token
FEW = {"max_tokens": 5}
BOUND_OF_FEW = 1_200_000  # and rather less: the template of a chat has 1,024 of them


class Paying(Pair):
    """Acme pays, out of what the test pays in."""

    def start_meter(self, of: str = "") -> None:
        self.stop = threading.Event()
        socket, credit = self.environment.meter_socket, partial(Keeper, MACHINE)
        self.meter = grants.in_thread(socket, of or database(), wake, self.stop, credit)

    @property
    def limiters(self) -> list[Limiter]:
        return [self.house.runtime.limiter, self.other.limiter]

    def granted(self) -> int:
        """At this moment: a gateway may ask for more at any time, or hand some back."""
        purses = [each for limiter in self.limiters for each in limiter._purses.values()]
        return sum(each.granted for each in purses)

    def spent(self) -> int:
        return sum(row.final.spent for row in self.house.rows() if row.final is not None)


@sync_to_async
def paid_in(nano: int) -> None:
    acme, _ = Organization.objects.get_or_create(id=UUID(bytes=ACME), name="Acme", slug="acme")
    wallet.pay_in(acme, nano, Kind.TOPUP, str(uuid4()))


standing = sync_to_async(lambda: holds.standing(UUID(bytes=ACME)))


@pytest.fixture
async def paying(house: House):
    runtime = GatewayRuntime(env.read({"MODELPORT_HOME": str(house.home)}), snapshot=house.snapshot)
    await runtime.start()
    server = await runtime.loop.create_server(lambda: GatewayProtocol(runtime), "127.0.0.1", 0)
    made = Paying(house, runtime, server.sockets[0].getsockname()[1])
    made.start_meter()
    await made.connected()
    house.instance.price = DEAR
    await paid_in(1)
    yield made
    server.close()
    await runtime.stop()
    await made.stop_meter()
    await sync_to_async(connections.close_all)()


CREDIT = Credit(ACME, currency="USD", page="https://modelport.example/o/acme/billing/")


def key_of(paying: Paying, **given: object) -> str:
    return paying.house.new_key(credit=replace(CREDIT, **given))


async def test_clients_of_two_gateways_spend_what_there_is_and_no_more(paying: Paying):
    await paid_in(2_500_000)
    key = key_of(paying)
    async with clients(paying, key) as both:

        async def client(number: int) -> list[int]:
            return [await status_of(both[(number + i) % 2], **FEW) for i in range(12)]

        statuses = await asyncio.gather(*(client(number) for number in range(12)))
        counted = Counter(status for each in statuses for status in each)
        assert set(counted) == {200, 429}  # most of it was set aside for others
        await asyncio.sleep(purse.DENIED_FOR)
        while await status_of(both[0], **FEW) == 200:
            pass
    now = await standing()
    assert paying.spent() <= now.has == 2_500_001
    assert now.has - paying.spent() < BOUND_OF_FEW  # and it was all of use
    assert now.leased >= paying.spent()


async def test_a_refusal_tells_sdks_not_to_try_again(paying: Paying):
    await paid_in(BOUND_OF_FEW // 2)
    async with paying.house.sdk(key_of(paying)) as sdk:
        with pytest.raises(openai.RateLimitError) as refused:
            await sdk.chat.completions.create(**chat(**FEW))
        with pytest.raises(openai.RateLimitError) as unbounded:
            await sdk.chat.completions.create(**chat())
    assert refused.value.code == refused.value.type == "insufficient_quota"
    assert refused.value.response.headers["x-should-retry"] == "false"
    assert "https://modelport.example/o/acme/billing/" in refused.value.message
    assert "Set max_tokens lower" in unbounded.value.message
    assert paying.house.rows() == []


async def test_money_that_comes_in_counts_within_a_moment(paying: Paying):
    async with paying.house.sdk(key_of(paying)) as sdk:
        assert await status_of(sdk, **FEW) == 429
        await paid_in(10 * NANO)
        await asyncio.sleep(purse.DENIED_FOR)
        assert await status_of(sdk, **FEW) == 200


async def test_what_is_free_needs_no_credit_and_no_lease(paying: Paying):
    paying.house.instance.price = Price(bytes(16))
    async with paying.house.sdk(key_of(paying, suspended=True)) as sdk:
        assert await status_of(sdk) == 200
    assert not paying.house.runtime.limiter._purses
    (row,) = paying.house.rows()
    assert (row.admit.held, row.final.spent) == (0, 0)


async def test_the_journal_tells_what_was_set_aside_and_what_was_spent(paying: Paying):
    await paid_in(NANO)
    async with paying.house.sdk(key_of(paying)) as sdk:
        used = (await sdk.chat.completions.create(**chat(**FEW))).usage
    row = await paying.house.closed_row()
    assert row.final.spent == (used.prompt_tokens + used.completion_tokens) * 1000
    assert row.admit.held >= row.final.spent
    (held,) = paying.house.runtime.limiter._purses.values()
    assert held.used == held.spent == row.final.spent


async def test_one_gateway_gets_what_the_other_does_not_use(paying: Paying):
    await paid_in(BOUND_OF_FEW)
    async with clients(paying, key_of(paying)) as (first, second):
        assert await status_of(first, **FEW) == 200
        assert await status_of(second, **FEW) == 200
        assert await status_of(first, **FEW) == 200


async def test_a_meter_that_begins_anew_knows_what_gateways_hold(paying: Paying):
    await paid_in(NANO)
    async with clients(paying, key_of(paying)) as both:
        assert [await status_of(each, **FEW) for each in both] == [200, 200]
        await paying.stop_meter()
        assert [await status_of(each, **FEW) for each in both] == [200, 200]
        await sync_to_async(CreditLease.objects.update)(granted=NANO)  # it never arrived
        paying.start_meter()
        await paying.connected()
        async with asyncio.timeout(5):
            while (await standing()).leased != paying.granted():  # noqa: ASYNC110
                await asyncio.sleep(0.02)


async def test_without_a_meter_a_new_client_is_asked_to_come_back(paying: Paying):
    await paying.stop_meter()
    async with paying.house.sdk(key_of(paying)) as sdk:
        with pytest.raises(openai.InternalServerError) as refused:
            await sdk.chat.completions.create(**chat(**FEW))
    assert refused.value.code == "credit_unavailable"


async def test_a_way_that_is_too_dear_leaves_a_way_that_is_free(paying: Paying):
    dear = paying.house.snapshot.add_instance("dear", price=DEAR)
    paying.house.add_replica(dear, str(paying.house.home / "nothing.sock"))
    paying.house.instance.price = Price(bytes(16))
    first, then = (
        Target(each.id, None, "", tier, 1)
        for tier, each in enumerate((dear, paying.house.instance))
    )
    paying.house.snapshot.add_route("either", first, then)
    async with paying.house.sdk(key_of(paying)) as sdk:
        assert await status_of(sdk, **(FEW | {"model": "either"})) == 200
    assert paying.spent() == 0
