"""A folder with a GGUF file, served by a real llama.cpp: over REST to a chat, a row and its end."""

import json
import time
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from openai import OpenAI

from inference import demo
from inference.engines import ENGINES
from tests.fakes.gguf import of_folder
from tests.inference.engines.real import interpreter
from tests.journeys import running
from tests.journeys.running import Running

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

FILE = "demo-BF16.gguf"
SETTLE = 60.0  # seconds


@pytest.fixture
def portal() -> Iterator[Running]:
    engines = interpreter(ENGINES["llama_cpp"].recipe("cpu")).parents[2]
    started = running.start(engines)
    folder = started.home / "models" / "quants"
    folder.mkdir(parents=True)
    (folder / FILE).write_bytes(of_folder(demo.MODEL_PATH))
    yield started
    running.clean_up(started)


def until(ask: Any, true: Any) -> Any:
    deadline = time.monotonic() + SETTLE
    while not true(seen := ask()):
        assert time.monotonic() < deadline, seen
        time.sleep(0.3)
    return seen


def test_from_a_folder_to_a_bill(portal: Running) -> None:
    said = portal.modelport("bootstrap", "--email", "alice@acme.example", "--organization", "Acme")
    made = json.loads(said)
    rest = httpx2.Client(
        base_url=f"{portal.url}/api/v1/organizations/{made['organization']}",
        headers={"Authorization": f"Bearer {made['management_key']}"},
        timeout=30,
    )
    with rest:
        wanted = {"name": "tiny", "model_source": "local", "model_id": "quants"}
        answer = rest.post("/instances/", json=wanted | {"model_file": FILE})
        assert answer.status_code == 201, answer.text
        instance = f"/instances/{answer.json()['id']}/"
        until(lambda: rest.get(instance).json(), lambda seen: seen["state"] == "ready")
        key = rest.post("/keys/", json={"name": "chat"}).json()
        with OpenAI(base_url=f"{portal.url}/v1", api_key=key["key"]) as client:
            stream = client.chat.completions.create(
                model="tiny",
                messages=[{"role": "user", "content": "What is Modelport?"}],
                temperature=0,
                stream=True,
            )
            text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
        assert text.startswith("Modelport is a self-service")
        rows = until(lambda: rest.get("/usage/").json()["results"], bool)
        assert [(row["prompt_tokens"], row["source"]) for row in rows] == [(7, "engine")]
        assert rest.delete(instance).status_code == 204
