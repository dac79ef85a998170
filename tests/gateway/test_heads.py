"""Heads that were read before: they mean what they meant, and nothing more."""

import asyncio
import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.gateway import heads
from inference.gateway.heads import LONGEST, Heads, split
from tests.gateway.house import House, chat, read_answer

HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nA: b"


def test_a_head_is_told_apart_from_its_length_and_its_body():
    known_by, length, body = split(HEAD + b"\r\n\r\nhello") or (b"", 0, b"")
    assert (length, body) == (5, b"hello")
    longer = split(HEAD.replace(b" 5", b" 12") + b"\r\n\r\nhello, world")
    assert longer == (known_by, 12, b"hello, world")
    assert split(HEAD.replace(b"A: b", b"A: c") + b"\r\n\r\n")[0] != known_by  # type: ignore[index]


@pytest.mark.parametrize(
    "data",
    [
        HEAD,
        b"\r\n\r\n",
        HEAD.replace(b"Content-Length: 5\r\n", b"") + b"\r\n\r\n",
        HEAD.replace(b" 5", b" 5x") + b"\r\n\r\n",
        HEAD.replace(b" 5", b"") + b"\r\n\r\n",
        HEAD.replace(b" 5", b" -5") + b"\r\n\r\n",
        HEAD.replace(b" 5", b" 123456789") + b"\r\n\r\n",
        HEAD + b"\r\nB: " + b"x" * LONGEST + b"\r\n\r\nhello",
    ],
)
def test_what_has_no_usual_head_is_left_to_the_parser(data):
    assert split(data) is None


@given(st.binary(max_size=300))
def test_any_bytes_can_be_looked_at(data):
    found = split(data)
    if found is not None:
        assert data.endswith(found[2])


def test_the_number_of_heads_is_bounded(monkeypatch):
    monkeypatch.setattr(heads, "MOST", 3)
    kept = Heads()
    for number in range(10):
        kept.add(b"%d" % number, None)  # type: ignore[arg-type]
    assert len(kept._known) <= 3
    assert kept.get(b"9", 0) is None


async def answers(house: House, *requests: bytes) -> list[int]:
    """The statuses, one request after the other on one connection."""
    reader, writer = await house.connect()
    statuses = []
    for request in requests:
        writer.write(request)
        statuses.append((await read_answer(reader))[0])
    writer.close()
    return statuses


async def test_the_second_call_is_known_and_metered_as_the_first(house: House):
    calls = [house.call(chat("Hello" + "!" * length)) for length in (0, 7, 500)]
    assert await answers(house, *calls) == [200] * 3
    assert len(house.runtime.heads._known) == 1
    assert len(house.rows()) == 3
    assert len({row.admit.request_id for row in house.rows()}) == 3


async def test_a_key_that_was_revoked_is_refused_though_its_head_is_known(house: House):
    call = house.call(chat())
    assert await answers(house, call, call) == [200, 200]
    house.snapshot.keys.clear()
    assert await answers(house, call) == [401]


async def test_a_key_s_websites_are_asked_each_time(house: House):
    call = house.call(chat(), extra="Origin: https://app.example\r\n")
    assert await answers(house, call, call) == [200, 200]
    ((digest, key),) = house.snapshot.keys.items()
    house.snapshot.keys[digest] = replace(key, origins=frozenset({"https://other.example"}))
    assert await answers(house, call) == [403]


@pytest.mark.parametrize(
    "line",
    ["X-Request-Id: mine", "Traceparent: 00-" + "a" * 32 + "-" + "b" * 16 + "-01"],
)
async def test_what_tells_of_one_request_is_not_kept(house: House, line: str):
    call = house.call(chat(), extra=f"{line}\r\n")
    assert await answers(house, call, call) == [200, 200]
    assert house.runtime.heads._known == {}


async def test_a_refused_head_is_not_kept(house: House):
    wrong = house.call(chat(), extra="Content-Encoding: gzip\r\n")
    assert await answers(house, wrong) == [415]
    twice = house.call(chat(), extra="Content-Length: 3\r\n")
    assert await answers(house, twice) == [400]
    assert house.runtime.heads._known == {}


async def test_the_end_of_the_connection_is_part_of_what_is_known(house: House):
    call = house.call(chat(), extra="Connection: close\r\n")
    for _ in range(2):
        reader, writer = await house.connect()
        writer.write(call)
        assert (await read_answer(reader))[0] == 200
        assert await reader.read() == b""
        writer.close()


async def test_a_body_behind_a_known_head_is_read_to_its_length_and_no_further(house: House):
    call = house.call(chat())
    assert await answers(house, call) == [200]
    reader, writer = await house.connect()
    writer.write(call + call)  # two in one breath
    assert [(await read_answer(reader))[0] for _ in range(2)] == [200, 200]
    writer.write(call[:-3])
    await asyncio.sleep(0.05)
    assert len(house.rows()) == 3
    writer.write(call[-3:] + call[:40])
    assert (await read_answer(reader))[0] == 200
    writer.write(call[40:])
    assert (await read_answer(reader))[0] == 200
    writer.close()
    assert len(house.rows()) == 5


async def test_bad_bodies_behind_a_known_head_are_refused_in_the_client_s_terms(house: House):
    call = house.call(chat())
    assert await answers(house, call) == [200]
    reader, writer = await house.connect()
    for body in (b"", b"{", b'{"model":"demo","nothing":1}'):
        writer.write(house.call(body))
        status, _, answer = await read_answer(reader)
        assert status == 400
        assert json.loads(answer)["error"]["type"] == "invalid_request_error"
    writer.write(call)
    assert (await read_answer(reader))[0] == 200
    writer.close()


@pytest.mark.parametrize("size", [1, 7, 64, 300])
async def test_however_the_network_cuts_it_the_answers_are_the_same(house: House, size: int):
    calls = b"".join(house.call(chat("x" * n)) for n in (1, 10, 100))
    reader, writer = await house.connect()
    for start in range(0, len(calls), size):
        writer.write(calls[start : start + size])
        await writer.drain()
        if size > 7:
            await asyncio.sleep(0)
    assert [(await read_answer(reader))[0] for _ in range(3)] == [200] * 3
    writer.close()
    assert len(house.rows()) == 3
