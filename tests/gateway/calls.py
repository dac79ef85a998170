"""Calls that a client of an engine makes, told apart by name, and what of their answers may differ.

Used against the fake engine (`test_conformance.py`) and the real one (`tests/journeys`).
"""

from typing import Any

import anthropic
import openai
import pytest

from tests.gateway.house import chat

OWN = {"id", "created", "created_at", "model", "request_id", "item_id"}  # may differ
SAID = [{"role": "user", "content": "Tell me more"}]


def without_own(value: Any) -> Any:
    if isinstance(value, list):
        return [without_own(item) for item in value]
    if isinstance(value, dict):
        return {name: without_own(inner) for name, inner in value.items() if name not in OWN}
    return value


CALLS = {
    "chat": lambda c: c.chat.completions.create(**chat("Tell me more", temperature=0)),
    "several choices": lambda c: c.chat.completions.create(**chat("Tell me more", seed=7), n=3),
    "a short answer": lambda c: c.chat.completions.create(
        **chat("Tell me more", temperature=0), max_tokens=2
    ),
    "sampling of vLLM": lambda c: c.chat.completions.create(
        **chat("Tell me more", temperature=0), extra_body={"top_k": 5, "min_p": 0.1}
    ),
    "completions": lambda c: c.completions.create(
        model="demo", temperature=0, prompt=["a b", "c"], max_tokens=4
    ),
    "responses": lambda c: c.responses.create(model="demo", temperature=0, input="Tell me more"),
}
STREAMS = {
    "chat": lambda c: c.chat.completions.create(**chat("Tell me more", temperature=0), stream=True),
    "chat with usage": lambda c: c.chat.completions.create(
        **chat("Tell me more", temperature=0), stream=True, stream_options={"include_usage": True}
    ),
    "completions": lambda c: c.completions.create(
        model="demo", temperature=0, prompt="a b c", max_tokens=5, stream=True
    ),
    "responses": lambda c: c.responses.create(
        model="demo", temperature=0, input="Tell me more", stream=True
    ),
}


async def refusal(client: openai.AsyncOpenAI, call: Any) -> openai.APIStatusError:
    with pytest.raises(openai.APIStatusError) as raised:
        await call(client)
    return raised.value


ERRORS = {
    "no such model": lambda c: c.chat.completions.create(model="nope", messages=SAID),
    "no messages": lambda c: c.chat.completions.create(model="demo", messages=[]),
    "too long": lambda c: c.chat.completions.create(**chat("word " * 5000)),
    "no such path": lambda c: c.post("/nothing", cast_to=object),
    "no such answer": lambda c: c.responses.retrieve("resp_1"),
    "no such model to list": lambda c: c.models.retrieve("nope"),
}


async def whole(client: openai.AsyncOpenAI, name: str) -> Any:
    return without_own((await CALLS[name](client)).to_dict())


async def streamed(client: openai.AsyncOpenAI, name: str) -> list[Any]:
    return without_own([event.to_dict() async for event in await STREAMS[name](client)])


async def messages(client: anthropic.AsyncAnthropic) -> list[Any]:
    """A message, a count, and a message that is streamed."""
    given: dict[str, Any] = {"model": "demo", "max_tokens": 50, "messages": SAID}
    given["extra_body"] = {"temperature": 0}
    whole = await client.messages.create(**given)
    count = await client.messages.count_tokens(model="demo", messages=SAID)
    async with client.messages.stream(**given) as stream:
        text = await stream.get_final_text()
    return without_own([whole.to_dict()["content"], count.to_dict(), text])


def assert_same_error(got: openai.APIStatusError, expected: openai.APIStatusError) -> None:
    """The engine's status, in OpenAI's shape."""
    assert (type(got), got.status_code) == (type(expected), expected.status_code)
    body = got.response.json()["error"]
    assert set(body) == {"message", "type", "param", "code"}
    assert isinstance(body["message"], str) and isinstance(body["type"], str)
    assert body["code"] is None or isinstance(body["code"], str)
