"""Clients that hang up, engines that break off, disks that are full: each is billed as it was."""

import asyncio
import os

import openai
import pytest

from accounts import keys
from billing.usage_record import Outcome, Usage, UsageSource
from inference.gateway import connection, protocol
from tests.gateway.house import House, chat, read_answer


async def test_a_client_that_hangs_up_pays_what_it_was_sent_and_stops_the_engine(house: House):
    async with house.sdk() as client:
        stream = await client.chat.completions.create(
            **chat("[[fake tokens=1000 delay=0.01]]"), stream=True
        )
        seen = 0
        async for chunk in stream:
            seen += bool(chunk.choices[0].delta.content)
            if seen == 5:
                break
        await stream.close()
        row = await house.closed_row()
    assert (row.final.outcome, row.final.source) == (Outcome.CLIENT_GONE, UsageSource.CHECKPOINT)
    assert 5 <= row.final.usage.completion_tokens <= 8
    await house.until(lambda: house.engine.running == 0)
    made = house.engine.counters["generation_tokens_total"]
    await asyncio.sleep(0.05)
    assert house.engine.counters["generation_tokens_total"] == made
    assert row.final.usage.completion_tokens <= made


async def test_several_choices_are_added_up_when_a_client_hangs_up(house: House):
    reader, writer = await house.connect()
    writer.write(house.call(chat("[[fake tokens=1000 delay=0.01]]", stream=True, n=3)))
    data = b""
    while data.count(b'"delta":{"content"') < 120:
        data += await reader.read(4096)
    writer.close()
    row = await house.closed_row()
    assert 120 <= row.final.usage.completion_tokens <= 140
    assert row.final.usage.prompt_tokens == row.checkpoints[0].usage.prompt_tokens
    assert row.final.usage.prompt_tokens < 12  # once, not three times


async def test_a_client_that_hangs_up_before_any_answer_pays_nothing(house: House):
    reader, writer = await house.connect()
    writer.write(house.call(chat("[[fake hang=1]]")))
    await house.until(lambda: house.engine.running == 1)
    writer.close()
    row = await house.closed_row()
    assert (row.final.outcome, row.final.status) == (Outcome.CLIENT_GONE, 499)
    assert (row.final.usage, row.final.source) == (Usage(), UsageSource.NONE)
    await house.until(lambda: house.engine.running == 0)
    assert house.replica.outstanding == 0


async def test_an_engine_that_dies_in_a_stream_ends_it_with_an_error(house: House):
    async with house.sdk() as client:
        stream = await client.chat.completions.create(
            **chat("[[fake tokens=50 drop_after=7]]"), stream=True
        )
        with pytest.raises(openai.APIError) as error:
            async for _ in stream:
                pass
    assert error.value.code == "engine_failed"
    row = await house.closed_row()
    assert (row.final.outcome, row.final.status) == (Outcome.UPSTREAM_FAILED, 200)
    assert (row.final.usage.completion_tokens, row.final.source) == (7, UsageSource.CHECKPOINT)


@pytest.mark.parametrize("knob", ["drop=1", "cut=1"])
async def test_an_engine_that_dies_before_its_answer_is_a_502(house: House, knob):
    async with house.sdk() as client:
        with pytest.raises(openai.InternalServerError) as error:
            await client.chat.completions.create(**chat(f"[[fake {knob}]]"))
    assert error.value.status_code == 502
    row = await house.closed_row()
    assert (row.final.outcome, row.final.usage) == (Outcome.UPSTREAM_FAILED, Usage())


async def test_an_engine_that_never_answers_is_a_504(house: House, monkeypatch):
    monkeypatch.setattr(protocol, "FIRST_BYTE_TIMEOUT", 0.2)
    async with house.sdk() as client:
        with pytest.raises(openai.InternalServerError) as error:
            await client.chat.completions.create(**chat("[[fake hang=1]]"))
    assert error.value.status_code == 504
    await house.until(lambda: house.engine.running == 0)


