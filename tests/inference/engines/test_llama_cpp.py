from pathlib import Path
from typing import Any

import pytest

from inference.engines import ENGINES
from inference.engines.base import GIB, BadSetting
from inference.lifecycle import Stage
from inference.measured import Measured
from tests.inference.engines.test_vllm import launch, pair

ENGINE = ENGINES["llama_cpp"]
# Its own words, of build 11549.
LOG = """\
0.00.003.338 I srv    load_model: loading model '/models/demo.gguf'
0.00.141.894 I srv    load_model: initializing, n_slots = 4, n_ctx_slot = 1024, kv_unified = 'false'
0.00.143.725 I srv          init: model loaded
0.00.143.731 I srv          init: listening on unix:///run/engine.sock
""".splitlines()


def argv(**changes: Any) -> list[str]:
    return ENGINE.argv(launch(model_file="Tiny-Q4_K_M.gguf", **changes), [])


def test_it_serves_the_chosen_file_under_the_instances_name() -> None:
    line = argv()

    assert pair(line, "--model") == "/models/tiny/Tiny-Q4_K_M.gguf"
    assert pair(line, "--alias") == "acme-chat"
    assert "--metrics" in line


def test_without_a_chosen_file_it_does_not_start() -> None:
    with pytest.raises(BadSetting, match="GGUF"):
        ENGINE.argv(launch(), [])


def test_of_numbered_parts_it_is_told_the_first() -> None:
    line = ENGINE.argv(launch(model_file="q4/big-00003-of-00004.gguf"), [])

    assert pair(line, "--model") == "/models/tiny/q4/big-00001-of-00004.gguf"


def test_nobody_else_gets_to_see_prompts() -> None:
    line = argv()

    assert pair(line, "--cache-ram") == "0"
    assert {"--no-slots", "--no-webui", "--offline"} <= set(line)
    assert not [flag for flag in line if "template" in flag or "api-key" in flag]


@pytest.mark.parametrize(
    ("settings", "slots", "context"),
    [
        ({}, "1", "0"),  # the model's own
        ({"max_model_len": 1000}, "4", "4000"),
        ({"max_model_len": 1000, "max_num_seqs": 2}, "2", "2000"),
    ],
)
def test_each_request_has_room_for_a_whole_context(
    settings: dict[str, int], slots: str, context: str
) -> None:
    line = argv(settings=settings)

    assert (pair(line, "--parallel"), pair(line, "--ctx-size")) == (slots, context)


def test_settings_become_flags() -> None:
    line = argv(settings={"threads": 3, "kv_cache_dtype": "q8_0", "flash_attention": "on"})

    assert pair(line, "--threads") == "3"
    assert pair(line, "--cache-type-k") == pair(line, "--cache-type-v") == "q8_0"
    assert pair(line, "--flash-attn") == "on"


def test_a_text_is_embedded_in_one_step() -> None:
    line = argv(settings={"runner": "pooling", "max_model_len": 600})

    assert "--embeddings" in line
    assert pair(line, "--batch-size") == pair(line, "--ubatch-size") == "600"
    assert ENGINE.endpoints({"runner": "pooling"}) == {"/v1/embeddings"}


def test_layers_go_to_the_gpu_where_there_is_one() -> None:
    settings = {"gpu_layers": 20}
    on_gpu = launch(variant="cuda", gpu_indices=(1, 2), model_file="a.gguf", settings=settings)

    assert pair(ENGINE.argv(on_gpu, []), "--n-gpu-layers") == "20"
    assert ENGINE.env(on_gpu)["CUDA_VISIBLE_DEVICES"] == "1,2"
    assert argv(settings=settings) == argv()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"max_num_seqs": 2}, "needs max_model_len"),
        ({"kv_cache_dtype": "q4_0", "flash_attention": "off"}, "need flash_attention"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(
    settings: dict[str, object], words: str
) -> None:
    with pytest.raises(BadSetting, match=words):
        ENGINE.check(settings)


def test_memory_grows_with_weights_context_and_requests() -> None:
    small = ENGINE.memory_bytes({"max_model_len": 1024, "max_num_seqs": 1}, "cpu", GIB)
    double = ENGINE.memory_bytes({"max_model_len": 2048, "max_num_seqs": 1}, "cpu", GIB)

    assert double > small
    assert double == ENGINE.memory_bytes({"max_model_len": 1024, "max_num_seqs": 2}, "cpu", GIB)
    assert ENGINE.memory_bytes({}, "cpu", 3 * GIB) - ENGINE.memory_bytes({}, "cpu", GIB) == 2 * GIB
    halved = {"max_model_len": 2048, "max_num_seqs": 1, "kv_cache_dtype": "q8_0"}
    assert ENGINE.memory_bytes(halved, "cpu", GIB) == small


def test_the_log_tells_how_far_it_is_and_what_room_there_is() -> None:
    assert [stage for line in LOG if (stage := ENGINE.stage(line))] == [
        Stage.LOADING,
        Stage.WARMING,
    ]
    assert ENGINE.measured(LOG) == Measured(kv_cache_tokens=4096, max_concurrency=4.0)
    assert ENGINE.measured(LOG[:1]) == Measured()


def test_the_launcher_is_what_it_is_started_with() -> None:
    launcher = Path("inference/engines/llama_cpp_launch.py").read_text()

    assert ENGINE.command("python") == ["python", "-c", launcher]
