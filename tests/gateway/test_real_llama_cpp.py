"""The gateway before a real llama.cpp: each row says what the engine says."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from billing.usage_record import Outcome, Usage, UsageSource
from inference import demo
from inference.engines import ENGINES
from inference.engines.base import Launch
from inference.node import figures
from tests.fakes.gguf import of_folder
from tests.gateway import house as houses
from tests.gateway.house import House, chat, read_answer
from tests.inference.engines.real import interpreter, running

ENGINE = ENGINES["llama_cpp"]
QUESTION = "What is Modelport?"
PROMPT = 7  # tokens of that in the demo model's template
SAID: dict[str, Any] = {"model": "demo", "temperature": 0}
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": chat(QUESTION, temperature=0, max_tokens=12),
    "/v1/completions": SAID | {"prompt": "Hello", "max_tokens": 12},
    "/v1/responses": SAID | {"input": QUESTION, "max_output_tokens": 12},
    "/v1/messages": SAID | {"messages": [{"role": "user", "content": QUESTION}], "max_tokens": 12},
}
BRIEF = ("/v1/responses", "/v1/messages")  # no client can ask for an answer without an end there
every_path = pytest.mark.parametrize("path", BODIES)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[httpx2.Client, Path]]:
    folder = tmp_path_factory.mktemp("model")
    (folder / "demo.gguf").write_bytes(of_folder(demo.MODEL_PATH))
    socket = tmp_path_factory.mktemp("s") / "engine.sock"
    launch = Launch(
        model_path=str(folder),
        model_file="demo.gguf",
        served_model_name="demo",
        socket=str(socket),
        variant="cpu",
        settings={"max_model_len": 2048, "max_num_seqs": 2},
    )
    python = interpreter(ENGINE.recipe("cpu"))
    with running(ENGINE, launch, python, tmp_path_factory.mktemp("home")) as client:
        yield client, socket


@pytest.fixture
async def house(
    engine: tuple[httpx2.Client, Path], monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[House]:
    monkeypatch.setattr(houses, "ANSWER_TIMEOUT", 60.0)  # a busy machine computes slowly
    async with houses.house() as made:
        made.instance.wire = ENGINE.wire
        made.instance.endpoints = frozenset(
            path.removeprefix("/v1/") for path in ENGINE.endpoints({})
        )
        made.instance.replicas.clear()
        made.add_replica(made.instance, str(engine[1]))
        yield made


async def counted(client: httpx2.Client) -> Usage:
    """What the engine has counted, once it rests."""
    async with asyncio.timeout(60):
        while True:
            text = client.get(ENGINE.metrics_path).text
            read = figures.parse(text, ENGINE.metric_names, "one", figures.Load())
            if not read.running and not read.waiting:
                return Usage(read.prompt_tokens or 0, read.completion_tokens or 0)
            await asyncio.sleep(0.05)


async def ask(house: House, path: str, **more: Any) -> bytes:
    reader, writer = await house.connect()
    writer.write(house.call(BODIES[path] | more, path))
    status, _, answer = await read_answer(reader)
    writer.close()
    assert status == 200, answer
    return answer


@every_path
@pytest.mark.parametrize("stream", [False, True])
async def test_a_row_is_what_the_engine_counted(
    house: House, engine: tuple[httpx2.Client, Path], path: str, stream: bool
) -> None:
    before = await counted(engine[0])

    answer = await ask(house, path, stream=stream)

    after, row = await counted(engine[0]), await house.closed_row()
    assert row.final is not None and row.final.source == UsageSource.ENGINE
    used = row.final.usage
    assert used.prompt_tokens == after.prompt_tokens - before.prompt_tokens
    assert used.completion_tokens == after.completion_tokens - before.completion_tokens == 12
    assert not stream or b"timings" not in answer


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
async def test_who_asks_for_usage_is_told_once_and_at_the_end(house: House, path: str) -> None:
    without = await ask(house, path, stream=True)
    with_usage = await ask(house, path, stream=True, stream_options={"include_usage": True})

    chunks = [json.loads(e[6:]) for e in with_usage.split(b"\n\n") if e.startswith(b"data: {")]
    told = [chunk["usage"] for chunk in chunks if chunk.get("usage")]
    assert b'"usage"' not in without
    assert len(told) == 1 and chunks[-1].get("usage") and told[0]["completion_tokens"] == 12
    assert with_usage.endswith(b"data: [DONE]\n\n")


async def test_continuous_usage_is_told_as_vllm_tells_it(house: House) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}

    answer = await ask(house, "/v1/chat/completions", stream=True, stream_options=options)

    chunks = [json.loads(e[6:]) for e in answer.split(b"\n\n") if e.startswith(b"data: {")]
    running = [c["usage"]["completion_tokens"] for c in chunks if c.get("usage")]
    assert running == [*range(1, 13), 12]


@every_path
async def test_who_hangs_up_pays_for_what_had_come(
    house: House, engine: tuple[httpx2.Client, Path], path: str
) -> None:
    before = await counted(engine[0])
    long = {"max_output_tokens" if path == "/v1/responses" else "max_tokens": 1500}
    endless = {} if path in BRIEF else {"ignore_eos": True}
    reader, writer = await house.connect()
    writer.write(house.call(BODIES[path] | long | endless | {"stream": True}, path))
    async with asyncio.timeout(60):
        received = b""
        while received.count(b"data: ") < 8:
            received += await reader.read(512)
    writer.close()

    row = await house.closed_row()
    assert row.final is not None
    used, source = row.final.usage, row.final.source
    if row.final.outcome == Outcome.CLIENT_GONE:
        by_tokenizer = path == "/v1/messages"  # whose events have no timings
        assert source == (UsageSource.TOKENIZER if by_tokenizer else UsageSource.CHECKPOINT)
    else:
        assert path in BRIEF  # the answer was there before anybody could hang up
    made = await counted(engine[0])
    assert used.prompt_tokens == made.prompt_tokens - before.prompt_tokens
    assert 0 < used.completion_tokens <= made.completion_tokens - before.completion_tokens


async def test_several_answers_are_refused_for_they_would_not_be_counted(house: House) -> None:
    async with house.sdk() as client:
        with pytest.raises(openai.BadRequestError, match="one answer to one prompt"):
            await client.chat.completions.create(**chat("Hello"), n=2)
        with pytest.raises(openai.BadRequestError, match="one answer to one prompt"):
            await client.completions.create(model="demo", prompt=["a", "b"])


async def test_a_prompt_that_is_too_long_is_said_to_be(house: House) -> None:
    async with house.sdk() as client:
        with pytest.raises(openai.BadRequestError) as raised:
            await client.chat.completions.create(**chat("word " * 3000))

    assert raised.value.code == "context_length_exceeded"


async def test_the_stock_client_understands_it(house: House) -> None:
    given: dict[str, Any] = {"model": "demo", "input": QUESTION, "temperature": 0}
    async with house.sdk() as client:
        stream = await client.responses.create(**given, stream=True)
        texts = [e.delta async for e in stream if e.type == "response.output_text.delta"]
        whole = await client.responses.create(**given)

    assert "".join(texts) == whole.output_text
    assert whole.output_text.startswith("Modelport is a self-service")
    assert whole.usage is not None and whole.usage.input_tokens == PROMPT
