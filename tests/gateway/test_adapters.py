"""LoRA adapters as model names: they reach their engine, their instance's books, and no more."""

from dataclasses import replace

import openai
import pytest

from inference.gateway.tables import Limit, Meter, Window
from portal.lib.ids import uuid7
from tests.fakes import engine as fake
from tests.gateway.house import House, chat, read_answer

DEMO = "What is this?"


@pytest.fixture
def tone(house: House):
    """The adapter `tone` of `demo`, which its engine has loaded."""
    house.engine.adapters["tone"] = "/adapters/1"
    return house.snapshot.add_adapter("tone", house.instance)


async def asked(house: House, key: str = "", **given):
    async with house.sdk(key or None) as client:
        call = client.chat.completions.with_raw_response.create
        return await call(**chat(DEMO) | {"model": "tone"} | given)


async def refused(house: House, **given) -> openai.APIStatusError:
    with pytest.raises(openai.APIStatusError) as raised:
        await asked(house, **given)
    return raised.value


async def test_an_adapter_answers_by_its_own_name_and_on_its_instances_bill(house: House, tone):
    answer = await asked(house)
    assert answer.parse().model == "tone"
    assert answer.headers["x-modelport-instance"] == "demo"
    row = await house.closed_row()
    assert (row.admit.model, row.admit.instance_id) == ("tone", house.instance.id)
    assert row.final is not None and row.final.usage.completion_tokens > 0


async def test_it_streams(house: House, tone):
    async with house.sdk() as client:
        body = chat(DEMO, stream=True) | {"model": "tone"}
        chunks = [chunk async for chunk in await client.chat.completions.create(**body)]
    assert {chunk.model for chunk in chunks} == {"tone"}
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == fake.answer(DEMO)


async def test_it_is_listed_beside_its_instance(house: House, tone):
    async with house.sdk() as client:
        assert [m.id async for m in client.models.list()] == ["demo", "tone"]
        one = await client.models.retrieve("tone")
    assert one.to_dict()["parent"] == "demo"
    assert one.to_dict()["max_model_len"] == 2048


async def test_a_key_may_be_kept_to_it(house: House, tone):
    only_it = house.new_key(models_allowed=frozenset({"tone"}))
    not_it = house.new_key(models_allowed=frozenset({"demo"}))
    assert (await asked(house, only_it)).parse().model == "tone"
    assert (await refused(house, key=only_it, model="demo")).status_code == 404
    assert (await refused(house, key=not_it)).status_code == 404
    async with house.sdk(only_it) as client:
        assert [m.id async for m in client.models.list()] == ["tone"]


async def test_another_organizations_name_is_not_known(house: House, tone):
    stranger = house.new_key(organization=uuid7().bytes)
    assert (await refused(house, key=stranger)).code == "model_not_found"


async def test_only_replicas_that_have_loaded_it_are_asked(house: House, tone):
    path = str(house.home / "second.sock")
    server = await fake.listen(fake.Engine(fake.options(uds=path)))
    other = house.add_replica(house.instance, path)
    tone.instance = replace(house.instance, replicas=[house.replica])
    house.replica.outstanding, other.outstanding = 100, 0
    assert (await asked(house)).parse().model == "tone"
    assert house.replica.outstanding == 100
    server.close()


async def test_one_that_is_being_loaded_says_so_and_when_to_try_again(house: House, tone):
    tone.instance, tone.loading = replace(house.instance, replicas=[]), True
    error = await refused(house)
    assert (error.status_code, error.code) == (503, "adapter_not_ready")
    assert error.response.headers["retry-after"] == "5"
    assert "`tone` is being loaded" in error.message
    row = await house.closed_row()
    assert (row.admit.model, row.admit.instance_id) == ("tone", house.instance.id)
    async with house.sdk() as client:
        assert [m.id async for m in client.models.list()] == ["demo"]


async def test_one_that_failed_says_why_and_that_trying_again_is_of_no_use(house: House, tone):
    tone.instance, tone.loading = replace(house.instance, replicas=[]), True
    tone.failure = "It was made for another model."
    error = await refused(house)
    assert (error.status_code, error.code) == (503, "adapter_failed")
    assert "made for another model" in error.message
    assert error.response.headers["x-should-retry"] == "false"


async def test_one_of_a_stopped_instance_says_that_it_is_stopped(house: House, tone):
    stopped = {"replicas": [], "state": "stopped", "wanted": False}
    tone.instance = replace(house.instance, **stopped)
    error = await refused(house)
    assert (error.status_code, error.code) == (503, "instance_not_ready")
    assert "`demo` is stopped" in error.message


async def test_its_instances_limits_hold_for_it(house: House, tone):
    limit = Limit(uuid7().bytes, "instance", Meter.REQUESTS, Window.DAY, 1)
    house.instance.limits = (limit,)
    await asked(house)
    assert (await refused(house)).status_code == 429
    assert (await refused(house, model="demo")).status_code == 429


async def test_answers_that_were_kept_are_found_by_who_may_use_the_adapter_alone(
    house: House, tone
):
    house.instance.endpoints |= {"responses/{id}"}
    only_it = house.new_key(models_allowed=frozenset({"tone"}))
    async with house.sdk(only_it) as client:
        with pytest.raises(openai.NotFoundError) as raised:
            await client.responses.retrieve("resp_1")
    assert raised.value.code != "responses_not_kept"


@pytest.mark.parametrize("path", ["/v1/load_lora_adapter", "/v1/unload_lora_adapter"])
async def test_no_client_loads_or_unloads(house: House, tone, path: str):
    house.engine.options.runtime_lora = True
    reader, writer = await house.connect()
    writer.write(house.call({"lora_name": "tone", "lora_path": "/etc"}, path))
    status, _, body = await read_answer(reader)
    assert (status, b"unknown_url" in body) == (404, True)
    assert house.engine.adapters == {"tone": "/adapters/1"}
    writer.close()
