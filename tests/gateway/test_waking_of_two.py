"""Waking with the real meter and two gateway processes, through a real PostgreSQL."""

import asyncio

import openai
from asgiref.sync import sync_to_async

from inference.models import Instance, InstanceEvent, Replica
from tests.gateway.house import House, chat
from tests.gateway.test_process import key, two_workers
from tests.gateway.test_two_workers import metered

__all__ = ["key"]  # a fixture
AT_ONCE = 50


def fall_asleep() -> None:
    Replica.objects.all().update(state=Replica.State.STARTING)
    Instance.objects.get().request_sleep(by=None)
    Instance.objects.update(state="asleep")


def wake_up() -> None:
    """What the reconciler does, once somebody has asked for it."""
    Replica.objects.all().update(state=Replica.State.READY)
    Instance.objects.update(state="ready")


def wishes() -> int:
    return InstanceEvent.objects.filter(reason="wake_requested").count()


async def test_fifty_requests_at_two_gateways_wake_it_once(house: House, key: str):
    async with metered(house), two_workers(house, key) as (_, port):
        await sync_to_async(fall_asleep)()
        client = openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key=key)
        calls = [client.chat.completions.create(**chat()) for _ in range(AT_ONCE)]
        tasks = [asyncio.create_task(call) for call in calls]
        async with asyncio.timeout(30):
            while not await sync_to_async(wishes)():
                await asyncio.sleep(0.05)
        await asyncio.sleep(2.5)  # time to ask a second time
        instance = await Instance.objects.aget()
        assert instance.desired == "running" and not any(task.done() for task in tasks)
        await sync_to_async(wake_up)()
        async with asyncio.timeout(30):
            answers = await asyncio.gather(*tasks)
        await client.close()
    assert len(answers) == AT_ONCE
    assert await sync_to_async(wishes)() == 1


async def test_a_meter_that_comes_late_still_hears_of_it(house: House, key: str):
    async with two_workers(house, key) as (_, port):
        await sync_to_async(fall_asleep)()
        client = openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key=key)
        call = asyncio.create_task(client.chat.completions.create(**chat()))
        await asyncio.sleep(1.5)
        assert await sync_to_async(wishes)() == 0 and not call.done()
        async with metered(house), asyncio.timeout(30):
            while not await sync_to_async(wishes)():
                await asyncio.sleep(0.05)
            await sync_to_async(wake_up)()
            await call
        await client.close()
