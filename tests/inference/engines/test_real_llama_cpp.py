import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from inference import demo
from inference.engines import ENGINES
from inference.engines.base import Launch
from inference.node import figures
from tests.fakes.gguf import of_folder
from tests.inference.engines.real import interpreter, running

ENGINE = ENGINES["llama_cpp"]
CHAT = {
    "model": "acme-chat",
    "messages": [{"role": "user", "content": "What is Modelport?"}],
    "temperature": 0,
}
STREAM = {"stream": True, "stream_options": {"include_usage": True}, "timings_per_token": True}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    (folder / "demo-BF16.gguf").write_bytes(of_folder(demo.MODEL_PATH))
    return folder


def launch(model: Path, socket: Path, **settings: Any) -> Launch:
    return Launch(
        model_path=str(model),
        model_file="demo-BF16.gguf",
        served_model_name="acme-chat",
        socket=str(socket),
        variant="cpu",
        settings=settings,
    )


@pytest.fixture(scope="module")
def client(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx2.Client]:
    made = launch(model, tmp_path_factory.mktemp("s") / "engine.sock", max_model_len=256)
    python = interpreter(ENGINE.recipe("cpu"))
    with running(ENGINE, made, python, tmp_path_factory.mktemp("home")) as client:
        yield client


def told(client: httpx2.Client, where: Any) -> Any:
    said = client.get(where.path).json()
    for member in where.members:
        said = said[member]
    return said


def events(text: str) -> list[Any]:
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data:")]
    return [json.loads(line) for line in lines if line != "[DONE]"]


def test_it_answers_word_for_word_as_the_same_weights_do_elsewhere(client: httpx2.Client) -> None:
    answer = client.post("/v1/chat/completions", json=CHAT).json()

    assert answer["choices"][0]["message"]["content"].startswith("Modelport is a self-service")
    assert (answer["model"], answer["choices"][0]["finish_reason"]) == ("acme-chat", "stop")


def test_its_probe_is_a_generation(client: httpx2.Client, model: Path) -> None:
    probe = ENGINE.probe(launch(model, Path("engine.sock")))

    answer = client.post(probe.path, json=probe.body)

    assert answer.json()["usage"]["completion_tokens"] == 2


def test_each_of_four_has_the_context_that_was_set(client: httpx2.Client) -> None:
    assert told(client, ENGINE.context) == 256
    assert client.get("/props").json()["total_slots"] == 4
    assert [m["id"] for m in client.get(ENGINE.models_path).json()["data"]] == ["acme-chat"]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_a_streams_running_usage_is_that_of_its_end(client: httpx2.Client, path: str) -> None:
    body = CHAT | STREAM | {"max_tokens": 12, "prompt": "Hello"}

    chunks = events(client.post(path, json=body).text)

    running = [c["timings"] for c in chunks if "timings" in c]
    (usage,) = [c["usage"] for c in chunks if c.get("usage")]
    assert [t["predicted_n"] for t in running[:3]] == [1, 2, 3]
    assert running[-1]["predicted_n"] == usage["completion_tokens"] == 12
    assert {t["cache_n"] + t["prompt_n"] for t in running} == {usage["prompt_tokens"]}


def test_the_prompts_tokens_are_those_of_its_tokenizer(client: httpx2.Client) -> None:
    answer = client.post("/v1/chat/completions", json=CHAT | {"max_tokens": 1}).json()
    counted = client.post("/v1/chat/completions/input_tokens", json=CHAT).json()

    assert answer["usage"]["prompt_tokens"] == counted["input_tokens"] == 7


def test_of_several_answers_it_tells_the_usage_of_one(client: httpx2.Client) -> None:
    """Why the gateway lets none ask for several; once this fails, it may."""
    body = {"model": "acme-chat", "prompt": ["Hello", "Good morning"], "max_tokens": 4}

    answer = client.post("/v1/completions", json=body).json()

    assert len(answer["choices"]) == 2
    assert answer["usage"]["completion_tokens"] <= 4


def test_requests_are_computed_side_by_side(client: httpx2.Client) -> None:
    first: list[float] = []
    body = {"model": "acme-chat", "prompt": "Tell me", "max_tokens": 200, "ignore_eos": True}

    def ask() -> None:
        with client.stream("POST", "/v1/completions", json=body | {"stream": True}) as answer:
            lines = answer.iter_lines()
            next(lines)
            both.wait(30)  # the other one has its first word before either has its last
            first.append(1)
            list(lines)

    both = threading.Barrier(2)
    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(first) == 2


def test_its_metrics_count_what_answers_told(client: httpx2.Client) -> None:
    def read() -> Any:
        text = client.get(ENGINE.metrics_path).text
        return figures.parse(text, ENGINE.metric_names, "one", figures.Load())

    before = read()
    usage = client.post("/v1/chat/completions", json=CHAT).json()["usage"]
    after = read()

    assert after.prompt_tokens - before.prompt_tokens == usage["prompt_tokens"]
    assert after.completion_tokens - before.completion_tokens == usage["completion_tokens"]
    assert (after.running, after.waiting) == (0, 0)


def test_embeddings(model: Path, tmp_path: Path) -> None:
    made = launch(model, tmp_path / "engine.sock", runner="pooling", pooling="last")
    with running(ENGINE, made, interpreter(ENGINE.recipe("cpu")), tmp_path) as client:
        probe = ENGINE.probe(made)
        answer = client.post(probe.path, json=probe.body).json()
        two = client.post(probe.path, json={"model": "acme-chat", "input": ["a b", "c"]}).json()

    assert len(answer["data"][0]["embedding"]) == 128
    assert answer["usage"]["prompt_tokens"] > 0 and len(two["data"]) == 2
    assert two["usage"]["prompt_tokens"] > 2


def test_it_ends_at_once_when_it_is_told_to(model: Path, tmp_path: Path) -> None:
    made = launch(model, tmp_path / "engine.sock")
    with running(ENGINE, made, interpreter(ENGINE.recipe("cpu")), tmp_path) as client:
        client.post("/v1/chat/completions", json=CHAT)

    assert "cleaning up before exit" in (tmp_path / "engine.log").read_text()
