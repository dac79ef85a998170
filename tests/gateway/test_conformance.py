"""The same calls by the stock SDKs, straight to the engine and through the gateway."""

import asyncio

import anthropic
import openai
import pytest

from tests.fakes import engine as fake
from tests.gateway import calls
from tests.gateway.calls import CALLS, ERRORS, STREAMS, refusal
from tests.gateway.house import House


@pytest.fixture
async def straight(house: House):
    """The SDK's way to the same engine without us: over a port of its own."""
    server = await asyncio.get_running_loop().create_server(
        lambda: fake.Reply(house.engine), "127.0.0.1", 0
    )
    yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    server.close()


@pytest.mark.parametrize("name", CALLS)
async def test_whole_answers_are_the_engine_s_own(house: House, straight: str, name: str):
    house.engine.blocks.clear()
    async with openai.AsyncOpenAI(base_url=straight, api_key="none") as client:
        expected = await calls.whole(client, name)
    house.engine.blocks.clear()
    async with house.sdk() as client:
        assert await calls.whole(client, name) == expected


@pytest.mark.parametrize("name", STREAMS)
async def test_streams_are_the_engine_s_own_but_for_usage_not_asked_for(
    house: House, straight: str, name: str
):
    house.engine.options.enable_force_include_usage = False  # as a client of vLLM has it
    house.engine.blocks.clear()
    async with openai.AsyncOpenAI(base_url=straight, api_key="none") as client:
        expected = await calls.streamed(client, name)
    house.engine.options.enable_force_include_usage = True
    house.engine.blocks.clear()
    async with house.sdk() as client:
        assert await calls.streamed(client, name) == expected


async def test_messages_are_the_engine_s_own(house: House, straight: str):
    answers = []
    for url, key in ((straight, "none"), (house.url, house.key)):
        house.engine.blocks.clear()
        root = url.removesuffix("/v1")
        async with anthropic.AsyncAnthropic(base_url=root, api_key=key, max_retries=0) as client:
            answers.append(await calls.messages(client))
    assert answers[0] == answers[1]


@pytest.mark.parametrize("name", ERRORS)
async def test_errors_have_the_engine_s_status_and_openai_s_shape(
    house: House, straight: str, name: str
):
    async with openai.AsyncOpenAI(base_url=straight, api_key="none", max_retries=0) as client:
        expected = await refusal(client, ERRORS[name])
    async with house.sdk() as client:
        calls.assert_same_error(await refusal(client, ERRORS[name]), expected)


async def test_where_the_engine_strays_from_openai_we_do_not(house: House, straight: str):
    async with openai.AsyncOpenAI(base_url=straight, api_key="none", max_retries=0) as client:
        assert (await refusal(client, lambda c: c.models.retrieve("demo"))).status_code == 404
    async with house.sdk() as client:
        assert (await client.models.retrieve("demo")).id == "demo"
    async with house.sdk("mp-wrong") as client:
        error = await refusal(client, lambda c: c.models.list())
    assert (error.status_code, error.code) == (401, "invalid_api_key")
