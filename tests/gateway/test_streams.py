"""Usage in a stream: seen exactly when asked for, counted always, cut without touching a byte."""

import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from billing.usage_record import Outcome, Usage, UsageSource
from inference.gateway import usage
from inference.gateway.relay import BrokenStream, Relay
from tests.fakes import engine as fake
from tests.gateway.house import House, chat, read_answer

ANY_USAGE = re.compile(rb',"usage":\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\}')
CLOSING = re.compile(rb'data: [^\n]*"choices":\[\][^\n]*\n\n')


async def straight(house: House, body: dict) -> bytes:
    """What the engine itself says to this, as it says it when usage is forced."""
    reply = Wire()
    head = {"x-request-id": "same"}
    raw = json.dumps(body).encode()
    await house.engine.answer("/v1/chat/completions", "POST", head, raw, reply)
    return reply.body


class Wire(fake.Reply):
    """Keeps what a connection would have been sent."""

    def __init__(self) -> None:
        self.request_id, self.body = "same", b""

    def begin_stream(self) -> None:
        pass

    def end_stream(self) -> None:
        self.body += b"data: [DONE]\n\n"

    def _chunk(self, data: bytes) -> None:
        self.body += data

    async def drain(self) -> None:
        pass


def unlike(stream: bytes) -> bytes:
    """Without what differs between any two answers: id and time."""
    return re.sub(rb'"id":"[^"]*"|"created":\d+', b"", stream)


async def through(house: House, body: dict) -> bytes:
    reader, writer = await house.connect()
    writer.write(house.call(body))
    status, headers, stream = await read_answer(reader)
    assert (status, headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
    writer.close()
    return stream


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (None, lambda s: CLOSING.sub(b"", ANY_USAGE.sub(b"", CLOSING.sub(b"", s)))),
        ({"include_usage": False}, lambda s: ANY_USAGE.sub(b"", CLOSING.sub(b"", s))),
        (
            {"include_usage": True},
            lambda s: re.sub(
                rb"data: [^\n]*\n\n",
                lambda m: m[0] if CLOSING.match(m[0]) else ANY_USAGE.sub(b"", m[0]),
                s,
            ),
        ),
        ({"include_usage": True, "continuous_usage_stats": True}, lambda s: s),
        ({"continuous_usage_stats": True}, lambda s: ANY_USAGE.sub(b"", CLOSING.sub(b"", s))),
    ],
)
async def test_all_but_the_usage_arrives_byte_for_byte(house: House, options, expected, n):
    text = 'He said: ,"usage":{"prompt_tokens":9} and data: [DONE] 你好 \\ "quoted"'
    body = chat(text, stream=True, n=n) | ({"stream_options": options} if options else {})
    engine = await straight(house, body)
    assert b'"usage":{' in engine
    assert unlike(await through(house, body)) == unlike(expected(engine))
    row = await house.closed_row()
    told = json.loads(CLOSING.search(engine)[0][6:])["usage"]
    assert row.final.usage == Usage(told["prompt_tokens"], told["completion_tokens"])
    assert row.final.source == UsageSource.ENGINE


async def test_an_engine_without_usage_is_a_flagged_row(house: House):
    await through(house, chat("[[fake no_usage=1]]", stream=True))
    row = await house.closed_row()
    assert (row.final.source, row.final.usage) == (UsageSource.ABSENT, Usage())


async def test_an_error_in_a_stream_takes_openai_s_shape(house: House):
    stream = await through(house, chat("[[fake error_after=3]]", stream=True))
    (error,) = [json.loads(e[6:]) for e in stream.split(b"\n\n") if b'"error"' in e]
    assert error["error"]["code"] is None
    assert stream.endswith(b"data: [DONE]\n\n")
    row = await house.closed_row()
    assert row.final.outcome == Outcome.ENGINE_ERROR
    assert row.final.usage.completion_tokens == 3


# ---------------------------------------------------------------------------- without a network

EVENT = (
    b'data: {"id":"x","object":"chat.completion.chunk","created":1,"model":"m",'
    b'"choices":[{"index":0,"delta":{"content":"hi"},"logprobs":null,"finish_reason":null}]%b}'
)
RUNNING = b',"usage":{"prompt_tokens":3,"total_tokens":5,"completion_tokens":2}'


@pytest.mark.parametrize(
    ("event", "rest"),
    [
        (EVENT % RUNNING, EVENT % b""),
        (EVENT % (RUNNING + b',"prompt_token_ids":null'), EVENT % b',"prompt_token_ids":null'),
        (
            EVENT % RUNNING.replace(b"2}", b'2,"prompt_tokens_details":{"cached_tokens":1}}'),
            EVENT % b"",
        ),
        (
            EVENT % (RUNNING + b',"metrics":{"time_to_first_token_ms":1.5}'),
            EVENT % b',"metrics":{"time_to_first_token_ms":1.5}',
        ),
        (
            EVENT % RUNNING.replace(b"2}", b'2,"a":{"b":1},"completion_tokens_details":null}'),
            EVENT % b"",
        ),
        (EVENT % (RUNNING + b',"note":"}}"'), EVENT % b',"note":"}}"'),
        (EVENT % b', "usage": {"prompt_tokens": 3, "completion_tokens": 2}', EVENT % b""),
        (
            b'data: {"usage":{"prompt_tokens":3,"completion_tokens":2},"choices":[{}]}',
            b'data: {"choices":[{}]}',
        ),
    ],
)
def test_usage_is_found_wherever_it_stands(event, rest):
    found = usage.find(event)
    assert found.rest == rest
    told = usage.read(found.value)
    assert (told.prompt_tokens, told.completion_tokens) == (3, 2)
    assert not found.closing


