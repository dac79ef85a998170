import json
from typing import Any

import pytest

from inference.engines import ENGINES
from inference.engines.base import GIB, BadSetting, Launch
from inference.engines.vllm_settings import PRESETS
from inference.lifecycle import Stage

VLLM = ENGINES["vllm"]


def launch(**changes: Any) -> Launch:
    facts: dict[str, Any] = {
        "model_path": "/models/tiny",
        "served_model_name": "acme-chat",
        "socket": "/run/engine.sock",
        "variant": "cpu",
    }
    return Launch(**(facts | changes))


def argv(**changes: Any) -> list[str]:
    return VLLM.argv(launch(**changes), VLLM.command("/env/bin/python"))


def pair(argv: list[str], flag: str) -> str:
    return argv[argv.index(flag) + 1]


def test_the_command_line_serves_this_model_on_this_socket() -> None:
    line = argv()

    assert line[:3] == ["/env/bin/python", "-m", "vllm.entrypoints.openai.api_server"]
    assert pair(line, "--model") == "/models/tiny"
    assert pair(line, "--served-model-name") == "acme-chat"
    assert pair(line, "--uds") == "/run/engine.sock"
    assert "--host" not in line and "--port" not in line


def test_what_billing_needs_is_always_on() -> None:
    line = argv()

    assert "--enable-force-include-usage" in line
    assert "--enable-prompt-tokens-details" in line


@pytest.mark.parametrize("variant", ["cpu", "cuda"])
def test_foreign_code_is_never_trusted_nor_a_secret_shown(variant: str) -> None:
    line = " ".join(argv(variant=variant))

    assert "trust" not in line and "api-key" not in line and "template" not in line


def test_an_own_launch_command_takes_the_place_of_ours() -> None:
    line = VLLM.argv(launch(), ["python", "-m", "tests.fakes.engine"])

    assert line[:4] == ["python", "-m", "tests.fakes.engine", "--model"]


@pytest.mark.parametrize(
    ("settings", "variant", "dtype"),
    [
        ({}, "cpu", "bfloat16"),
        ({}, "cuda", "auto"),
        ({"dtype": "float32"}, "cpu", "float32"),
        ({"runner": "pooling"}, "cpu", "float32"),
        ({"runner": "pooling"}, "cuda", "auto"),
        ({"runner": "pooling", "dtype": "bfloat16"}, "cpu", "bfloat16"),
    ],
)
def test_the_number_format_suits_the_machine(
    settings: dict[str, str], variant: str, dtype: str
) -> None:
    assert pair(argv(settings=settings, variant=variant), "--dtype") == dtype


def test_settings_become_flags() -> None:
    settings = {"max_model_len": 1024, "max_num_seqs": 8, "enable_prefix_caching": False}

    line = argv(settings=settings)

    assert pair(line, "--max-model-len") == "1024"
    assert pair(line, "--max-num-seqs") == "8"
    assert "--no-enable-prefix-caching" in line


def test_settings_of_gpus_are_passed_over_where_there_are_none() -> None:
    settings = {"quantization": "fp8", "kv_cache_dtype": "fp8", "gpu_memory_utilization": 0.5}

    on_gpu = argv(settings=settings, variant="cuda", gpu_indices=(0,))

    assert pair(on_gpu, "--quantization") == pair(on_gpu, "--kv-cache-dtype") == "fp8"
    assert pair(on_gpu, "--gpu-memory-utilization") == "0.5"
    assert argv(settings=settings) == argv()


def test_tool_calls_and_thoughts_are_read_by_the_parser_that_is_named() -> None:
    line = argv(settings={"tool_call_parser": "hermes", "reasoning_parser": "qwen3"})

    assert "--enable-auto-tool-choice" in line
    assert pair(line, "--tool-call-parser") == "hermes"
    assert pair(line, "--reasoning-parser") == "qwen3"
    assert "--tool-call-parser" not in argv(settings={"tool_call_parser": "none"})


def test_guessing_tokens_is_told_as_vllm_wants_it() -> None:
    settings = {"speculation": "ngram", "speculative_tokens": 6, "prompt_lookup_min": 3}

    told = json.loads(pair(argv(settings=settings), "--speculative-config"))

    assert told == {
        "method": "ngram",
        "num_speculative_tokens": 6,
        "prompt_lookup_min": 3,
        "prompt_lookup_max": 4,
    }
    assert json.loads(pair(argv(settings={"speculation": "mtp"}), "--speculative-config")) == {
        "method": "mtp",
        "num_speculative_tokens": 1,
    }


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"max_num_seqs": 128, "max_num_batched_tokens": 64}, "at least max_num_seqs"),
        ({"speculation": "ngram", "runner": "pooling"}, "not for embeddings"),
        ({"speculative_tokens": 3}, "needs speculation"),
        ({"speculation": "mtp", "prompt_lookup_max": 3}, "need speculation to be ngram"),
        (
            {"speculation": "ngram", "prompt_lookup_min": 5, "prompt_lookup_max": 4},
            "must not be more than",
        ),
    ],
)
def test_settings_that_do_not_go_together_are_refused(
    settings: dict[str, object], words: str
) -> None:
    with pytest.raises(BadSetting, match=words):
        VLLM.check(settings)


