"""A request from its first byte to its bill, by the stock SDK."""

import asyncio

import openai
import pytest

from billing.usage_record import Outcome, Usage, UsageSource
from tests.fakes import engine as fake
from tests.gateway.house import House, chat, read_answer


def told(usage: object) -> tuple[int, int]:
    return usage.prompt_tokens, usage.completion_tokens


async def test_a_chat_is_answered_and_metered_as_the_client_was_told(house: House):
    async with house.sdk() as client:
        answer = await client.chat.completions.create(**chat("Tell me more"))
    assert answer.choices[0].message.content == fake.answer("Tell me more")
    row = await house.closed_row()
    assert row.final.usage == Usage(*told(answer.usage))
    assert (row.final.outcome, row.final.source) == (Outcome.COMPLETED, UsageSource.ENGINE)
    assert (row.final.status, row.final.finish_reason) == (200, "stop")
    assert row.admit.instance_id == house.instance.id
    assert row.admit.replica_id == house.replica.id
    assert 0 < row.final.ttft_us <= row.final.duration_us
    assert house.replica.outstanding == 0


async def test_a_streamed_chat_says_the_same(house: House):
    async with house.sdk() as client:
        stream = await client.chat.completions.create(**chat("Tell me more"), stream=True)
        chunks = [chunk async for chunk in stream]
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == fake.answer("Tell me more")
    assert all(chunk.usage is None for chunk in chunks)
    row = await house.closed_row()
    assert row.final.usage.completion_tokens == len(fake.tokenize(text))
    assert row.final.finish_reason == "stop"
    assert row.admit.stream


async def test_text_completions_of_several_prompts_are_counted_together(house: House):
    async with house.sdk() as client:
        answer = await client.completions.create(
            model="demo", prompt=["a b c", "d"], max_tokens=3, n=2
        )
    assert len(answer.choices) == 4
    assert (await house.closed_row()).final.usage == Usage(4, 12)


async def test_embeddings_are_metered(house: House):
    instance = house.snapshot.add_instance("vectors", endpoints=frozenset({"embeddings"}))
    path = str(house.home / "pooling.sock")
    engine = fake.Engine(fake.options(uds=path, served_model_name="vectors", runner="pooling"))
    server = await fake.listen(engine)
    house.add_replica(instance, path)
    async with house.sdk() as client:
        answer = await client.embeddings.create(model="vectors", input=["one two", "three"])
    assert len(answer.data) == 2
    row = await house.closed_row()
    assert row.final.usage == Usage(3, 0)
    assert row.admit.endpoint == "embeddings"
    server.close()


async def test_models_are_those_of_the_organization_that_are_ready(house: House):
    house.snapshot.add_instance("asleep", state="asleep")
    house.snapshot.add_instance("theirs", organization=b"umbrella" * 2)
    async with house.sdk() as client:
        assert [m.id async for m in client.models.list()] == ["demo"]
        assert (await client.models.retrieve("demo")).id == "demo"
        with pytest.raises(openai.NotFoundError) as error:
            await client.models.retrieve("theirs")
    assert error.value.code == "model_not_found"
    assert house.rows() == []


async def test_the_engine_is_told_our_request_id_and_the_client_both(house: House):
    async with house.sdk() as client:
        answer = await client.chat.completions.with_raw_response.create(
            **chat(), extra_headers={"X-Request-Id": "my-own"}
        )
    row = await house.closed_row()
    ours = answer.headers["x-request-id"]
    assert bytes.fromhex(ours.replace("-", "")) == row.admit.request_id
    assert answer.headers["x-client-request-id"] == row.admit.client_request_id == "my-own"
    assert answer.parse().id == f"chatcmpl-{ours}"
    assert set(answer.headers) == {
        "date",
        "content-type",
        "content-length",
        "x-request-id",
        "x-client-request-id",
        "x-modelport-instance",
    }


async def test_connections_to_client_and_engine_are_kept(house: House):
    reader, writer = await house.connect()
    for number in range(20):
        writer.write(house.call(chat(stream=number % 2 == 0)))
        status, _, body = await read_answer(reader)
        assert status == 200
        assert body
    writer.close()
    assert house.engine.connections == 1
    assert house.runtime.pool(house.replica.address).opened == 1
    assert len(house.rows()) == 20


async def test_a_connection_that_the_engine_closed_meanwhile_is_replaced(house: House):
    async with house.sdk() as client:
        await client.chat.completions.create(**chat())
        (upstream,) = house.runtime.pool(house.replica.address)._idle
        upstream.transport.pause_reading()  # so that we do not learn of it before we use it
        house.engine_server.close()
        house.engine_server = None
        for reply in list(house.engine.replies):
            reply.transport.abort()
        house.engine_server = await fake.listen(house.engine)
        answer = await client.chat.completions.create(**chat())
    assert answer.choices[0].message.content == fake.answer("Hello there")
    assert [row.final.outcome for row in house.rows()] == [Outcome.COMPLETED] * 2


