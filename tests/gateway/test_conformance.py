"""The same calls by the stock SDKs, straight to the engine and through the gateway."""

import asyncio
from typing import Any

import anthropic
import openai
import pytest

from tests.fakes import engine as fake
from tests.gateway.house import House, chat

OWN = {"id", "created", "created_at", "model", "request_id", "item_id"}  # may differ
SAID = [{"role": "user", "content": "Tell me more"}]


def without_own(value: Any) -> Any:
    if isinstance(value, list):
        return [without_own(item) for item in value]
    if isinstance(value, dict):
        return {name: without_own(inner) for name, inner in value.items() if name not in OWN}
    return value


@pytest.fixture
async def straight(house: House):
    """The SDK's way to the same engine without us: over a port of its own."""
    server = await asyncio.get_running_loop().create_server(
        lambda: fake.Reply(house.engine), "127.0.0.1", 0
    )
    yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    server.close()


CALLS = {
    "chat": lambda c: c.chat.completions.create(**chat("Tell me more")),
    "several choices": lambda c: c.chat.completions.create(**chat("Tell me more"), n=3),
    "a short answer": lambda c: c.chat.completions.create(**chat("Tell me more"), max_tokens=2),
    "sampling of vLLM": lambda c: c.chat.completions.create(
        **chat("Tell me more"), extra_body={"top_k": 5, "min_p": 0.1}
    ),
    "completions": lambda c: c.completions.create(model="demo", prompt=["a b", "c"], max_tokens=4),
    "responses": lambda c: c.responses.create(model="demo", input="Tell me more"),
}
STREAMS = {
    "chat": lambda c: c.chat.completions.create(**chat("Tell me more"), stream=True),
    "chat with usage": lambda c: c.chat.completions.create(
        **chat("Tell me more"), stream=True, stream_options={"include_usage": True}
    ),
    "completions": lambda c: c.completions.create(
        model="demo", prompt="a b c", max_tokens=5, stream=True
    ),
    "responses": lambda c: c.responses.create(model="demo", input="Tell me more", stream=True),
}


@pytest.mark.parametrize("name", CALLS)
async def test_whole_answers_are_the_engine_s_own(house: House, straight: str, name: str):
    house.engine.blocks.clear()
    async with openai.AsyncOpenAI(base_url=straight, api_key="none") as client:
        expected = (await CALLS[name](client)).to_dict()
    house.engine.blocks.clear()
    async with house.sdk() as client:
        assert without_own((await CALLS[name](client)).to_dict()) == without_own(expected)


@pytest.mark.parametrize("name", STREAMS)
async def test_streams_are_the_engine_s_own_but_for_usage_not_asked_for(
    house: House, straight: str, name: str
):
    house.engine.options.enable_force_include_usage = False  # as a client of vLLM has it
    house.engine.blocks.clear()
    async with openai.AsyncOpenAI(base_url=straight, api_key="none") as client:
        expected = [event.to_dict() async for event in await STREAMS[name](client)]
    house.engine.options.enable_force_include_usage = True
    house.engine.blocks.clear()
    async with house.sdk() as client:
        got = [event.to_dict() async for event in await STREAMS[name](client)]
    assert without_own(got) == without_own(expected)


async def test_messages_are_the_engine_s_own(house: House, straight: str):
    answers = []
    for url, key in ((straight, "none"), (house.url, house.key)):
        house.engine.blocks.clear()
        root = url.removesuffix("/v1")
        async with anthropic.AsyncAnthropic(base_url=root, api_key=key, max_retries=0) as client:
            whole = await client.messages.create(model="demo", max_tokens=50, messages=SAID)
            count = await client.messages.count_tokens(model="demo", messages=SAID)
            async with client.messages.stream(model="demo", max_tokens=50, messages=SAID) as stream:
                text = await stream.get_final_text()
        answers.append(without_own([whole.to_dict()["content"], count.to_dict(), text]))
    assert answers[0] == answers[1]


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


@pytest.mark.parametrize("name", ERRORS)
async def test_errors_have_the_engine_s_status_and_openai_s_shape(
    house: House, straight: str, name: str
):
    async with openai.AsyncOpenAI(base_url=straight, api_key="none", max_retries=0) as client:
        expected = await refusal(client, ERRORS[name])
    async with house.sdk() as client:
        got = await refusal(client, ERRORS[name])
    assert (type(got), got.status_code) == (type(expected), expected.status_code)
    body = got.response.json()["error"]
    assert set(body) == {"message", "type", "param", "code"}
    assert isinstance(body["message"], str) and isinstance(body["type"], str)
    assert body["code"] is None or isinstance(body["code"], str)


async def test_where_the_engine_strays_from_openai_we_do_not(house: House, straight: str):
    async with openai.AsyncOpenAI(base_url=straight, api_key="none", max_retries=0) as client:
        assert (await refusal(client, lambda c: c.models.retrieve("demo"))).status_code == 404
    async with house.sdk() as client:
        assert (await client.models.retrieve("demo")).id == "demo"
    async with house.sdk("mp-wrong") as client:
        error = await refusal(client, lambda c: c.models.list())
    assert (error.status_code, error.code) == (401, "invalid_api_key")
