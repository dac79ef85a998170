"""llama.cpp's streams, recorded from build 11549: counted by their timings, which clients never
see."""

import json
from typing import Any
from uuid import UUID

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.usage_record import Outcome, Usage
from inference.engines import ENGINES
from inference.gateway import events, timings
from inference.gateway.events import EventRelay
from inference.gateway.relay import Relay, TimedRelay
from inference.gateway.request import parse
from inference.gateway.snapshot import _instance
from tests.gateway.house import House, chat

HEAD = '"created":1795865627,"id":"chatcmpl-x","model":"demo","object":"chat.completion.chunk"'


def told(cached: int, computed: int, made: int) -> str:
    return (
        f'"timings":{{"cache_n":{cached},"prompt_n":{computed},"prompt_ms":2.34,'
        f'"predicted_n":{made},"predicted_ms":0.001,"predicted_per_second":0.0}}'
    )


def piece(text: str, made: int) -> str:
    delta = json.dumps({"content": text})
    choice = f'{{"finish_reason":null,"index":0,"delta":{delta}}}'
    return f'data: {{"choices":[{choice}],{HEAD},{told(6, 1, made)}}}\n\n'


USAGE = (
    '"usage":{"completion_tokens":2,"prompt_tokens":7,"total_tokens":9,'
    '"prompt_tokens_details":{"cached_tokens":6}}'
)
ROLE = '{"finish_reason":null,"index":0,"delta":{"role":"assistant","content":null}}'
END = '{"finish_reason":"length","index":0,"delta":{}}'
CHAT = [
    f'data: {{"choices":[{ROLE}],{HEAD}}}\n\n',
    piece('Model ,"timings":{"cache_n":9}', 1),
    piece("port", 2),
    f'data: {{"choices":[{END}],{HEAD}}}\n\n',
    f'data: {{"choices":[],{HEAD},{USAGE},{told(6, 1, 2)}}}\n\n',
    "data: [DONE]\n\n",
]
TEXT = '"object":"text_completion"'
COMPLETIONS = [
    'data: {"choices":[{"text":" from","index":0,"logprobs":null,"finish_reason":null}],'
    f"{TEXT},{told(0, 7, 1)}}}\n\n",
    'data: {"choices":[{"text":"","index":0,"logprobs":null,"finish_reason":"length"}],'
    f'{TEXT},{USAGE},"id":"chatcmpl-x",{told(0, 7, 2)}}}\n\n',
    "data: [DONE]\n\n",
]


def fed(relay: Relay | EventRelay, stream: list[str], cut: int | None = None) -> bytes:
    whole = "".join(stream).encode()
    if cut is None:
        return b"".join(relay.feed(event.encode()) for event in stream)
    return relay.feed(whole[:cut]) + relay.feed(whole[cut:])


def chunks(stream: bytes) -> list[Any]:
    found = [event for event in stream.split(b"\n\n") if event.startswith(b"data: {")]
    return [json.loads(event[6:]) for event in found]


@given(st.integers(0, len("".join(CHAT))))
def test_wherever_a_stream_is_cut_it_is_counted(cut: int) -> None:
    relay = TimedRelay(include_usage=False, continuous_usage=False)

    out = fed(relay, CHAT, cut)

    assert relay.usage() == Usage(7, 2, 6)
    assert (relay.finish, relay.done, relay.tail) == ("length", True, b"data: [DONE]\n\n")
    assert b'"usage"' not in out and b"predicted_n" not in out
    texts = [c["choices"][0]["delta"].get("content") or "" for c in chunks(out)]
    assert "".join(texts) == 'Model ,"timings":{"cache_n":9}port'


def test_of_a_stream_that_breaks_off_the_newest_timings_count() -> None:
    relay = TimedRelay(include_usage=False, continuous_usage=False)

    fed(relay, CHAT[:2])

    assert (relay.usage(), relay.content) == (Usage(7, 1, 6), True)