@pytest.mark.parametrize(
    ("given", "status", "code"),
    [
        ({"model": "nothing"}, 404, "model_not_found"),
        ({"model": "loading"}, 503, "instance_not_ready"),
        ({"model": "stopped"}, 503, "instance_not_ready"),
        ({"model": "vectors"}, 404, "unsupported_endpoint"),
        ({"n": 1000}, 400, None),
        ({"chat_template": "{{ 1 }}"}, 400, "unknown_parameter"),
    ],
)
async def test_refusals_are_errors_that_the_sdk_knows(house: House, given, status, code):
    house.snapshot.add_instance("loading", state="loading")
    stopped = house.snapshot.add_instance("stopped", state="stopping", wanted=False)
    house.add_replica(stopped, house.replica.address)
    house.snapshot.add_instance("vectors", endpoints=frozenset({"embeddings"}))
    async with house.sdk() as client:
        with pytest.raises(openai.APIStatusError) as error:
            await client.chat.completions.create(**chat(), extra_body=given)
    assert (error.value.status_code, error.value.code) == (status, code)
    assert set(error.value.body) == {"message", "type", "param", "code"}
    assert ("retry-after" in error.value.response.headers) == (status == 503)
    known = given.get("model") in {"loading", "stopped", "vectors"}
    if known:
        row = await house.closed_row()
        assert (row.final.outcome, row.final.status) == (Outcome.REFUSED, status)
        assert row.final.usage == Usage()
    else:
        assert house.rows() == []


@pytest.mark.parametrize("status", [400, 422, 500, 503])
async def test_an_engines_error_arrives_in_openai_s_shape(house: House, status):
    async with house.sdk() as client:
        with pytest.raises(openai.APIStatusError) as error:
            await client.chat.completions.create(**chat(f"[[fake status={status}]]"), stream=True)
    assert error.value.status_code == status
    assert error.value.code is None
    assert error.value.body["message"] == "The fake engine was asked to fail."
    row = await house.closed_row()
    assert (row.final.outcome, row.final.usage) == (Outcome.ENGINE_ERROR, Usage())


async def test_too_long_a_prompt_has_the_code_that_programs_look_for(house: House):
    async with house.sdk() as client:
        with pytest.raises(openai.BadRequestError) as error:
            await client.chat.completions.create(**chat("word " * 3000))
    assert error.value.code == "context_length_exceeded"


async def test_a_model_without_a_chat_template_says_so_and_what_works(
    house: House, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("FAKE_ENGINE_NO_CHAT_TEMPLATE", "1")
    async with house.sdk() as client:
        for stream in (False, True):
            with pytest.raises(openai.BadRequestError) as error:
                await client.chat.completions.create(**chat("Hello?"), stream=stream)
            assert (error.value.code, error.value.param) == ("no_chat_template", "messages")
            assert "/v1/completions" in error.value.body["message"]
        assert (await client.completions.create(model="demo", prompt="Hello")).choices


async def test_an_engine_that_is_gone_is_a_503(house: House):
    house.engine_server.close()
    (house.home / "engine.sock").unlink(missing_ok=True)
    async with house.sdk() as client:
        with pytest.raises(openai.InternalServerError) as error:
            await client.chat.completions.create(**chat())
    assert error.value.status_code == 503
    assert (await house.closed_row()).final.outcome == Outcome.UPSTREAM_FAILED


async def test_cached_tokens_are_a_part_of_the_prompt(house: House):
    async with house.sdk() as client:
        for _ in range(2):
            answer = await client.chat.completions.create(**chat("a long prompt " * 20))
    assert answer.usage.prompt_tokens_details.cached_tokens > 0
    first, second = (row.final.usage for row in house.rows())
    assert first.cached_tokens == 0
    assert second.cached_tokens == answer.usage.prompt_tokens_details.cached_tokens


async def test_http_1_0_gets_a_stream_that_ends_with_the_connection(house: House):
    reader, writer = await house.connect()
    writer.write(house.call(chat(stream=True)).replace(b"HTTP/1.1", b"HTTP/1.0", 1))
    status, headers, body = await read_answer(reader)
    assert (status, headers["connection"]) == (200, "close")
    assert body.endswith(b"data: [DONE]\n\n")
    writer.close()


async def test_fifty_at_once_are_each_answered_and_metered(house: House):
    async with house.sdk() as client:
        answers = await asyncio.gather(
            *[client.chat.completions.create(**chat(f"number {n}")) for n in range(50)]
        )
    assert [a.choices[0].message.content for a in answers] == [
        fake.answer(f"number {n}") for n in range(50)
    ]
    rows = {str(row.admit.request_id.hex()): row.final.usage for row in house.rows()}
    assert len(rows) == 50
    for answer in answers:
        ours = answer.id.removeprefix("chatcmpl-").replace("-", "")
        assert rows[ours] == Usage(*told(answer.usage))
