"""The gateway on uvicorn's own port, beside pages and websockets, on one connection if need be."""

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
import websockets
from uvicorn import Config, Server

from billing.usage_record import Outcome
from inference.gateway.mounted import mounted
from tests.fakes import engine as fake
from tests.gateway.house import House, chat, read_answer

PAGE = b"GET /page HTTP/1.1\r\nHost: x\r\n\r\n"
SLOW_PAGE = b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n"


async def pages(scope, receive, send) -> None:
    """A plain ASGI application: a page that says its path and its body, and an echoing socket."""
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": message["text"]})
        return
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    if scope["path"] == "/slow":
        await asyncio.sleep(0.05)
    text = scope["path"].encode() + b" " + body
    start = {"type": "http.response.start", "status": 200}
    await send(start | {"headers": [(b"content-length", str(len(text)).encode())]})
    await send({"type": "http.response.body", "body": text})


@pytest.fixture
async def server(house: House) -> AsyncIterator[Server]:
    config = Config(
        pages,
        port=0,
        http=mounted(house.runtime),
        ws="websockets-sansio",
        lifespan="off",
        log_config=None,
        timeout_graceful_shutdown=5,
    )
    running = Server(config)
    running.capture_signals = _nothing
    task = asyncio.ensure_future(running.serve())
    await house.until(lambda: running.started)
    house.port = running.servers[0].sockets[0].getsockname()[1]
    yield running
    running.should_exit = True
    await task


class _nothing:  # noqa: N801
    """The signals are the test run's own."""

    def __enter__(self) -> None: ...
    def __exit__(self, *error: object) -> None: ...


async def test_the_sdk_works_beside_pages(house: House, server: Server):
    async with house.sdk() as client:
        stream = await client.chat.completions.create(**chat("Hello"), stream=True)
        text = "".join([c.choices[0].delta.content or "" async for c in stream])
    assert text == fake.answer("Hello")


async def test_pages_and_calls_take_turns_on_one_connection(house: House, server: Server):
    reader, writer = await house.connect()
    for number in range(12):
        if number % 3 == 0:
            writer.write(PAGE)
            assert (await read_answer(reader))[2] == b"/page "
        elif number % 3 == 1:
            writer.write(house.call(chat(stream=number % 2 == 0)))
            assert (await read_answer(reader))[0] == 200
        else:
            post = b"POST /form HTTP/1.1\r\nHost: x\r\nContent-Length: 7\r\n\r\n/v1/abc"
            writer.write(post)
            assert (await read_answer(reader))[2] == b"/form /v1/abc"
    writer.close()
    assert len(house.rows()) == 4


@pytest.mark.parametrize("first", ["page", "call"])
async def test_taking_turns_works_cut_at_every_byte(house: House, server: Server, first):
    call, expected = house.call(chat()), (200, 200)
    requests = [PAGE, call] if first == "page" else [call, PAGE]
    reader, writer = await house.connect()
    for cut in range(1, 40):
        for request, status in zip(requests, expected, strict=True):
            writer.write(request[:cut])
            await asyncio.sleep(0)
            writer.write(request[cut:])
            assert (await read_answer(reader))[0] == status
    writer.close()


async def test_pages_in_one_breath_are_all_answered(house: House, server: Server):
    reader, writer = await house.connect()
    writer.write(PAGE * 5)
    for _ in range(5):
        assert (await read_answer(reader))[2] == b"/page "
    writer.close()


async def test_a_call_in_one_breath_behind_a_page_ends_the_connection_after_the_page(
    house: House, server: Server
):
    reader, writer = await house.connect()
    writer.write(SLOW_PAGE + house.call(chat()))
    status, headers, body = await read_answer(reader)
    assert (status, body, headers["connection"]) == (200, b"/slow ", "close")
    async with asyncio.timeout(5):
        assert await reader.read() == b""
    writer.close()
    assert house.rows() == []


async def test_a_page_in_one_breath_behind_a_call_ends_the_connection_after_the_call(
    house: House, server: Server
):
    reader, writer = await house.connect()
    writer.write(house.call(chat()) + PAGE)
    assert (await read_answer(reader))[0] == 200
    async with asyncio.timeout(5):
        assert await reader.read() == b""
    writer.close()


async def test_websockets_are_unharmed(house: House, server: Server):
    async with websockets.connect(f"ws://127.0.0.1:{house.port}/socket") as socket:
        await socket.send("hello")
        async with house.sdk() as client:
            await client.chat.completions.create(**chat())
        await socket.send("/v1/chat")
        assert [await socket.recv(), await socket.recv()] == ["hello", "/v1/chat"]


async def test_a_connection_that_made_a_call_may_become_a_websocket(house: House, server: Server):
    reader, writer = await house.connect()
    writer.write(house.call(chat()))
    assert (await read_answer(reader))[0] == 200
    writer.write(
        b"GET /socket HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
    assert house.runtime.connections == set()
    writer.close()


async def test_a_websocket_under_v1_is_not_the_pages_business(house: House, server: Server):
    reader, writer = await house.connect()
    writer.write(
        b"GET /v1/socket HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    assert (await read_answer(reader))[0] == 404
    writer.close()


@pytest.mark.parametrize("path", ["/v1", "/v1/", "/v1?a=b", "/v1/nothing"])
async def test_all_of_v1_is_ours(house: House, server: Server, path):
    reader, writer = await house.connect()
    writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    status, _, body = await read_answer(reader)
    assert (status, json.loads(body)["error"]["code"]) == (404, "unknown_url")
    writer.close()


@pytest.mark.parametrize("path", ["/v10", "/v", "/api/v1/x", "/V1/x", "//v1/x", "/v1x/y"])
async def test_what_is_not_v1_is_the_pages(house: House, server: Server, path):
    reader, writer = await house.connect()
    writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    assert (await read_answer(reader))[2] == path.encode() + b" "
    writer.close()


async def test_a_hang_up_is_billed_and_forgotten(house: House, server: Server):
    reader, writer = await house.connect()
    writer.write(house.call(chat("[[fake tokens=1000 delay=0.01]]", stream=True)))
    await reader.readuntil(b'"content":"You"')
    writer.close()
    row = await house.closed_row()
    assert row.final.outcome == Outcome.CLIENT_GONE
    assert row.final.usage.completion_tokens > 0
    await house.until(lambda: not house.runtime.connections)


async def test_shutting_down_finishes_a_stream_and_does_not_wait_for_the_idle(
    house: House, server: Server
):
    idle_reader, idle_writer = await house.connect()
    idle_writer.write(house.call(chat()))
    await read_answer(idle_reader)
    reader, writer = await house.connect()
    writer.write(house.call(chat("[[fake tokens=20 delay=0.02]]", stream=True)))
    await reader.readuntil(b"\r\n\r\n")
    loop = asyncio.get_running_loop()
    began = loop.time()
    server.should_exit = True
    assert b"data: [DONE]" in await reader.read()
    assert await idle_reader.read() == b""
    await house.until(lambda: not server.server_state.connections)
    assert loop.time() - began < 3
    writer.close()
    idle_writer.close()