def test_that_the_assistant_speaks_is_no_content_yet() -> None:
    relay = TimedRelay(include_usage=False, continuous_usage=False)

    fed(relay, CHAT[:1])

    assert not relay.content and relay.usage() is None


def test_completions_tell_the_sum_once_the_bill_is_on_disk() -> None:
    relay = TimedRelay(include_usage=True, continuous_usage=False)

    out = fed(relay, COMPLETIONS)

    assert relay.usage() == Usage(7, 2, 6)
    assert b'"usage"' not in out
    (last,) = chunks(relay.tail)
    assert last["usage"]["completion_tokens"] == 2 and "timings" not in last
    assert relay.tail.endswith(b"data: [DONE]\n\n") and relay.finish == "length"


def test_continuous_usage_is_made_of_timings() -> None:
    relay = TimedRelay(include_usage=True, continuous_usage=True)

    running = [c["usage"] for c in chunks(fed(relay, CHAT)) if "usage" in c]

    assert [(u["prompt_tokens"], u["completion_tokens"]) for u in running] == [(7, 1), (7, 2)]


def test_timings_that_say_nothing_are_passed_over() -> None:
    event = b'data: {"choices":[],"timings":{"cache_n":"many"}}'

    assert timings.cut(event) == (b'data: {"choices":[]}', None)
    assert timings.cut(b"data: nonsense") == (b"data: nonsense", None)
    first = b'data: {"timings":{"prompt_n":3},"choices":[]}'
    assert timings.cut(first) == (b'data: {"choices":[]}', Usage(3))


def test_a_response_is_counted_as_it_comes() -> None:
    relay = events.of("responses", timed=True)
    assert relay is not None
    delta = '{"type":"response.output_text.delta","delta":"Modelport",' + told(0, 7, 1) + "}"

    out = relay.feed(f"event: response.output_text.delta\ndata: {delta}\n\n".encode())

    assert relay.usage() == Usage(7, 1) and not relay.delivered
    assert b"timings" not in out and b'"delta":"Modelport"' in out


def test_a_message_is_told_its_prompt_first_and_its_answer_last() -> None:
    relay = events.of("messages", timed=True)
    assert relay is not None
    begun = '{"cache_read_input_tokens":6,"input_tokens":1,"output_tokens":0}'
    relay.feed(f'event: message_start\ndata: {{"message":{{"usage":{begun}}}}}\n\n'.encode())
    assert relay.usage() == Usage(7, 0, 6)

    end = '{"delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":4}}'
    relay.feed(f"event: message_delta\ndata: {end}\n\n".encode())

    assert (relay.usage(), relay.finish) == (Usage(7, 4, 6), "end_turn")


def test_only_streams_of_such_an_engine_are_asked_for_timings() -> None:
    raw = json.dumps(chat("Hello", stream=True)).encode()

    parsed = parse("chat/completions", raw)

    assert json.loads(parsed.body_for("demo", timings=True))["timings_per_token"] is True
    assert "timings_per_token" not in json.loads(parsed.body_for("demo"))
    whole = parse("chat/completions", json.dumps(chat("Hello")).encode())
    assert "timings_per_token" not in json.loads(whole.body_for("demo", timings=True))


@pytest.mark.parametrize("engine", ENGINES)
def test_the_gateway_knows_how_each_engine_counts(house: House, engine: str) -> None:
    made = house.instance
    ids = [UUID(bytes=value) for value in (made.id, made.organization_id)]
    rest = [10, 30, False, "", "", None, None, "demo"]

    read = _instance((*ids, "demo", engine, {}, "ready", "running", made.created_at, *rest))

    assert read.wire == ENGINES[engine].wire


async def test_several_answers_go_where_they_are_counted(house: House) -> None:
    house.instance.wire = ENGINES["llama_cpp"].wire

    async with house.sdk() as client:
        with pytest.raises(openai.BadRequestError, match="one answer to one prompt"):
            await client.chat.completions.create(**chat("Hello"), n=2)
    row = await house.closed_row()
    assert row.final is not None and row.final.outcome == Outcome.REFUSED
