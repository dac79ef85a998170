"""Speculative decoding with a real vLLM, within walls: the demo model guesses for itself, and heads
that guess nonsense change nothing of what it says."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from inference.demo import MODEL_ID, MODEL_PATH
from inference.provisioners.base import Draft, Phase
from tests.fakes.hub import safetensors
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


@pytest.fixture(scope="module")
def plain(node: Rig) -> list[str]:
    """What it answers without guesses."""
    answers, metrics = served(node, {}, None)
    assert all(answers) and counted(metrics, "num_draft_tokens") == 0
    return answers


def test_it_answers_as_without_and_its_guesses_are_used(node: Rig, plain: list[str]) -> None:
    answers, metrics = served(node, {"speculation": "draft_model"}, ITSELF)

    assert answers == plain
    # It guesses as it would itself have said.
    assert counted(metrics, "num_accepted_tokens") > 0.8 * counted(metrics, "num_draft_tokens") > 0


HIDDEN, BETWEEN, WORDS = 128, 352, 2048  # of the demo model


def layer(prefix: str, width: int) -> dict[str, tuple[str, list[int]]]:
    """One layer of a head, which takes in so many numbers for a token."""
    shapes = {
        "self_attn.q_proj": [HIDDEN, width],
        "self_attn.k_proj": [HIDDEN // 2, width],
        "self_attn.v_proj": [HIDDEN // 2, width],
        "self_attn.o_proj": [HIDDEN, HIDDEN],
        "mlp.gate_proj": [BETWEEN, HIDDEN],
        "mlp.up_proj": [BETWEEN, HIDDEN],
        "mlp.down_proj": [HIDDEN, BETWEEN],
        "post_attention_layernorm": [HIDDEN],
    }
    return {f"{prefix}.{name}.weight": ("BF16", shape) for name, shape in shapes.items()}


HEADS: dict[str, dict[str, tuple[str, list[int]]]] = {
    "eagle": layer("layers.0", HIDDEN) | {"fc.weight": ("BF16", [HIDDEN, 2 * HIDDEN])},
    "eagle3": layer("midlayer", 2 * HIDDEN)
    | {
        "midlayer.hidden_norm.weight": ("BF16", [HIDDEN]),
        "midlayer.input_layernorm.weight": ("BF16", [HIDDEN]),
        "fc.weight": ("BF16", [HIDDEN, 3 * HIDDEN]),
        "norm.weight": ("BF16", [HIDDEN]),
        "lm_head.weight": ("BF16", [WORDS, HIDDEN]),
    },
}


@pytest.mark.parametrize("method", HEADS)
def test_a_head_that_guesses_nonsense_changes_no_answer(
    node: Rig, plain: list[str], method: str
) -> None:
    head = node.home / "heads" / method
    head.mkdir(parents=True)
    # Which of the model's layers an EAGLE-3 head looks at; its usual ones take more than four.
    own = {"num_hidden_layers": 1, "eagle_aux_hidden_state_layer_ids": [1, 2, 3]}
    config = json.loads((MODEL_PATH / "config.json").read_text()) | own
    (head / "config.json").write_text(json.dumps(config))
    (head / "model.safetensors").write_bytes(safetensors(HEADS[method]))
    draft = Draft(source="local", model_id=method, revision="", path=str(head))

    answers, metrics = served(node, {"speculation": method}, draft)

    assert answers == plain
    assert counted(metrics, "num_draft_tokens") > 0
