"""Bytes that mean harm, or two things: refused, and honest traffic goes on."""

import asyncio
import json

import pytest

from inference.gateway import connection, intake, metrics
from tests.gateway.house import House, chat, read_answer

BODY = json.dumps(chat()).encode()
LENGTH = f"Content-Length: {len(BODY)}\r\n"


def head(house: House, *lines: str, path: str = "/v1/chat/completions") -> bytes:
    fixed = [f"POST {path} HTTP/1.1", "Host: x", f"Authorization: Bearer {house.key}"]
    return "\r\n".join([*fixed, *(line.strip("\r\n") for line in lines), "", ""]).encode("latin-1")


async def sent(house: House, data: bytes) -> tuple[int, bytes]:
    """The status of the only answer to these bytes, and its body; the connection then ends."""
    reader, writer = await house.connect()
    writer.write(data)
    status, headers, body = await read_answer(reader)
    if status != 200:
        assert set(json.loads(body)["error"]) == {"message", "type", "param", "code"}
    if headers.get("connection") == "close":
        async with asyncio.timeout(5):
            assert await reader.read() == b""
    writer.close()
    return status, body


async def honest(house: House) -> None:
    reader, writer = await house.connect()
    writer.write(house.call(chat()))
    assert (await read_answer(reader))[0] == 200
    writer.close()


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        ([LENGTH, "Transfer-Encoding: chunked"], 400),
        (["Transfer-Encoding: chunked", LENGTH], 400),
        ([LENGTH, LENGTH], 400),
        ([LENGTH, "Content-Length: 5"], 400),
        ([f"Content-Length: {len(BODY)}, {len(BODY)}"], 400),
        (["Content-Length: +5"], 400),
        (["Content-Length: -1"], 400),
        (["Content-Length: 0x10"], 400),
        (["Content-Length: 99999999999999999999"], 400),
        (["Content-Length: 5 5"], 400),
        (["Content-Length:"], 400),
        (["Content-Length : 5"], 400),
        ([" Content-Length: 5"], 400),
        (["Transfer-Encoding: identity"], 501),
        (["Transfer-Encoding: xchunked"], 501),
        (["Transfer-Encoding: chunked, gzip"], 400),
        (["Transfer-Encoding: gzip, chunked"], 501),
        (["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"], 400),
        (["Transfer-Encoding:\x0bchunked"], 400),
        (["X-Fold: a\r\n b", LENGTH], 400),
        (["X-Fold: a\r\n\tTransfer-Encoding: chunked", LENGTH], 400),
        (["X-Null: a\0b", LENGTH], 400),
        (["X-Return: a\rTransfer-Encoding: chunked", LENGTH], 400),
        (["Bad Name: x", LENGTH], 400),
        (["NoColon", LENGTH], 400),
        (["Authorization: Bearer other", LENGTH], 400),
        (["Content-Encoding: gzip", LENGTH], 415),
        ([f"Content-Length: {64 * 2**20}"], 413),
        (["X: " + "y" * 40_000, LENGTH], 431),
        ([f"X-{n}: y" for n in range(150)], 431),
    ],
)
async def test_smuggling_is_refused(house: House, lines, status):
    got, _ = await sent(house, head(house, *lines) + BODY)
    # The parser itself may be the one to refuse; never is it a 2xx, and never a crash.
    assert got in {status, 400}
    assert house.rows() == []
    await honest(house)


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET /v1/models\r\n\r\n",
        b"GET /v1/models HTTP/3.0\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"G\0T /v1/models HTTP/1.1\r\n\r\n",
        b"GET /v1/mod\0els HTTP/1.1\r\n\r\n",
    ],
)
async def test_what_is_no_http_is_a_400(house: House, data):
    assert (await sent(house, data))[0] == 400


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/v1",
        "/v1/",
        "/metrics",
        "/invocations",
        "/tokenize",
        "/v1/chat/completions/",
        "/v1//chat/completions",
        "/v1/./chat/completions",
        "/v1/../v1/chat/completions",
        "/v1/chat%2fcompletions",
        "/v1/%63hat/completions",
        "/V1/chat/completions",
        "/v1/load_lora_adapter",
        "/v1/models/a/b",
        "/v1/models/",
        "http://x/v1/chat/completions",
        "*",
    ],
)
async def test_only_listed_paths_are_there_to_the_byte(house: House, path):
    status, _ = await sent(house, head(house, LENGTH, path=path) + BODY)
    assert status in {400, 404}
    assert house.engine.connections == 0


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "OPTIONS", "PATCH"])
async def test_other_methods_are_405(house: House, method):
    data = head(house, LENGTH).replace(b"POST", method.encode(), 1) + BODY
    assert (await sent(house, data))[0] == 405


