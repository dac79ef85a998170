from typing import Any

import pytest

from inference.engines import ENGINES
from inference.engines.base import BadSetting
from inference.engines.lora import RANKS, WEIGHTS, Adapter, BadAdapter, adapter_from
from tests.inference.engines.test_vllm import argv, launch, pair

VLLM = ENGINES["vllm"]
CONFIG: dict[str, Any] = {
    "peft_type": "LORA",
    "r": 16,
    "base_model_name_or_path": "Qwen/Qwen3-8B",
    "bias": "none",
    "auto_mapping": None,
    "modules_to_save": None,
}


def test_an_adapter_says_its_rank_and_its_base() -> None:
    files = {WEIGHTS, "adapter_config.json"}

    assert adapter_from(CONFIG, files, 16) == Adapter(16, "Qwen/Qwen3-8B")
    ours = {"auto_mapping": {"parent_library": "transformers.models.qwen3.modeling_qwen3"}}
    assert adapter_from(CONFIG | ours, files, 16).rank == 16
    assert adapter_from(CONFIG | {"rank_pattern": {"q_proj": 32}}, files, 64).rank == 32


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"peft_type": "IA3"}, "no LoRA"),
        ({"auto_mapping": {"parent_library": "evil.modeling"}}, "needs code"),
        ({"auto_mapping": "evil"}, "needs code"),
        ({"modules_to_save": ["lm_head"]}, "whole layers"),
        ({"use_dora": True}, "DoRA"),
        ({"bias": "all"}, "biases"),
        ({"r": 32}, "rank is 32"),
        ({"rank_pattern": {"q_proj": 64}}, "rank is 64"),
        ({"r": "16"}, "does not say its rank"),
        ({"r": 0}, "does not say its rank"),
    ],
)
def test_what_the_engine_would_choke_on_is_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(BadAdapter, match=words):
        adapter_from(CONFIG | change, {WEIGHTS}, 16)


def test_pickles_are_no_adapters() -> None:
    with pytest.raises(BadAdapter, match="missing"):
        adapter_from(CONFIG, {"adapter_model.bin"}, 16)


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
    with pytest.raises(BadSetting, match="need enable_lora"):
        VLLM.check({"max_loras": 4})


def test_adapters_come_and_go_by_calls_that_no_client_may_make() -> None:
    come, go = VLLM.load_lora("acme-tone", "/adapters/1"), VLLM.unload_lora("acme-tone")

    assert come is not None and go is not None
    assert come.body == {"lora_name": "acme-tone", "lora_path": "/adapters/1"}
    assert go.body == {"lora_name": "acme-tone"}
    assert not {come.path, go.path} & VLLM.endpoints({"enable_lora": True})


def test_the_ranks_are_those_that_one_may_choose() -> None:
    (setting,) = (s for s in VLLM.settings if s.name == "max_lora_rank")

    assert setting.choices == tuple(map(str, RANKS))
