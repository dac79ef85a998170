"""Bytes that nobody meant: every parser ends in one of its own answers, wherever the bytes are cut.

P15 of TRUST.md: 0 crashes, 0 server errors of a parser.
"""

import asyncio
import json
import random
import re
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from accounts import keys
from inference.gateway import cors, errors, events, usage
from inference.gateway.auth import Authenticator
from inference.gateway.connection import GatewayProtocol
from inference.gateway.errors import Refusal
from inference.gateway.fields import FIELDS
from inference.gateway.paths import Call, match
from inference.gateway.relay import BrokenStream, Relay
from inference.gateway.request import parse
from inference.gateway.upstream import Pool, Upstream
from tests.gateway.house import House

STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")
CRLF = b"\r\n"


def mixed(*words: bytes, most: int = 40) -> st.SearchStrategy[bytes]:
    """Words of a grammar, among them some that are none."""
    noise = st.binary(max_size=12)
    return st.lists(st.one_of(st.sampled_from(words), noise), max_size=most).map(b"".join)


def cut(data: bytes, draw: random.Random) -> list[bytes]:
    """The same bytes as the network may bring them."""
    cuts = sorted(draw.randrange(len(data) + 1) for _ in range(draw.randint(0, 12)))
    return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True) if a < b]


# ----------------------------------------------------------------------------- what clients send


class Wire:
    """A transport that keeps what was written."""

    def __init__(self) -> None:
        self.written = b""
        self.closed = False

    def write(self, data: bytes) -> None:
        if not self.closed:
            self.written += data

    def close(self) -> None:
        self.closed = True

    abort = write_eof = close

    def is_closing(self) -> bool:
        return self.closed

    def can_write_eof(self) -> bool:
        return True

    def pause_reading(self) -> None: ...

    resume_reading = pause_reading


REQUESTS = mixed(
    *(b"GET ", b"POST ", b"HEAD ", b"OPTIONS ", b"CONNECT ", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    *(b"/v1/models", b"/v1/chat/completions", b"/v1/responses/r", b"http://x/v1/models", b"*"),
    *(b" HTTP/1.1\r\n", b" HTTP/1.0\r\n", b" HTTP/0.9\r\n", CRLF, CRLF, CRLF + CRLF, b"\n", b"\r"),
    *(b"Host: x\r\n", b"Content-Length: 4\r\n", b"Content-Length: 0\r\n", b"Content-Length: 4, 4"),
    *(b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: gzip, chunked\r\n", b"0\r\n\r\n"),
    *(b"4\r\nabcd\r\n", b"4;x=y\r\nabcd\r\n", b"abcd", b"-1\r\n", b"ffffffffffffffff1\r\n"),
    *(b"Connection: close\r\n", b"Connection: Upgrade\r\nUpgrade: h2c\r\n", b" folded\r\n", b"\0"),
    *(b"Expect: 100-continue\r\n", b"Authorization: Bearer mp-x\r\n", b"Origin: https://x\r\n"),
    b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n",
    b"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nabcd",
)


def answers(house: House, pieces: list[bytes]) -> tuple[list[bytes], bool]:
    """The statuses that a connection answers with, and whether it has ended."""
    wire, protocol = Wire(), GatewayProtocol(house.runtime)
    protocol.connection_made(wire)
    for piece in pieces:
        if wire.closed:
            break
        protocol.data_received(piece)
    ended = wire.closed or protocol._closing
    protocol.connection_lost(None)
    return STATUS.findall(wire.written), ended


async def test_no_bytes_of_a_client_crash_a_connection_or_depend_on_where_they_are_cut(
    house: House,
):
    @settings(max_examples=400, deadline=None)
    @given(REQUESTS, st.randoms(use_true_random=False))
    @example(b"GET /v1/models HTTP/1.1\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\nabc", None)
    def fuzz(data: bytes, draw: random.Random | None) -> None:
        told = answers(house, [data])
        assert all(status < b"500" or status == b"501" for status in told[0])
        assert answers(house, cut(data, draw or random.Random(0))) == told  # noqa: S311
        assert answers(house, [bytes([byte]) for byte in data]) == told

    fuzz()
    assert not house.runtime.connections
    assert house.runtime.buffered == 0


@settings(max_examples=400, deadline=None)
@given(
    mixed(b"GET", b"POST", b"DELETE", b"get", most=2),
    mixed(b"/v1/", b"models", b"responses/", b"abc", b"/cancel", b"?stream=true", b"..", b"%2f"),
)
def test_any_path_is_on_the_list_or_refused(method, target):
    try:
        call = match(method, target)
    except Refusal as refusal:
        assert refusal.status in {400, 404, 405}
    else:
        assert isinstance(call, Call)
        assert b".." not in call.path


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4)
    ),
    max_leaves=12,
)
NAMES = sorted({name for table in FIELDS.values() for name in table})
BODIES = st.one_of(
    st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=6), JSON, max_size=8).map(
        lambda body: json.dumps({"model": "demo"} | body).encode()
    ),
    mixed(
        *(b"{", b"}", b"[", b"]", b",", b":", b'"', b"\\", b"\\u", b"\\ud800", b"\xff", b"1e999"),
        *(b'"model":"demo"', b'"n":', b'"messages":[]', b"null", b"-", b"0" * 400, b"\xed\xa0\x80"),
    ),
)


