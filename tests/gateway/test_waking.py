"""Requests to an instance that sleeps: held, its wake asked for, then answered or told why not."""

import asyncio

import openai
import pytest

from billing.usage_record import Outcome
from inference.gateway import held, waking
from inference.gateway.tables import Instance, Target
from tests.gateway.house import House, chat, read_answer

STREAM = {"stream": True, "stream_options": {"include_usage": True}}
BEAT = 0.1  # seconds


@pytest.fixture
def asked(house: House, monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The instance sleeps; the meter hears who is to wake."""
    heard: list[bytes] = []

    def wake(instance_id: bytes) -> bool:
        heard.append(instance_id)
        return True

    monkeypatch.setattr(house.runtime.waking, "_wake", wake)
    monkeypatch.setattr(held, "FIRST_BEAT", BEAT)
    monkeypatch.setattr(held, "BEAT_EVERY", BEAT)
    fall_asleep(house.instance)
    return heard


def fall_asleep(instance: Instance) -> None:
    instance.replicas.clear()
    instance.state, instance.stage = "asleep", ""
    instance.asleep = instance.waited_for = True
    instance.wanted = False


def starts(house: House, stage: str = "loading") -> None:
    """Somebody was heard: it is on its way up."""
    house.instance.state, house.instance.stage = "loading", stage
    house.instance.wanted, house.instance.asleep = True, False
    house.runtime.snapshot.on_change()


def is_ready(house: House) -> None:
    starts(house)
    house.instance.state, house.instance.stage = "ready", ""
    house.instance.replicas.append(house.replica)
    house.runtime.snapshot.on_change()


def fails(house: House) -> None:
    starts(house)
    house.instance.state, house.instance.waited_for = "failed", False
    house.instance.failure = "The GPU has no memory left."
    house.runtime.snapshot.on_change()


def default_sdk(house: House, key: str | None = None) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=house.url, api_key=key or house.key)


async def held_ones(house: House, count: int) -> None:
    await house.until(lambda: house.runtime.waking.waiting == count)


async def ask(house: House, key: str | None = None, **given) -> str:
    async with default_sdk(house, key) as client:
        answer = await client.chat.completions.create(**chat(**given))
    return answer.choices[0].message.content


async def ask_streaming(house: House) -> str:
    async with default_sdk(house) as client:
        stream = await client.chat.completions.create(**chat(), **STREAM)
        return "".join([c.choices[0].delta.content or "" async for c in stream if c.choices])


@pytest.mark.parametrize("call", [ask, ask_streaming])
async def test_a_held_request_is_answered_once_a_replica_is_there(house: House, asked, call):
    answer = asyncio.create_task(call(house))
    await held_ones(house, 1)
    assert house.rows() == []  # nothing is billed for the wait
    await asyncio.sleep(4 * BEAT)
    is_ready(house)
    assert "You said" in await answer
    assert set(asked) == {house.instance.id}
    row = await house.closed_row()
    assert row.final.outcome is Outcome.COMPLETED and row.final.usage.completion_tokens > 0
    assert row.final.duration_us < 4 * BEAT * 1e6  # the engine's time, without the wait
    assert house.runtime.waking.waiting == house.runtime.buffered == 0


async def test_while_it_wakes_a_stream_hears_the_stage_and_the_time_left(house: House, asked):
    house.instance.typical_start_seconds = 40
    reader, writer = await house.connect()
    writer.write(house.call(chat(**STREAM)))
    await held_ones(house, 1)
    starts(house, "loading")
    await asyncio.sleep(4 * BEAT)
    is_ready(house)
    status, headers, body = await read_answer(reader)
    writer.close()
    assert status == 200 and headers["content-type"].startswith("text/event-stream")
    first, *others = body.decode().split("\n\n")
    assert first == ": waking — loading the model, about 40 s left"
    assert others[0].startswith(": waking") and others[-2] == "data: [DONE]"


async def test_a_wake_that_is_quick_answers_with_an_honest_status(house: House, asked, monkeypatch):
    monkeypatch.setattr(held, "FIRST_BEAT", 60)
    reader, writer = await house.connect()
    writer.write(house.call(chat("[[fake status=422]]", stream=True)))
    await held_ones(house, 1)
    is_ready(house)
    assert (await read_answer(reader))[0] == 422
    writer.close()


async def test_after_the_head_an_error_is_an_event(house: House, asked):
    for knob in ("[[fake status=422]]", ""):
        fall_asleep(house.instance)
        reader, writer = await house.connect()
        writer.write(house.call(chat(knob, stream=True)))
        assert b" 200 " in await reader.readline()  # its head is out
        is_ready(house) if knob else fails(house)
        body = (await reader.read()).decode()
        writer.close()
        event = body.split("\n\n")[-2]
        assert 'data: {"error":' in event and body.endswith("0\r\n\r\n")
        assert ("instance_failed" in event) == (not knob)


async def test_a_start_that_fails_is_told_with_its_reason(house: House, asked):
    answer = asyncio.create_task(ask(house))
    await held_ones(house, 1)
    fails(house)
    with pytest.raises(openai.APIStatusError) as error:
        await answer
    assert (error.value.status_code, error.value.code) == (503, "instance_failed")
    assert "The GPU has no memory left." in error.value.message
    assert (await house.closed_row()).final.outcome is Outcome.REFUSED


async def test_who_waited_too_long_is_told_when_to_come_again(house: House, asked):
    house.instance.typical_start_seconds = 77
    house.runtime.wake_wait = 0.2
    async with house.sdk() as client:
        with pytest.raises(openai.APIStatusError) as error:
            await client.chat.completions.create(**chat())
    assert (error.value.status_code, error.value.code) == (503, "instance_waking")
    assert 70 <= int(error.value.response.headers["retry-after"]) <= 77
    row = await house.closed_row()
    assert (row.final.outcome, row.final.status) == (Outcome.REFUSED, 503)
    assert house.runtime.waking.waiting == house.runtime.buffered == 0


async def test_who_hangs_up_is_forgotten(house: House, asked):
    ends = []
    for _ in range(5):
        _, writer = await house.connect()
        writer.write(house.call(chat()))
        ends.append(writer)
    await held_ones(house, 5)
    for writer in ends:
        writer.close()
    await held_ones(house, 0)
    assert house.runtime.waking._lines == {} and house.runtime.buffered == 0
    is_ready(house)
    await asyncio.sleep(0.1)
    assert house.rows() == [] and house.replica.outstanding == 0


async def test_one_key_leaves_places_to_others(house: House, asked, monkeypatch):
    monkeypatch.setattr(waking, "AT_LEAST", 6)
    other = house.new_key()
    tasks = [asyncio.create_task(ask(house)) for _ in range(4)]
    await held_ones(house, 4)
    async with house.sdk() as client:
        with pytest.raises(openai.RateLimitError) as error:
            await client.chat.completions.create(**chat())
    assert int(error.value.response.headers["retry-after"]) > 0
    tasks.append(asyncio.create_task(ask(house, other)))
    await held_ones(house, 5)
    is_ready(house)
    assert len(await asyncio.gather(*tasks)) == 5


async def test_keys_go_on_in_turn(house: House, asked, monkeypatch):
    other = house.new_key()
    tasks = []
    for index, key in enumerate([None, None, None, other, other]):
        tasks.append(asyncio.create_task(ask(house, key)))
        await held_ones(house, index + 1)
    is_ready(house)
    await asyncio.gather(*tasks)
    order = [row.admit.key_id for row in house.rows()]
    mine, theirs = order[0], order[1]
    assert mine != theirs and order == [mine, theirs, mine, theirs, mine]


async def test_fifty_are_held_and_the_meter_is_not_stormed(house: House, asked):
    client = default_sdk(house)
    calls = [client.chat.completions.create(**chat()) for _ in range(50)]
    tasks = [asyncio.create_task(call) for call in calls]
    await held_ones(house, 50)
    assert len(asked) < 8  # it is asked again with back-off, however many wait
    is_ready(house)
    assert len(await asyncio.gather(*tasks)) == 50
    await client.close()
    assert len(house.rows()) == 50


async def test_a_key_that_is_revoked_meanwhile_gets_nothing(house: House, asked):
    answer = asyncio.create_task(ask(house))
    await held_ones(house, 1)
    house.snapshot.keys.clear()
    is_ready(house)
    with pytest.raises(openai.AuthenticationError):
        await answer
    assert house.rows() == []


async def test_a_gateway_that_ends_sends_them_elsewhere(house: House, asked):
    calls = [chat(), chat(**STREAM)]
    ends = [await house.connect() for _ in calls]
    for (_, writer), call in zip(ends, calls, strict=True):
        writer.write(house.call(call))
    await held_ones(house, 2)
    await asyncio.sleep(2 * BEAT)
    for connection in list(house.runtime.connections):
        connection.drain()
    whole, stream = [await read_answer(reader) for reader, _ in ends]
    for _, writer in ends:
        writer.close()
    assert whole[0] == 503 and int(whole[1]["retry-after"]) > 0
    assert stream[0] == 200 and b'"code":"restarting"' in stream[2]
    assert house.runtime.waking.waiting == 0


async def test_a_route_takes_what_is_ready_before_it_waits(house: House, asked):
    ready = house.snapshot.add_instance("spare")
    house.engine.name = "spare"
    ready.replicas.append(house.replica)
    targets = [Target(i.id, None, "", tier, 1) for tier, i in enumerate([house.instance, ready])]
    house.snapshot.add_route("way", *targets)
    assert "You said" in await ask(house, model="way")
    fall_asleep(ready)
    house.engine.name = "demo"
    answer = asyncio.create_task(ask(house, model="way"))
    await held_ones(house, 1)
    is_ready(house)
    assert "You said" in await answer


async def test_one_that_sleeps_is_listed(house: House, asked):
    async with house.sdk() as client:
        assert [model.id async for model in client.models.list()] == ["demo"]
