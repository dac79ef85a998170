"""Bytes that mean harm, or two things: refused, and honest traffic goes on."""

import asyncio
import json
from contextlib import suppress

import pytest

from inference.gateway import connection, intake, metrics, scrape
from tests.gateway.house import House, chat, read_answer

BODY = json.dumps(chat()).encode()
LENGTH = f"Content-Length: {len(BODY)}\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
SLOW = 2000  # connections at a time


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


# A whole call, hidden where only one of two readers would find it.
HIDING: dict[str, tuple[int, bytes]] = {  # the status of the only answer, and what hides it
    "both lengths": (400, b"Content-Length: %(after)d\r\n" + CHUNKED + b"0\r\n\r\n%(call)b"),
    "both lengths, the other way": (
        400,
        b"Content-Length: 4\r\n" + CHUNKED + b"%(size)x\r\n%(call)b\r\n0\r\n\r\n",
    ),
    "chunked twice": (501, b"Transfer-Encoding: identity\r\n" + CHUNKED + b"0\r\n\r\n%(call)b"),
    "a space before the colon": (400, b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n%(call)b"),
    "a folded line": (400, b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n%(call)b"),
    "a list of lengths": (400, b"Content-Length: 5,5\r\n\r\nabcde%(call)b"),
    "a bare CR": (400, b"X: a\rContent-Length: %(size)d\r\n\r\n%(call)b"),
    "a bare LF": (400, b"X: a\nContent-Length: %(size)d\r\n\r\n%(call)b"),
    "a NUL": (400, b"X\0: a\r\nContent-Length: %(size)d\r\n\r\n%(call)b"),
    "a body": (400, b"Content-Length: %(size)d\r\n\r\n%(call)b"),
    "a body that is called hop-by-hop": (
        400,
        b"Connection: content-length\r\nContent-Length: %(size)d\r\n\r\n%(call)b",
    ),
    "a chunk": (400, CHUNKED + b"%(size)x\r\n%(call)b\r\n0\r\n\r\n"),
    "a chunk's extension": (400, CHUNKED + b"1;a\n1\r\n0\r\n\r\n%(call)b"),
    "a chunk's extension with CR": (400, CHUNKED + b"1;a\rb\r\n1\r\n0\r\n\r\n%(call)b"),
    "chunks that end with LF": (400, CHUNKED + b"1\n1\n0\n\n%(call)b"),
    "a chunk that is longer": (400, CHUNKED + b"2\r\nabcde\r\n0\r\n\r\n%(call)b"),
    "a chunk without a size": (400, CHUNKED + b"\r\nabc\r\n0\r\n\r\n%(call)b"),
    "a trailer": (400, CHUNKED + b"0\r\nContent-Length: 0\r\n\r\n%(call)b"),
    **{
        f"a chunk's size of {size}": (400, CHUNKED + size.encode() + b"\r\n%(call)b")
        for size in ("f" * 17, "1" + "0" * 16, "0x5", "+5", "-5", " 5", "5 ", "5_0", "٥")
    },
}


@pytest.mark.parametrize("name", HIDING)
async def test_a_call_hidden_in_another_is_never_made(house: House, name):
    status, rest = HIDING[name]
    call = house.call(chat())
    given = {b"call": call, b"size": len(call), b"after": len(call) + 5}
    got, _ = await sent(house, head(house)[:-2] + rest % given)
    assert got == status
    await asyncio.sleep(0.01)  # a second answer would be on its way
    assert house.rows() == []


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"DELETE"])
async def test_a_body_where_none_belongs_is_not_the_next_request(house: House, method):
    call = house.call(chat())
    ask = head(house, f"Content-Length: {len(call)}", path="/v1/models")
    reader, writer = await house.connect()
    writer.write(ask.replace(b"POST", method, 1) + call)
    assert b"HTTP/1.1 200 " not in (await reader.readuntil(b"\r\n\r\n")) or method == b"GET"
    await asyncio.sleep(0.01)
    assert house.rows() == []
    writer.close()


@pytest.mark.parametrize(
    ("line", "status"),
    [
        (b"GET http://169.254.169.254/v1/models HTTP/1.1", 404),
        (b"GET //x/v1/models HTTP/1.1", 404),
        (b"OPTIONS * HTTP/1.1", 404),
        (b"CONNECT engine:80 HTTP/1.1", 404),
        (b"TRACE /v1/models HTTP/1.1", 405),
        (b"GET /v1/models#part HTTP/1.1", 404),
        (b"GET /v1/mod els HTTP/1.1", 400),
        (b"GET /v1/models/\xff HTTP/1.1", 400),
        (b"GET\t/v1/models HTTP/1.1", 400),
        (b"GET /v1/models HTTP/1.2", 400),
        (b"GET /v1/models http/1.1", 400),
        (b"GET /v1/models/" + b"a" * 60_000 + b" HTTP/1.1", 431),
        (b"G" * 70_000 + b" /v1/models HTTP/1.1", 400),
    ],
)
async def test_a_first_line_is_read_in_one_way(house: House, line, status):
    ask = head(house)
    assert (await sent(house, line + ask[ask.index(b"\r\n") :]))[0] == status
    assert house.engine.connections == 0
    await honest(house)


@pytest.mark.parametrize("protocol", ["h2c", "websocket", "TLS/1.0", "HTTP/2.0"])
async def test_an_offer_of_another_protocol_is_not_taken_up(house: House, protocol):
    ask = head(
        house, f"Upgrade: {protocol}", "Connection: Upgrade, HTTP2-Settings", path="/v1/models"
    ).replace(b"POST", b"GET", 1)
    reader, writer = await house.connect()
    writer.write(ask * 2)  # what follows is the next request, and not the other protocol's
    for _ in range(2):
        status, headers, _ = await read_answer(reader)
        assert status == 200
        assert "upgrade" not in headers
    writer.close()


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


async def test_2000_slow_heads_and_bodies_cost_a_timeout_and_harm_nobody(house: House, monkeypatch):
    monkeypatch.setattr(connection, "HEAD_TIMEOUT", 3.0)
    monkeypatch.setattr(connection, "BODY_TIMEOUT", 3.0)
    beginnings = (b"POST /v1/chat/completions HTTP/1.1\r\nX: ", house.call(b"x" * 10_000)[:-9_000])
    slow = [await house.connect() for _ in range(SLOW)]
    for number, (_, writer) in enumerate(slow):
        writer.write(beginnings[number % 2])
    served = 0
    while len(house.runtime.connections) >= SLOW:  # they trickle on, and others are served
        for _, writer in slow[served % 50 :: 50]:
            writer.write(b"y")
        await honest(house)
        served += 1
    assert served > 20
    assert len(house.rows()) == served
    for reader, writer in slow:
        with suppress(ConnectionError):  # told why while it was still talking
            async with asyncio.timeout(10):
                assert (await reader.read()).startswith(b"HTTP/1.1 408 ")
        writer.close()
    await house.until(lambda: not house.runtime.connections)
    assert house.runtime.buffered == 0


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
    text = scrape.exposition([metrics.Process(1, metrics.BOOK.figures(), {}, {})], {})
    assert b"invented" not in text
    assert any(
        b'endpoint="models"' in line and b'status="401"' in line for line in text.splitlines()
    )
