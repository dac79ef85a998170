from pathlib import Path

import pytest

from inference.engines import ENGINES
from inference.engines.base import GIB, BadSetting
from inference.lifecycle import Stage
from tests.inference.engines.test_vllm import launch, pair

ENGINE = ENGINES["transformers"]


def test_settings_become_flags() -> None:
    line = ENGINE.argv(launch(settings={"dtype": "float32", "reasoning": "off"}), [])

    assert pair(line, "--dtype") == "float32"
    assert pair(line, "--reasoning") == "off"
    assert pair(line, "--model") == "/models/tiny"
    assert pair(line, "--name") == "acme-chat"
    assert pair(line, "--device") == "cpu"


def test_requests_side_by_side_are_for_gpus() -> None:
    settings = {"continuous_batching": True}
    on_gpu = launch(variant="cuda", gpu_indices=(3,), settings=settings)

    assert "--continuous-batching" in ENGINE.argv(on_gpu, [])
    assert ENGINE.env(on_gpu)["CUDA_VISIBLE_DEVICES"] == "3"
    assert "--continuous-batching" not in ENGINE.argv(launch(settings=settings), [])


def test_several_gpus_are_refused() -> None:
    with pytest.raises(BadSetting, match="one GPU"):
        ENGINE.check({}, gpu_count=2)


def test_memory_grows_with_the_weights() -> None:
    small = ENGINE.memory_bytes({}, "cpu", GIB)

    assert ENGINE.memory_bytes({}, "cpu", 3 * GIB) - small == 2 * GIB
    assert ENGINE.memory_bytes({"dtype": "float32"}, "cpu", GIB) - small == GIB


def test_the_log_tells_how_far_it_is() -> None:
    assert ENGINE.stage("Loading weights of acme-chat") is Stage.LOADING
    assert ENGINE.stage("INFO:     Application startup complete.") is Stage.WARMING
    assert ENGINE.stage("INFO:     Started server process [1]") is None


def test_the_launcher_is_what_it_is_started_with() -> None:
    launcher = Path("inference/engines/transformers_launch.py").read_text()

    assert ENGINE.command("python") == ["python", "-c", launcher]
