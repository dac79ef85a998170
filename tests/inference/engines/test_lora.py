"""Which LoRA adapters may be loaded, and how vLLM is told."""

from typing import Any

import pytest

from inference.engines import ENGINES
from inference.engines.base import BadSetting
from inference.engines.lora import (
    RANKS,
    WEIGHTS,
    Adapter,
    BadAdapter,
    adapter_from,
    check_base,
)
from tests.inference.engines.test_vllm import argv, launch, pair

VLLM = ENGINES["vllm"]
CONFIG: dict[str, Any] = {
    "peft_type": "LORA",
    "r": 16,
    "lora_alpha": 32,
    "target_modules": ["q_proj", "v_proj"],
    "base_model_name_or_path": "Qwen/Qwen3-8B",
    "bias": "none",
    "auto_mapping": None,
    "modules_to_save": None,
    "init_lora_weights": True,
}
MODEL = {"hidden_size": 64, "num_hidden_layers": 2}
LAYER = "base_model.model.model.layers.1"


def test_an_adapter_says_its_rank_and_its_base() -> None:
    files = {WEIGHTS, "adapter_config.json"}

    assert adapter_from(CONFIG, files, 16) == Adapter(16, "Qwen/Qwen3-8B")
    ours = {"auto_mapping": {"parent_library": "transformers.models.qwen3.modeling_qwen3"}}
    assert adapter_from(CONFIG | ours, files, 16).rank == 16
    assert adapter_from(CONFIG | {"rank_pattern": {"q_proj": 32}}, files, 64).rank == 32
    assert adapter_from(CONFIG | {"init_lora_weights": "gaussian"}, files, 16).rank == 16


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"peft_type": "IA3"}, "no LoRA"),
        ({"auto_mapping": {"parent_library": "evil.modeling"}}, "needs code"),
        ({"auto_mapping": "evil"}, "needs code"),
        ({"auto_map": {"AutoModel": "evil.Model"}}, "needs code"),
        ({"modules_to_save": ["lm_head"]}, "whole layers"),
        ({"use_dora": True}, "DoRA"),
        ({"layer_replication": [[0, 2]]}, "layer_replication"),
        ({"init_lora_weights": "pissa"}, "pissa"),
        ({"bias": "all"}, "bias"),
        ({"r": 32}, "rank is 32"),
        ({"rank_pattern": {"q_proj": 64}}, "rank is 64"),
        ({"r": "16"}, "does not say its rank"),
        ({"r": 0}, "does not say its rank"),
        ({"target_modules": []}, "not complete"),
        ({"lora_alpha": None}, "not complete"),
    ],
)
def test_what_the_engine_would_choke_on_is_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(BadAdapter, match=words) as refused:
        adapter_from(CONFIG | change, {WEIGHTS}, 16)
    assert refused.value.sentence % refused.value.facts == str(refused.value)


def test_pickles_are_no_adapters() -> None:
    with pytest.raises(BadAdapter, match=r"There is no adapter_model\.safetensors"):
        adapter_from(CONFIG, {"adapter_model.bin"}, 16)


def test_tensors_that_belong_on_the_model_are_taken() -> None:
    check_base(
        {
            f"{LAYER}.self_attn.q_proj.lora_A.weight": [8, 64],
            f"{LAYER}.self_attn.q_proj.lora_B.weight": [128, 8],  # as many heads as it likes
            f"{LAYER}.mlp.down_proj.lora_A.weight": [8, 512],
            f"{LAYER}.mlp.down_proj.lora_B.weight": [64, 8],
        },
        MODEL,
    )


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        (f"{LAYER}.self_attn.q_proj.lora_A.weight", [8, 32]),  # vLLM would take this one
        (f"{LAYER}.self_attn.v_proj.lora_A.weight", [8, 128]),
        (f"{LAYER}.self_attn.o_proj.lora_B.weight", [32, 8]),
        ("base_model.model.model.layers.2.self_attn.q_proj.lora_A.weight", [8, 64]),
    ],
)
def test_those_of_another_model_are_refused(name: str, shape: list[int]) -> None:
    with pytest.raises(BadAdapter, match="another model"):
        check_base({name: shape}, MODEL)


def test_a_model_of_which_little_is_known_is_left_to_the_engine() -> None:
    strange = {f"{LAYER}.self_attn.q_proj.lora_A.weight": [8, 32]}
    check_base(strange, {})
    check_base(strange, MODEL | {"text_config": {"hidden_size": 32}})
    with pytest.raises(BadAdapter, match="not those of a LoRA"):
        check_base({"model.embed.weight": [32, 64]}, MODEL)


def test_room_for_adapters_is_asked_for() -> None:
    settings = {"enable_lora": True, "max_loras": 4, "max_lora_rank": "64"}

    line = argv(settings=settings)

    assert "--enable-lora" in line
    assert pair(line, "--max-loras") == "4"
    assert pair(line, "--max-lora-rank") == "64"
    assert VLLM.env(launch(settings=settings))["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "1"


def test_without_it_adapters_can_be_loaded_by_nobody() -> None:
    assert "--enable-lora" not in argv(settings={"enable_lora": False})
    assert "VLLM_ALLOW_RUNTIME_LORA_UPDATING" not in VLLM.env(launch())
    assert VLLM.lora({}) is None
    assert VLLM.check({"max_lora_rank": "auto"})
    for alone in ({"max_loras": 4}, {"max_lora_rank": "64"}):
        with pytest.raises(BadSetting, match="need enable_lora"):
            VLLM.check(alone)


def test_adapters_come_and_go_by_calls_that_no_client_may_make() -> None:
    room = VLLM.lora({"enable_lora": True})

    assert room is not None and room.max_rank == 16
    come, go = room.load("acme-tone", "/adapters/1"), room.unload("acme-tone")
    assert come.body == {"lora_name": "acme-tone", "lora_path": "/adapters/1"}
    assert go.body == {"lora_name": "acme-tone"}
    assert not {come.path, go.path} & VLLM.endpoints({"enable_lora": True})


def test_an_engine_without_adapters_says_so() -> None:
    assert ENGINES["transformers"].lora({}) is None


def test_the_ranks_are_those_that_one_may_choose() -> None:
    (setting,) = (s for s in VLLM.settings if s.name == "max_lora_rank")

    assert setting.choices == ("auto", *map(str, RANKS))