@settings(max_examples=600, deadline=None)
@given(st.sampled_from(sorted(FIELDS)), BODIES)
def test_any_body_is_taken_or_refused_by_name(endpoint, body):
    try:
        parsed = parse(endpoint, body)
    except Refusal as refusal:
        assert refusal.status == 400
        assert json.loads(refusal.body())["error"]["message"]
        return
    sent = json.loads(parsed.body_for(parsed.model))
    asked = json.loads(body)
    own = {"stream_options"}
    assert {k: v for k, v in sent.items() if k not in own}.items() <= Comparable(asked).items()
    assert json.loads(parsed.body_for("other"))["model"] == "other"
    assert isinstance(parsed.affinity(), int)
    assert parsed.prompt_size >= 0


class Comparable(dict[str, Any]):
    """A dict whose items may be lists, and NaN."""

    def items(self) -> Any:
        return Items(super().items())


class Items(list[Any]):
    def __ge__(self, other: Any) -> bool:
        told = {json.dumps(item, sort_keys=True) for item in self}
        return all(json.dumps(item, sort_keys=True) in told for item in other)


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 200_000,
        b'{"model":"demo","messages":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"model":"demo","messages":' + b'{"a":' * 50_000 + b"1" + b"}" * 50_000 + b"}",
        b'{"model":"demo","n":' + b"9" * 100_000 + b"}",
        b'{"model":"demo","n":1e400}',
        b'{"model":"demo","n":-0.0}',
        b'{"model":"demo","n":1,"n":2}',
        b'{"model":"demo","\\u006e":1,"n":2}',
        b'{"model":"demo","\\u006dodel":"other"}',
        b'{"model":"\\ud800"}',
        b'{"model":"demo","messages":"\xed\xa0\x80"}',
        b'\xef\xbb\xbf{"model":"demo"}',
        '{"model":"demo"}'.encode("utf-16"),
        b'{"model":"demo",}',
        b'{"model":"demo"} {"model":"demo"}',
        b"{'model':'demo'}",
        b'{"model":"demo" // no\n}',
        b'{"model":NaN}',
        b"",
        b"null",
    ],
)
async def test_bombs_and_garbage_are_refused_quickly_over_the_wire(house: House, body):
    reader, writer = await house.connect()
    writer.write(house.call(body))
    async with asyncio.timeout(5):
        assert (await reader.readline()).startswith(b"HTTP/1.1 400 ")
    writer.close()
    assert house.rows() == []


@settings(max_examples=300, deadline=None)
@given(
    st.binary(max_size=80) | mixed(b"Bearer ", b"bearer ", b"mp-", b" ", keys.generate().encode())
)
def test_any_authorization_is_a_stranger_s(value):
    class Nobody:
        keys: dict[bytes, object] = {}  # noqa: RUF012

    try:
        assert len(Authenticator(Nobody(), "pepper").digest(value)) == 32
    except Refusal as refusal:
        assert refusal.status == 401


@given(st.binary(max_size=400))
def test_any_origin_can_be_repeated_in_a_header(value):
    named = cors.origin(value)
    assert "\r" not in named
    assert "\n" not in named


# ---------------------------------------------------------------------------- what engines send


class Ear:
    """Hears an engine's answer."""

    def __init__(self) -> None:
        self.heard: list[Any] = []
        self.body = b""

    def upstream_head(self, status: int, content_type: bytes, retry_after: bytes) -> None:
        self.heard.append((status, content_type, retry_after))

    def upstream_body(self, data: bytes) -> None:
        self.body += data

    def upstream_complete(self) -> None:
        self.heard.append("complete")

    def upstream_lost(self, answered: bool) -> None:
        self.heard.append(("lost", answered))


ENGINE = mixed(
    *(b"HTTP/1.1 200 OK\r\n", b"HTTP/1.0 200 OK\r\n", b"HTTP/1.1 204 No\r\n", b"HTTP/1.1 100 Go"),
    *(b"content-length: 4\r\n", b"Content-Length: 0\r\n", b"content-length: -4\r\n", b"\r\n\r\n"),
    *(b"transfer-encoding: chunked\r\n", b"Transfer-Encoding: gzip\r\n", b"connection: close\r\n"),
    *(b"4\r\nabcd\r\n", b"0\r\n\r\n", b"0\r\nX: y\r\n\r\n", b"4;a=b\r\nabcd\r\n", b"abcd", b"\r\n"),
    *(b"content-type: text/event-stream\r\n", b"HTTP/1.1 101 No\r\n\r\n", b"0x4\r\n", b"_4\r\n"),
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
    b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nabcd",
)


def heard(pieces: list[bytes], loop: asyncio.AbstractEventLoop) -> tuple[list[Any], bytes]:
    wire, ear = Wire(), Ear()
    upstream = Upstream(Pool("unix:/none", loop))
    upstream.connection_made(wire)
    upstream.send(ear, b"")
    for piece in pieces:
        if wire.closed or upstream.listener is None:
            break
        upstream.data_received(piece)
    upstream.connection_lost(None)
    return ear.heard, ear.body