async def test_a_request_may_come_a_byte_at_a_time(house: House):
    reader, writer = await house.connect()
    writer.transport.set_write_buffer_limits(0)
    for byte in house.call(chat("slowly")):
        writer.write(bytes([byte]))
        await asyncio.sleep(0)
    assert (await read_answer(reader))[0] == 200
    writer.close()


async def test_a_request_may_be_cut_in_two_anywhere(house: House):
    data = house.call(chat())
    reader, writer = await house.connect()
    for cut in range(1, len(data)):
        writer.write(data[:cut])
        await asyncio.sleep(0)
        writer.write(data[cut:])
        assert (await read_answer(reader))[0] == 200
    writer.close()
    assert house.engine.connections == 1


async def test_a_chunked_body_is_a_body_but_has_no_trailers(house: House):
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in BODY)
    reader, writer = await house.connect()
    writer.write(head(house, "Transfer-Encoding: chunked") + chunks + b"0\r\n\r\n")
    assert (await read_answer(reader))[0] == 200
    writer.close()
    trailer = b"0\r\nAuthorization: Bearer x\r\n\r\n"
    data = head(house, "Transfer-Encoding: chunked") + chunks + trailer
    assert (await sent(house, data))[0] == 400


async def test_pipelined_requests_are_answered_in_order(house: House):
    reader, writer = await house.connect()
    texts = [f"{'[[fake delay=0.002]]' if n == 0 else ''} number {n}" for n in range(5)]
    writer.write(b"".join(house.call(chat(text, stream=n == 2)) for n, text in enumerate(texts)))
    for number in range(5):
        status, _, body = await read_answer(reader)
        assert status == 200
        assert f"number {number}"[-1].encode() in body
    writer.close()
    assert [row.final.status for row in house.rows()] == [200] * 5


async def test_too_many_pipelined_requests_end_the_connection_after_the_first(house: House):
    reader, writer = await house.connect()
    writer.write(house.call(chat("[[fake delay=0.01]]")) * (connection.MAX_PIPELINED + 5))
    assert (await read_answer(reader))[0] == 200
    async with asyncio.timeout(5):
        assert await reader.read() == b""
    writer.close()
    assert len(house.rows()) == 1


async def test_garbage_behind_a_request_does_not_spoil_its_answer(house: House):
    reader, writer = await house.connect()
    writer.write(house.call(chat("[[fake delay=0.01]]")) + b"\0\0garbage\r\n\r\n")
    assert (await read_answer(reader))[0] == 200
    async with asyncio.timeout(5):
        assert await reader.read() == b""
    writer.close()


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/models"])
async def test_an_upgrade_is_answered_as_any_request_once(house: House, path):
    if path.endswith("models"):
        data = head(house, path=path).replace(b"POST", b"GET", 1)
    else:
        data = head(house, LENGTH, path=path) + BODY
    data = data.replace(b"Host: x", b"Host: x\r\nConnection: Upgrade\r\nUpgrade: h2c", 1)
    reader, writer = await house.connect()
    for cut in range(1, len(data), 7):
        writer.write(data[:cut])
        await asyncio.sleep(0)
        writer.write(data[cut:])
        assert (await read_answer(reader))[0] == 200
    writer.close()


async def test_a_wrong_key_is_told_before_its_body_is_taken(house: House):
    reader, writer = await house.connect()
    wrong = head(house, f"Content-Length: {20 * 2**20}").replace(b"Bearer mp-", b"Bearer mq-")
    writer.write(wrong + b"x" * 100_000)
    assert (await read_answer(reader))[0] == 401
    writer.close()
    await house.until(lambda: not house.runtime.connections)
    assert house.runtime.buffered == 0


