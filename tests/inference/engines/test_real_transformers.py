import json
from collections.abc import Iterator

import httpx2
import pytest

from inference import demo
from inference.engines import ENGINES
from inference.engines.base import Launch
from inference.node.figures import Load, parse
from inference.provisioners.base import Figures
from tests.inference.engines.real import interpreter, running

ENGINE = ENGINES["transformers"]
CHAT = {
    "model": "acme-chat",
    "messages": [{"role": "user", "content": "Hello"}],
    "max_tokens": 8,
    "temperature": 0,
}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def launch(tmp_path_factory: pytest.TempPathFactory) -> Launch:
    return Launch(
        model_path=str(demo.MODEL_PATH),
        served_model_name="acme-chat",
        socket=str(tmp_path_factory.mktemp("s") / "engine.sock"),
        variant="cpu",
    )


@pytest.fixture(scope="module")
def client(launch: Launch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx2.Client]:
    python = interpreter(ENGINE.recipe("cpu"))
    with running(ENGINE, launch, python, tmp_path_factory.mktemp("home")) as client:
        yield client


def test_it_generates_and_counts_what_it_generates(client: httpx2.Client, launch: Launch) -> None:
    probe = ENGINE.probe(launch)

    answer = client.post(probe.path, json=probe.body)

    assert answer.status_code == 200, answer.text
    assert answer.json()["usage"]["completion_tokens"] == 2


def test_it_says_that_it_is_idle(client: httpx2.Client, launch: Launch) -> None:
    probe = ENGINE.probe(launch)
    before = figures(client)

    client.post(probe.path, json=probe.body)

    after = figures(client)
    assert (after.running, after.requests) == (0, before.requests + 1)


def figures(client: httpx2.Client) -> Figures:
    return parse(client.get(ENGINE.metrics_path).text, ENGINE.metric_names, "one", Load())


def test_it_says_its_version_and_its_model_under_the_instances_name(client: httpx2.Client) -> None:
    assert client.get(ENGINE.version.path).json()["version"] == ENGINE.recipe("cpu").version
    assert [m["id"] for m in client.get(ENGINE.models_path).json()["data"]] == ["acme-chat"]
    assert client.post("/v1/chat/completions", json=CHAT).json()["model"] == "acme-chat"


def test_a_stream_looks_like_openais(client: httpx2.Client) -> None:
    answer = client.post("/v1/chat/completions", json=CHAT | {"stream": True})

    events = [line.removeprefix("data: ") for line in answer.text.splitlines() if line]
    chunks = [json.loads(event) for event in events[:-1]]
    assert events[-1] == "[DONE]" and events.count("[DONE]") == 1
    assert {chunk["model"] for chunk in chunks} == {"acme-chat"}
    assert [c["usage"]["completion_tokens"] for c in chunks if c.get("usage")] == [8]
    assert "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks)


def test_other_models_are_not_loaded(client: httpx2.Client) -> None:
    answer = client.post("/v1/chat/completions", json=CHAT | {"model": "other"})

    assert 400 <= answer.status_code < 500