async def test_no_bytes_of_an_engine_crash_a_connection_or_depend_on_where_they_are_cut():
    loop = asyncio.get_running_loop()

    @settings(max_examples=500, deadline=None)
    @given(ENGINE, st.randoms(use_true_random=False))
    def fuzz(data: bytes, draw: random.Random) -> None:
        told, body = heard([data] if data else [], loop)
        for pieces in (cut(data, draw), [bytes([byte]) for byte in data]):
            again, more = heard(pieces, loop)
            assert again == told
            if "complete" in told:
                assert more == body

    fuzz()


STREAM = mixed(
    *(b'data: {"choices":[{"index":0,"delta":{"content":"a"}}],"usage":{"prompt_tokens":3}}\n\n',),
    *(b"data: [DONE]\n\n", b'data: {"choices":[],"usage":{"prompt_tokens":1}}\n\n', b": ping\n\n"),
    *(b"\n\n", b"\n", b"data: ", b',"usage":{', b'"usage":null', b"}", b"{", b'"', b"\n\n\n"),
    *(b'data: {"error":{"message":"x"}}\n\n', b'data: {"error"', b'"finish_reason":"stop"'),
    *(b"event: response.completed\ndata: ", b'{"response":{"usage":{"input_tokens":1}}}\n\n'),
    *(b'event: message_start\ndata: {"message":{"usage":{"input_tokens":4}}}\n\n', b"[1,2]\n\n"),
    *(b"[" * 2000, b"HTTP/1.1 103 Early Hints\r\n\r\n"),
    *(b"event: message_delta\ndata: ", b"event: content_block_delta\ndata: ", b"event: error\n"),
    b'event: response.output_text.delta\ndata: {"delta":"a"}\n\n',
    b"event: message_stop\ndata: {}\n\n",
).map(lambda stream: stream.replace(b"\r", b""))
RELAYS = {
    "chat": lambda: Relay(include_usage=False, continuous_usage=False),
    "chat with usage": lambda: Relay(include_usage=True, continuous_usage=True),
    "chat of two": lambda: Relay(include_usage=True, continuous_usage=False, n=2),
    "responses": lambda: events.of("responses"),
    "messages": lambda: events.of("messages"),
}


def relayed(relay: Any, pieces: list[bytes]) -> tuple[Any, ...]:
    try:
        out = b"".join(relay.feed(piece) for piece in pieces)
    except BrokenStream:
        return ("broken",)
    out = re.sub(rb"\n{2,}", b"\n\n", out).lstrip(b"\n")  # between events, more of them say nothing
    return out, relay.usage(), relay.done, relay.failed, relay.finish, relay.tail


@pytest.mark.parametrize("name", RELAYS)
@settings(max_examples=250, deadline=None)
@given(data=STREAM, draw=st.randoms(use_true_random=False))
def test_no_stream_crashes_a_relay_or_depends_on_where_it_is_cut(name, data, draw):
    told = relayed(RELAYS[name](), [data])
    assert relayed(RELAYS[name](), cut(data, draw)) == told
    assert relayed(RELAYS[name](), [bytes([byte]) for byte in data]) == told


@pytest.mark.parametrize("name", RELAYS)
@settings(max_examples=150, deadline=None)
@given(data=STREAM, draw=st.randoms(use_true_random=False))
def test_lines_may_end_as_windows_ends_them(name, data, draw):
    told = relayed(RELAYS[name](), [data])
    assert relayed(RELAYS[name](), cut(data.replace(b"\n", b"\r\n"), draw)) == told


USED = mixed(
    *(b'{"usage":{"prompt_tokens":', b'"completion_tokens":', b"5", b"-5", b"1e9", b"9" * 30),
    *(b'"prompt_tokens_details":{"cached_tokens":', b"}", b"}}", b",", b"null", b'"usage":{'),
    *(b'"choices":[]', b'"choices":[{"index":', b'"finish_reason":"', b"[" * 2000, b'data: {"a":1'),
)


@settings(max_examples=500, deadline=None)
@given(USED)
def test_no_answer_crashes_the_reading_of_usage(data):
    for used in (usage.of_answer(data)[0], usage.read(data)):
        if used is not None:
            assert 0 <= used.cached_tokens <= used.prompt_tokens
            assert 0 <= used.reasoning_tokens <= used.completion_tokens
    usage.choice(data)
    usage.finish_reason(data)
    found = usage.find(data)
    if found is not None:
        assert len(found.rest) + len(found.value) <= len(data)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from([400, 404, 422, 500, 503]), JSON.map(json.dumps) | st.text(max_size=40))
@example(400, '{"error": {"message": "x", "param": {}, "code": []}}')
@example(400, "[" * 100_000)
def test_whatever_an_engine_calls_an_error_becomes_one_of_ours(status, said):
    for shape in ("openai", "anthropic"):
        error = json.loads(errors.of_engine(status, said.encode(), shape))["error"]
        assert isinstance(error["message"], str)
        assert isinstance(error["type"], str)