async def test_a_wrong_key_with_a_short_body_keeps_its_connection(house: House):
    reader, writer = await house.connect()
    wrong = house.call(chat()).replace(b"Bearer mp-", b"Bearer mq-")
    for _ in range(3):
        writer.write(wrong)
        assert (await read_answer(reader))[0] == 401
    writer.write(house.call(chat()))
    assert (await read_answer(reader))[0] == 200
    writer.close()


async def test_expect_100_continue_is_honoured_only_for_who_may_send(house: House):
    reader, writer = await house.connect()
    writer.write(head(house, LENGTH, "Expect: 100-continue"))
    async with asyncio.timeout(5):
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(BODY)
    assert (await read_answer(reader))[0] == 200
    writer.close()
    wrong = head(house, LENGTH, "Expect: 100-continue").replace(b"Bearer mp-", b"Bearer mq-")
    assert (await sent(house, wrong))[0] == 401


async def test_a_head_without_end_is_refused(house: House):
    reader, writer = await house.connect()
    writer.write(head(house)[:-4] + b"\r\nX-Endless: ")
    writer.write(b"y" * (connection.MAX_HEAD + 2 * connection.MAX_BUFFER))
    assert (await read_answer(reader))[0] == 431
    async with asyncio.timeout(5):
        assert await reader.read() == b""
    writer.close()


async def test_slow_heads_cost_a_timeout_and_harm_nobody(house: House, monkeypatch):
    monkeypatch.setattr(connection, "HEAD_TIMEOUT", 0.3)
    slow = [await house.connect() for _ in range(200)]
    for _, writer in slow:
        writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nX: ")
    await honest(house)
    for reader, writer in slow:
        assert (await read_answer(reader))[0] == 408
        writer.close()
    await house.until(lambda: not house.runtime.connections)


async def test_bodies_in_memory_are_counted_and_bounded(house: House, monkeypatch):
    monkeypatch.setattr(intake, "MAX_BUFFERED", 100_000)
    others = [await house.connect() for _ in range(3)]
    for _, writer in others:
        writer.write(head(house, "Content-Length: 60000") + b"x" * 40_000)
    status, headers, _ = await asyncio.wait_for(_first_answer(others), 5)
    assert (status, headers["retry-after"]) == (503, "2")
    for _, writer in others:
        writer.close()
    await house.until(lambda: house.runtime.buffered == 0)


async def _first_answer(connections):
    tasks = [asyncio.ensure_future(read_answer(reader)) for reader, _ in connections]
    done, rest = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in rest:
        task.cancel()
    await asyncio.gather(*rest, return_exceptions=True)
    return done.pop().result()


async def test_a_flood_of_invented_keys_lets_nobody_in(house: House):
    before = house.key
    reader, writer = await house.connect()
    for number in range(300):
        house.key = "mp-" + f"{number:033d}"
        writer.write(house.call(chat()))
        assert (await read_answer(reader))[0] == 401
    house.key = before
    writer.close()
    await honest(house)


async def test_head_gets_no_body_that_could_be_taken_for_the_next_answer(house: House):
    reader, writer = await house.connect()
    ask = head(house, path="/v1/models")
    writer.write(ask.replace(b"POST", b"HEAD", 1) + ask.replace(b"POST", b"GET", 1))
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 405 ")
    assert (await read_answer(reader))[0] == 200
    writer.close()


@pytest.mark.parametrize("draining", [False, True])
async def test_nothing_is_served_behind_the_last_answer(house: House, draining):
    house.runtime.draining = draining
    last = head(house, *([] if draining else ["Connection: close"]), path="/v1/models")
    data = last.replace(b"POST", b"GET", 1) + house.call(chat()) * 2
    assert (await sent(house, data))[0] == 200
    assert house.rows() == []


async def test_what_strangers_ask_for_never_becomes_a_metric(house: House):
    house.key = "mp-nobody"
    for path in ("/v1/models/invented-name", "/v1/invented-path", "/v1/models"):
        await sent(house, head(house, path=path).replace(b"POST", b"GET", 1))
    text = metrics.exposition([metrics.Process(1, metrics.BOOK.figures(), {}, {})])
    assert b"invented" not in text
    assert any(
        b'endpoint="models"' in line and b'status="401"' in line for line in text.splitlines()
    )