@pytest.mark.parametrize(
    ("settings", "gpus", "flags"),
    [
        ({}, 4, {"tensor": "4"}),
        ({"pipeline_parallel": 2}, 4, {"tensor": "2", "pipeline": "2"}),
        ({"data_parallel": 4}, 4, {"data": "4"}),
        ({"tensor_parallel": 1, "pipeline_parallel": 2}, 2, {"pipeline": "2"}),
    ],
)
def test_the_gpus_are_shared_out(
    settings: dict[str, int], gpus: int, flags: dict[str, str]
) -> None:
    line = argv(settings=settings, variant="cuda", gpu_indices=tuple(range(gpus)))

    said = {
        kind: pair(line, f"--{kind}-parallel-size")
        for kind in ("tensor", "pipeline", "data")
        if f"--{kind}-parallel-size" in line
    }
    assert said == flags


@pytest.mark.parametrize(
    ("settings", "gpus", "have"),
    [
        ({"tensor_parallel": 2}, 0, "no GPU"),
        ({"tensor_parallel": 2}, 1, "1 GPU"),
        ({"pipeline_parallel": 3}, 4, "4 GPUs"),
        ({"data_parallel": 4, "pipeline_parallel": 2}, 4, "4 GPUs"),
    ],
)
def test_gpus_that_do_not_come_out_are_refused(
    settings: dict[str, int], gpus: int, have: str
) -> None:
    with pytest.raises(BadSetting, match=f"the instance has {have}"):
        VLLM.check(settings, gpu_count=gpus)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_fills_in_what_is_not_said(preset: str) -> None:
    filled = VLLM.check({"preset": preset})

    assert filled == {"preset": preset} | PRESETS[preset]
    assert VLLM.check(filled) == filled
    assert VLLM.check({"preset": preset, "max_num_seqs": 3})["max_num_seqs"] == 3
    assert pair(argv(settings={"preset": preset}), "--max-num-seqs") == str(
        PRESETS[preset]["max_num_seqs"]
    )


def test_embeddings_have_their_own_runner_endpoint_and_probe() -> None:
    settings = {"runner": "pooling"}

    assert pair(argv(settings=settings), "--convert") == "embed"
    assert VLLM.endpoints(settings) == {"/v1/embeddings", "/v1/rerank", "/v1/score"}
    assert VLLM.probe(launch(settings=settings)).path == "/v1/embeddings"
    assert "/v1/chat/completions" in VLLM.endpoints({})


def test_gpus_are_named_to_the_engine_and_shared_by_it() -> None:
    two = launch(variant="cuda", gpu_indices=(2, 5))

    assert VLLM.env(two)["CUDA_VISIBLE_DEVICES"] == "2,5"
    assert pair(argv(variant="cuda", gpu_indices=(2, 5)), "--tensor-parallel-size") == "2"
    assert "--tensor-parallel-size" not in argv(variant="cuda", gpu_indices=(2,))
    assert "CUDA_VISIBLE_DEVICES" not in VLLM.env(launch())


def test_the_engine_is_kept_from_the_network_and_from_telling_on_us() -> None:
    env = VLLM.env(launch())

    assert env["HF_HUB_OFFLINE"] == env["VLLM_NO_USAGE_STATS"] == "1"
    assert VLLM.env(launch(settings={"kv_cache_gib": 3}))["VLLM_CPU_KVCACHE_SPACE"] == "3"


@pytest.mark.parametrize(
    "settings",
    [
        {"trust_remote_code": True},
        {"middleware": "evil.Module"},
        {"--chat-template": "/etc/passwd"},
        {"dtype": "float8; rm -rf /"},
        {"dtype": 16},
        {"max_model_len": "1024"},
        {"max_model_len": 0},
        {"max_model_len": 1024.5},
        {"max_model_len": True},
        {"max_num_seqs": 10**9},
        {"gpu_memory_utilization": 1.5},
        {"gpu_memory_utilization": float("nan")},
        {"enable_prefix_caching": "false"},
        {"runner": "draft"},
        {"preset": "fastest"},
        {"quantization": "awq"},
        {"kv_cache_dtype": "int4"},
        {"tool_call_parser": "/plugin.py"},
        {"reasoning_parser": "hermes"},
        {"speculation": "medusa"},
        {"speculation": "ngram", "speculative_tokens": 0},
        {"tensor_parallel": 0},
    ],
)
def test_anything_off_the_list_is_refused(settings: dict[str, object]) -> None:
    with pytest.raises(BadSetting):
        VLLM.check(settings)
    with pytest.raises(BadSetting):
        argv(settings=settings)


def test_an_absent_setting_leaves_the_choice_to_the_engine() -> None:
    assert VLLM.check({"max_model_len": None, "dtype": "auto"}) == {"dtype": "auto"}
    assert "--max-model-len" not in argv()


@pytest.mark.parametrize(
    ("line", "stage"),
    [
        ("INFO cpu_model_runner.py:68] Starting to load model /m...", Stage.LOADING),
        ("INFO:     Application startup complete.", Stage.WARMING),
        ("Loading safetensors checkpoint shards:   0% Completed | 0/1", None),
    ],
)
def test_the_log_tells_the_stage(line: str, stage: Stage | None) -> None:
    assert VLLM.stage(line) is stage


def test_memory_grows_with_weights_and_conversations() -> None:
    small = VLLM.memory_bytes({}, "cpu", 2 * GIB)

    assert VLLM.memory_bytes({}, "cpu", 5 * GIB) - small == 3 * GIB
    assert VLLM.memory_bytes({"kv_cache_gib": 3}, "cpu", 2 * GIB) - small == 2 * GIB
    assert VLLM.memory_bytes({"dtype": "float32"}, "cpu", 2 * GIB) - small == 2 * GIB