@pytest.mark.parametrize(
    "event",
    [
        EVENT % b"",
        EVENT % b',"note":"\\",\\"usage\\":{\\"prompt_tokens\\":3}"',
        b'data: {"choices":[{"delta":{"usage":{"prompt_tokens":3}}}]}',
        b'data: {"choices":[{"delta":{"a":1,"usage":{"prompt_tokens":3}}}]}',
        b': a comment with "usage"',
        b'data: {"choices":[],"usage":',
        b'data: {"x":{"a":1,"usage":{"prompt_tokens":3}}}',
        b'data: {"x":{"a":1,"usage":{"prompt_tokens":3},"y":{"z":{}}}}',
    ],
)
def test_what_only_looks_like_usage_stays(event):
    assert usage.find(event) is None


COUNTS = st.dictionaries(
    st.sampled_from(["prompt_tokens", "completion_tokens", "total_tokens"]), st.integers(0, 10**6)
)
USAGE = COUNTS | st.builds(lambda c, d: c | {"prompt_tokens_details": d}, COUNTS, COUNTS)
TEXT = st.text(max_size=20) | st.sampled_from(
    ['","usage":{"a":1}', ',"usage":{', "}}", '\\"usage"']
)
INNER = st.fixed_dictionaries({"content": TEXT}, optional={"usage": USAGE, "usages": TEXT})


@settings(max_examples=300, deadline=None)
@given(
    st.dictionaries(st.sampled_from(["id", "model", "note"]), TEXT),
    st.lists(st.fixed_dictionaries({"delta": INNER}, optional={"usage": USAGE}), max_size=2),
    st.none() | USAGE,
    st.randoms(use_true_random=False),
    st.sampled_from([(",", ":"), (", ", ": "), (" , ", " : ")]),
    st.booleans(),
)
def test_usage_is_cut_from_any_chunk_and_from_nowhere_else(
    head, choices, told, random, separators, ascii_only
):
    members = [*head.items(), ("choices", choices)]
    members += [("usage", told)] if told is not None else []
    random.shuffle(members)
    chunk = dict(members)
    text = json.dumps(chunk, separators=separators, ensure_ascii=ascii_only)
    found = usage.find(b"data: " + text.encode())
    if told is None:
        assert found is None
        return
    assert json.loads(found.value) == told
    assert found.closing == (choices == [])
    del chunk["usage"]
    assert list(json.loads(found.rest.removeprefix(b"data: ")).items()) == list(chunk.items())


def test_usage_that_is_null_until_the_end_takes_nothing_back():
    running, null = EVENT % RUNNING + b"\n\n", EVENT % b',"usage":null' + b"\n\n"
    closing = b'data: {"choices":[],"usage":null}\n\n'
    for include, expected in ((True, null + closing), (False, EVENT % b"" + b"\n\n")):
        relay = Relay(include_usage=include, continuous_usage=False)
        relay.feed(running)
        assert relay.feed(null + closing).startswith(expected)
        assert relay.usage() == Usage(3, 2)


def stream_of(*texts: str) -> bytes:
    events = [
        {
            "choices": [{"index": 0, "delta": {"content": t}}],
            "usage": {"prompt_tokens": 4, "completion_tokens": i},
        }
        for i, t in enumerate(texts, 1)
    ]
    raw = [json.dumps(e, ensure_ascii=False, separators=(",", ":")).encode() for e in events]
    return b"".join(b"data: " + r + b"\n\n" for r in raw) + b"data: [DONE]\n\n"


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(max_size=20), max_size=8), st.data(), st.booleans(), st.booleans())
def test_it_does_not_matter_where_the_network_cuts(texts, data, include, continuous):
    whole = stream_of(*texts)
    once = Relay(include_usage=include, continuous_usage=continuous)
    expected = once.feed(whole)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=12)))
    relay = Relay(include_usage=include, continuous_usage=continuous)
    pieces = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    assert b"".join(relay.feed(piece) for piece in pieces if piece) == expected
    assert relay.done
    assert relay.usage() == once.usage()


def test_a_byte_at_a_time_is_the_same():
    whole = stream_of("a", "\n\n", "data: [DONE]", "你好")
    once = Relay(include_usage=True, continuous_usage=True)
    relay = Relay(include_usage=True, continuous_usage=True)
    assert b"".join(relay.feed(whole[i : i + 1]) for i in range(len(whole))) == once.feed(whole)
    assert relay.done


def test_an_event_without_end_is_no_stream():
    relay = Relay(include_usage=False, continuous_usage=False)
    with pytest.raises(BrokenStream):
        for _ in range(200):
            relay.feed(b"x" * 65536)


def test_what_an_engine_says_beyond_reason_is_not_believed():
    told = usage.read(
        b'{"prompt_tokens":5,"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":9},'
        b'"completion_tokens_details":{"reasoning_tokens":7}}'
    )
    assert told == Usage(5, 2, 5, 2)