async def test_nothing_is_served_that_cannot_be_metered(house: House, monkeypatch):
    def full(fd: int, data: bytes) -> int:
        raise OSError("No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(os, "write", full)
        async with house.sdk() as client:
            with pytest.raises(openai.InternalServerError) as error:
                await client.chat.completions.create(**chat())
    assert error.value.code == "metering_unavailable"
    assert house.engine.counters["prompt_tokens_total"] == 0


async def test_an_answer_whose_bill_is_not_on_disk_is_held_back(house: House, monkeypatch):
    def broken(fd: int) -> None:
        raise OSError("I/O error")

    house.runtime.journal._sync = broken
    async with house.sdk() as client:
        with pytest.raises(openai.APIConnectionError):
            await client.chat.completions.create(**chat())


async def test_a_slow_reader_slows_the_engine_and_loses_nothing(house: House):
    reader, writer = await house.connect()
    text = "word" * 200
    writer.write(house.call(chat(f"[[fake tokens=60000]] {text}", stream=True, max_tokens=1900)))
    await asyncio.sleep(0.3)  # reads nothing; the buffers in between fill
    many = [house.call(chat("[[fake tokens=1900]]", stream=True)) for _ in range(6)]
    writer.write(b"".join(many))
    for _ in range(7):
        status, _, body = await read_answer(reader)
        assert status == 200
        assert body.endswith(b"data: [DONE]\n\n")
        assert body.count(b'"delta":{"content"') == 1900
    writer.close()


async def test_the_engine_is_paused_for_a_slow_reader_and_its_connection_reused(house: House):
    loop = asyncio.get_running_loop()
    house.engine.limit = 100_000
    paused = []
    real = protocol.Exchange.client_slow
    protocol.Exchange.client_slow = lambda self: (paused.append(1), real(self))[1]
    try:
        reader, writer = await house.connect()
        writer.transport.pause_reading()
        writer.write(house.call(chat("[[fake tokens=60000]]", stream=True)))
        await house.until(lambda: paused)
        before = house.engine.counters["generation_tokens_total"]
        start = loop.time()
        while loop.time() - start < 0.3:
            await asyncio.sleep(0.05)
        assert house.engine.counters["generation_tokens_total"] < 60_000
        assert before
        writer.transport.resume_reading()
        _, _, body = await read_answer(reader)
        assert body.count(b'"delta":{"content"') == 60_000
        writer.write(house.call(chat()))
        assert (await read_answer(reader))[0] == 200
        writer.close()
    finally:
        protocol.Exchange.client_slow = real
    assert house.engine.connections == 1


async def test_draining_finishes_streams_and_takes_nothing_new(house: House):
    reader, writer = await house.connect()
    idle_reader, idle_writer = await house.connect()
    writer.write(house.call(chat("[[fake tokens=20 delay=0.02]]", stream=True)))
    await reader.readuntil(b"\r\n\r\n")
    await house.runtime.stop()
    stream = await reader.read()
    assert b"data: [DONE]\n\n\r\n0\r\n\r\n" in stream
    assert await idle_reader.read() == b""
    row = await house.closed_row()
    assert (row.final.outcome, row.final.usage.completion_tokens) == (Outcome.COMPLETED, 20)
    writer.close()
    idle_writer.close()


async def test_what_does_not_end_in_time_is_cut_and_booked(house: House):
    reader, writer = await house.connect()
    writer.write(house.call(chat("[[fake tokens=1000 delay=0.02]]", stream=True)))
    await reader.readuntil(b"\r\n\r\n")
    await house.runtime.stop(0.2)
    row = await house.closed_row()
    assert row.final.usage.completion_tokens > 0
    writer.close()


async def test_a_late_body_is_a_408_and_an_idle_connection_ends(house: House, monkeypatch):
    monkeypatch.setattr(connection, "BODY_TIMEOUT", 0.2)
    monkeypatch.setattr(connection, "IDLE_TIMEOUT", 0.2)
    reader, writer = await house.connect()
    writer.write(house.call(chat())[:-5])
    assert (await read_answer(reader))[0] == 408
    idle, idle_writer = await house.connect()
    async with asyncio.timeout(5):
        assert await idle.read() == b""
    writer.close()
    idle_writer.close()


async def test_a_fault_of_ours_is_a_500_and_harms_nobody_else(house: House, monkeypatch):
    real = protocol.parse

    def faulty(endpoint: str, body: bytes) -> object:
        if b"faulty" in body:
            raise RuntimeError("nobody foresaw this")
        return real(endpoint, body)

    monkeypatch.setattr(protocol, "parse", faulty)
    reader, writer = await house.connect()
    writer.write(house.call(chat()) + house.call(chat("faulty")) + house.call(chat()))
    assert [(await read_answer(reader))[0] for _ in range(3)] == [200, 500, 200]
    writer.close()


async def test_a_fault_of_ours_after_admission_is_booked(house: House, monkeypatch):
    monkeypatch.setattr(protocol, "Relay", None)
    reader, writer = await house.connect()
    writer.write(house.call(chat(stream=True)) + house.call(chat()))
    assert [(await read_answer(reader))[0] for _ in range(2)] == [500, 200]
    first, _ = house.rows()
    assert (first.final.outcome, first.final.status) == (Outcome.UPSTREAM_FAILED, 500)
    assert house.replica.outstanding == 0
    writer.close()


async def test_a_fault_of_ours_in_a_stream_is_logged_and_ends_it(house: House, monkeypatch, caplog):
    monkeypatch.setattr(protocol.Relay, "feed", None)
    reader, writer = await house.connect()
    writer.write(house.call(chat(stream=True)))
    assert (await read_answer(reader))[0] == 502
    assert "could not be passed on" in caplog.text
    assert (await house.closed_row()).final.outcome == Outcome.UPSTREAM_FAILED
    writer.close()


async def test_a_look_up_that_fails_on_us_does_not_hold_its_client_for_ever(house, monkeypatch):
    async def faulty(digest: bytes) -> None:
        raise RuntimeError("nobody foresaw this")

    monkeypatch.setattr(house.runtime.authenticator, "look_up", faulty)
    house.key = keys.generate()
    reader, writer = await house.connect()
    writer.write(house.call(chat()))
    assert (await read_answer(reader))[0] == 500
    writer.close()


async def test_told_to_end_once_more_it_waits_for_nothing(house: House):
    reader, writer = await house.connect()
    writer.write(house.call(chat("[[fake tokens=1000 delay=0.02]]", stream=True)))
    await reader.readuntil(b"\r\n\r\n")
    ending = asyncio.ensure_future(house.runtime.stop(600))
    await asyncio.sleep(0.1)
    assert not ending.done()
    house.runtime.hurried.set()
    async with asyncio.timeout(5):
        await ending
    row = await house.closed_row()
    assert row.final.usage.completion_tokens > 0
    writer.close()
