"""The price that each instance has now, and that nothing is let in without one."""

import asyncio
from datetime import UTC, datetime, timedelta
from uuid import UUID

import openai
import pytest
from asgiref.sync import sync_to_async
from django.utils import timezone

from accounts.models import Organization, User
from billing import wallet
from billing.models import PriceBook, PriceVersion, Terms
from inference.gateway.prices import Prices
from inference.gateway.tables import Price
from inference.models import Replica
from tests.billing.pricing import TOKENS
from tests.gateway.house import House, chat
from tests.gateway.test_keys import Wired, wired

__all__ = ["wired"]

ACME, UMBRELLA = UUID(int=1), UUID(int=2)
BEGAN = datetime(2026, 1, 1, tzinfo=UTC)


def listed(number: int, currency: str = "USD", owner: UUID | None = None, **of: str):
    names = tuple(of.get(name, "") for name in ("model", "engine", "gpu_type"))
    ends = "ends" in of
    return (UUID(int=number), owner, currency, *names, ends, BEGAN, None if ends else TOKENS)


PRICES = Prices(
    [
        listed(11),
        listed(12, gpu_type="H100"),
        listed(13, model="qwen"),
        listed(14, model="llama", owner=ACME),
        listed(15, "TWD"),
        listed(16, "EUR", owner=ACME),
        listed(17, engine="ending"),
        listed(18, engine="ending", owner=ACME, ends="yes"),
    ],
    [(UMBRELLA, "TWD"), (UUID(int=3), "JPY")],
    [(ACME, 1_500)],
    "USD",
)


def price(owner: UUID = ACME, model: str = "m", engine: str = "vllm", gpu: str = "") -> Price:
    return PRICES.of(owner.bytes, model=model, engine=engine, gpu_type=gpu)


@pytest.mark.parametrize(
    ("found", "version"),
    [
        (price(), 11),
        (price(gpu="H100"), 12),
        (price(model="qwen", gpu="H100"), 13),
        (price(model="llama"), 14),
        (price(engine="ending"), 17),
        (price(UMBRELLA, model="llama"), 15),
        (price(UUID(int=4), model="llama"), 11),
    ],
)
def test_each_instance_has_the_price_that_is_for_it(found: Price, version: int):
    assert UUID(bytes=found.version_id).int == version
    assert not found.missing
    assert found.completion == TOKENS["completion"]


def test_a_price_knows_its_currency_and_the_organizations_discount():
    assert (price().currency, price().discount) == ("USD", 1_500)
    assert (price(UMBRELLA).currency, price(UMBRELLA).discount) == ("TWD", 0)


def test_a_currency_without_prices_has_none():
    missing = price(UUID(int=3))
    assert (missing.missing, missing.currency, missing.version_id) == (True, "JPY", bytes(16))


async def test_without_a_price_nothing_is_let_in_and_the_answer_says_so(house: House):
    house.instance.price = Price(bytes(16), currency="TWD", missing=True)
    async with house.sdk() as client:
        with pytest.raises(openai.InternalServerError) as error:
            await client.chat.completions.create(**chat())
    assert (error.value.status_code, error.value.code) == (503, "no_price")
    assert "has no price in TWD" in error.value.message
    assert error.value.response.headers["x-should-retry"] == "false"
    row = await house.closed_row()
    assert (row.final.status, row.final.usage.prompt_tokens) == (503, 0)


async def test_a_request_carries_its_price_and_its_tag(house: House):
    house.instance.price = Price(UUID(int=9).bytes)  # of 0: what costs something needs credit
    async with house.sdk() as client:
        await client.chat.completions.create(**chat(), extra_headers={"X-Modelport-Tag": "nightly"})
        await client.chat.completions.create(**chat(), extra_headers={"X-Modelport-Tag": "nightly"})
        await client.chat.completions.create(**chat())
    await house.until(lambda: len(house.rows()) == 3 and all(row.final for row in house.rows()))
    assert {row.admit.price_version for row in house.rows()} == {UUID(int=9).bytes}
    assert [row.admit.tag for row in house.rows()] == ["nightly", "nightly", ""]


@pytest.mark.parametrize("tag", ["x" * 65, "caf\u00e9"])
async def test_a_tag_that_cannot_be_kept_is_refused(house: House, tag: str):
    reader, writer = await house.connect()
    writer.write(house.call(chat(), extra=f"X-Modelport-Tag: {tag}\r\n"))
    assert (await reader.readline()).startswith(b"HTTP/1.1 400 ")
    writer.close()


# ---------------------------------------------------------------------- with a real PostgreSQL


async def holds(wired: Wired, version: PriceVersion) -> None:
    """Wait until the gateway has it."""
    await wired.until(
        lambda: (
            [i.price.version_id for i in wired.runtime.snapshot.instances.values()]
            == [version.id.bytes]
        )
    )


async def test_the_gateway_follows_the_prices(wired: Wired, acme: Organization, alice: User):
    def set_rates(**changes):
        return PriceBook.of_house("USD").set_rates(TOKENS, **changes)

    await wired.runtime.snapshot.loaded.wait()
    (instance,) = wired.runtime.snapshot.instances.values()
    assert (instance.price.missing, instance.price.completion) == (False, 0)
    everything = await sync_to_async(set_rates)()
    await holds(wired, everything)
    await sync_to_async(Replica.objects.update)(gpu_type="H100")
    on_h100 = await sync_to_async(set_rates)(gpu_type="H100")
    await holds(wired, on_h100)
    await sync_to_async(set_rates)(model="other")
    own = await sync_to_async(PriceBook.of_organization)(acme, "USD")
    mine = await sync_to_async(own.set_rates)(TOKENS)
    await holds(wired, mine)
    await sync_to_async(Terms.agree)(acme, alice, discount=700)
    await wired.until(
        lambda: [i.price.discount for i in wired.runtime.snapshot.instances.values()] == [700]
    )


async def test_an_announced_price_holds_from_its_moment_on(wired: Wired):
    await wired.runtime.snapshot.loaded.wait()
    soon = timezone.now() + timedelta(seconds=1)
    book = await sync_to_async(PriceBook.of_house)("USD")
    announced = await sync_to_async(book.set_rates)(TOKENS, soon)
    await asyncio.sleep(0.3)
    (instance,) = wired.runtime.snapshot.instances.values()
    assert instance.price.version_id != announced.id.bytes
    await holds(wired, announced)
    assert timezone.now() < soon + timedelta(seconds=2)


async def test_a_currency_that_nobody_has_priced_is_not_served(wired: Wired, acme: Organization):
    def choose_yen():
        PriceBook.of_house("USD").set_rates(TOKENS)
        profile = wallet.profile_of(acme)
        profile.currency = "JPY"
        profile.save()

    await sync_to_async(choose_yen)()
    await wired.until(
        lambda: [i.price.missing for i in wired.runtime.snapshot.instances.values()] == [True]
    )
