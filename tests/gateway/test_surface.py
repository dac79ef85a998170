"""Responses, messages, scores: whole, streamed, broken off, kept."""

import asyncio
import json

import httpx2
import openai
import pytest

from billing.usage_record import Outcome, Usage, UsageSource
from tests.fakes import engine as fake
from tests.gateway.house import House, read_answer

SAID = [{"role": "user", "content": "Tell me more"}]


def head(house: House) -> dict[str, str]:
    return {"x-api-key": house.key, "anthropic-version": "2023-06-01"}


async def test_a_response_is_made_and_metered(house: House):
    async with house.sdk() as client:
        answer = await client.responses.create(model="demo", input="Tell me more")
    assert answer.output_text == fake.answer("Tell me more")
    row = await house.closed_row()
    assert row.admit.endpoint == "responses"
    used = Usage(answer.usage.input_tokens, answer.usage.output_tokens)
    assert (row.final.usage, row.final.source) == (used, UsageSource.ENGINE)
    assert row.final.finish_reason == "completed"


async def test_a_streamed_response_ends_once_it_is_billed(house: House):
    async with house.sdk() as client:
        stream = await client.responses.create(model="demo", input="Tell me more", stream=True)
        events = [event async for event in stream]
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert text == fake.answer("Tell me more")
    assert events[-1].type == "response.completed"
    row = await house.closed_row()
    assert row.final.usage.completion_tokens == events[-1].response.usage.output_tokens
    assert row.final.outcome == Outcome.COMPLETED


@pytest.mark.parametrize("path", ["responses", "messages"])
async def test_a_stream_that_is_left_is_counted_by_the_engine_s_tokenizer(house: House, path):
    text = "Tell me more [[fake tokens=200 delay=0.01]]"
    given = {"input": text} if path == "responses" else {"messages": [SAID[0] | {"content": text}]}
    body = {"model": "demo", "stream": True, "max_tokens": 500} | given
    if path == "responses":
        del body["max_tokens"]
    reader, writer = await house.connect()
    writer.write(house.call(body, f"/v1/{path}"))
    got = b""
    while got.count(b"delta") < 30:
        got += await reader.read(4096)
    writer.close()
    row = await house.closed_row()
    assert (row.final.outcome, row.final.source) == (Outcome.CLIENT_GONE, UsageSource.TOKENIZER)
    assert row.final.usage.prompt_tokens > 0
    assert 5 <= row.final.usage.completion_tokens < 200


async def test_a_broken_stream_of_messages_ends_in_anthropic_s_error(house: House):
    said = [SAID[0] | {"content": "More [[fake drop_after=4]]"}]
    body = {"model": "demo", "stream": True, "max_tokens": 50, "messages": said}
    reader, writer = await house.connect()
    writer.write(house.call(body, "/v1/messages"))
    status, _, answer = await read_answer(reader)
    writer.close()
    assert status == 200
    last = answer.decode().rstrip().rsplit("\n\n", 1)[-1]
    assert last.startswith("event: error\ndata: ")
    assert json.loads(last.split("data: ")[1])["type"] == "error"
    row = await house.closed_row()
    assert row.final.outcome == Outcome.UPSTREAM_FAILED
    assert row.final.source == UsageSource.TOKENIZER


async def test_messages_are_called_as_anthropic_s_sdk_calls(house: House):
    body = {"model": "demo", "max_tokens": 50, "messages": SAID}
    async with httpx2.AsyncClient(base_url=house.url, headers=head(house)) as client:
        answer = (await client.post("/messages", json=body)).json()
        count = (
            await client.post("/messages/count_tokens", json={"model": "demo", "messages": SAID})
        ).json()
        streamed = (await client.post("/messages", json=body | {"stream": True})).text
        unknown = await client.post("/messages", json=body | {"model": "nope"})
        refused = await client.post("/messages", json=body, headers={"x-api-key": "sk-wrong"})
    assert answer["content"][0]["text"] == fake.answer("Tell me more")
    assert count["input_tokens"] == answer["usage"]["input_tokens"]
    assert streamed.rstrip().endswith('data: {"type":"message_stop"}')
    assert unknown.status_code == 404
    assert unknown.json()["type"] == "error"
    assert unknown.json()["error"]["type"] == "not_found_error"
    assert refused.json()["error"]["type"] == "authentication_error"
    rows = [row for row in house.rows() if row.final]
    assert [row.admit.endpoint for row in rows] == ["messages", "messages"]
    assert all(row.final.usage.prompt_tokens == count["input_tokens"] for row in rows)
    assert rows[0].final.usage.completion_tokens == rows[1].final.usage.completion_tokens


async def test_what_is_not_kept_says_so(house: House):
    async with house.sdk() as client:
        with pytest.raises(openai.NotFoundError) as missing:
            await client.responses.retrieve("resp_1")
        with pytest.raises(openai.BadRequestError) as background:
            await client.responses.create(model="demo", input="x", background=True)
    assert missing.value.code == background.value.code == "responses_not_kept"
    assert "Keep responses" in missing.value.message


async def test_a_response_in_the_background_is_kept_and_metered_at_its_end(house: House):
    house.instance.endpoints |= {"responses/{id}"}
    house.engine.keeps = True
    async with house.sdk() as client:
        begun = await client.responses.create(model="demo", input="Tell me more", background=True)
        assert begun.status == "queued"
        while (made := await client.responses.retrieve(begun.id)).status == "queued":
            await asyncio.sleep(0.05)
        assert made.output_text == fake.answer("Tell me more")
        with pytest.raises(openai.BadRequestError):
            await client.responses.cancel(begun.id)
        with pytest.raises(openai.NotFoundError):
            await client.responses.retrieve("resp_of_nobody")
    row = await house.closed_row()
    assert row.final.usage == Usage(made.usage.input_tokens, made.usage.output_tokens)


async def test_strangers_do_not_see_what_is_kept(house: House):
    house.instance.endpoints |= {"responses/{id}"}
    house.engine.keeps = True
    async with house.sdk() as client:
        made = await client.responses.create(model="demo", input="Tell me more")
    stranger = house.new_key(organization=bytes(16))
    async with house.sdk(stranger) as client:
        with pytest.raises(openai.NotFoundError):
            await client.responses.retrieve(made.id)


async def test_scores_are_metered(house: House):
    offered = frozenset({"embeddings", "rerank", "score"})
    instance = house.snapshot.add_instance("vectors", endpoints=offered)
    path = str(house.home / "pooling.sock")
    engine = fake.Engine(fake.options(uds=path, served_model_name="vectors", runner="pooling"))
    server = await fake.listen(engine)
    house.add_replica(instance, path)
    given = {"headers": {"authorization": f"Bearer {house.key}"}}
    async with httpx2.AsyncClient(base_url=house.url, **given) as client:
        ranked = await client.post(
            "/rerank", json={"model": "vectors", "query": "a b", "documents": ["c", "d e"]}
        )
        scored = await client.post(
            "/score", json={"model": "vectors", "text_1": "a", "text_2": ["b", "c"]}
        )
    server.close()
    assert len(ranked.json()["results"]) == 2
    assert len(scored.json()["data"]) == 2
    assert [row.final.usage for row in house.rows()] == [Usage(5, 0), Usage(3, 0)]
