"""Speculative decoding with a real vLLM: the demo model guesses for itself, within walls."""

import re
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from inference.demo import MODEL_ID, MODEL_PATH
from inference.provisioners.base import Draft, Phase
from tests.inference.node.rig import Rig, rig, spec, wait_for
from tests.inference.node.test_walls import need_walls

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(2000)]

START_PATIENCE = 900.0  # seconds; 60 on a quiet machine, 250 seen on a busy one
ITSELF = Draft(source="bundled", model_id=MODEL_ID, revision="", path=str(MODEL_PATH))
QUESTIONS = ("What is Modelport?", "Hello!", "How do I create an API key?")


@pytest.fixture(scope="module")
def node(engines: Path) -> Iterator[Rig]:
    with rig("", begin=False) as made:
        (made.home / "engines").symlink_to(engines)
        made.start()
        need_walls(made)
        yield made


def served(node: Rig, settings: dict[str, object], draft: Draft | None) -> tuple[list[str], str]:
    """What it answers to the questions, and its metrics after that."""
    wanted = spec(MODEL_PATH, settings=settings | {"max_model_len": 512}, draft=draft)
    handle = node.provisioner.ensure(wanted)
    seen = wait_for(node.provisioner, handle, Phase.READY, START_PATIENCE)
    transport = httpx2.HTTPTransport(uds=seen.address.removeprefix("unix:"))
    with httpx2.Client(transport=transport, base_url="http://engine", timeout=120) as client:
        answers = [_answer(client, question) for question in QUESTIONS]
        metrics = client.get("/metrics").text
    node.provisioner.delete(handle)
    wait_for(node.provisioner, handle, Phase.GONE, 60)
    return answers, metrics


def _answer(client: httpx2.Client, question: str) -> str:
    body = {
        "model": "acme-chat",
        "messages": [{"role": "user", "content": question}],
        "max_tokens": 48,
        "temperature": 0,
    }
    answer = client.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["choices"][0]["message"]["content"])


def counted(metrics: str, name: str) -> float:
    values = re.findall(rf"^vllm:spec_decode_{name}_total\S* (\S+)$", metrics, re.MULTILINE)
    return sum(map(float, values))


def test_it_answers_as_without_and_its_guesses_are_used(node: Rig) -> None:
    plain, quiet = served(node, {}, None)
    guessed, metrics = served(node, {"speculation": "draft_model"}, ITSELF)

    assert guessed == plain and all(plain)
    assert counted(quiet, "num_draft_tokens") == 0
    # It guesses as it would itself have said.
    assert counted(metrics, "num_accepted_tokens") > 0.8 * counted(metrics, "num_draft_tokens") > 0
