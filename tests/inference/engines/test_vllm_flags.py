"""What we write on vLLM's command line, read by vLLM's own parser."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from inference.engines import ENGINES
from inference.engines.base import Setting
from inference.engines.vllm_parsers import REASONING_PARSERS, TOOL_PARSERS
from inference.engines.vllm_settings import DRAFTING
from tests.inference.engines.test_vllm import launch

VLLM = ENGINES["vllm"]

READ = """
import json, sys
from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
from vllm.model_executor.layers.quantization import QUANTIZATION_METHODS
from vllm.reasoning import ReasoningParserManager
from vllm.tool_parsers import ToolParserManager
from vllm.utils.argparse_utils import FlexibleArgumentParser

parser = make_arg_parser(FlexibleArgumentParser())
read = []
for argv in json.load(sys.stdin):
    found = parser.parse_args(argv)
    validate_parsed_serve_args(found)
    read.append({name: value for name, value in vars(found).items()
                 if isinstance(value, (bool, int, float, str, dict, type(None)))})
print(json.dumps({
    "read": read,
    "tools": ToolParserManager.list_registered(),
    "reasoning": ReasoningParserManager.list_registered(),
    "quantizations": QUANTIZATION_METHODS,
}, default=str))
"""


def values(setting: Setting) -> Iterator[Any]:
    match setting.kind:
        case "choice":
            yield from setting.choices
        case "bool":
            yield from (True, False)
        case _:
            yield from {setting.minimum, setting.maximum} - {None}


def needed(setting: Setting, value: Any) -> dict[str, Any]:
    """The setting, with what it does not go without."""
    match setting.name:
        case "speculative_tokens" | "prompt_lookup_min" | "prompt_lookup_max":
            return {"speculation": "ngram", setting.name: value}
        case "max_loras" | "max_lora_rank":
            return {"enable_lora": True, setting.name: value}
        case _:
            return {setting.name: value}


def settings_to_try() -> list[tuple[str, dict[str, Any], int]]:
    """Each value of each setting, on each kind of machine that has it."""
    return [
        (variant, needed(setting, value), int(value) if "parallel" in setting.name else 1)
        for setting in VLLM.settings
        for variant in setting.variants
        for value in values(setting)
    ]


@pytest.mark.engine
@pytest.mark.timeout(300)
def test_vllm_itself_understands_every_command_line_we_can_write(vllm_python: Path) -> None:
    tried = settings_to_try()
    lines = [
        VLLM.argv(
            launch(
                variant=variant,
                settings=settings,
                draft_path="/models/small" if settings.get("speculation") in DRAFTING else "",
                gpu_indices=tuple(range(gpus)) if variant == "cuda" else (),
            ),
            [],
        )
        for variant, settings, gpus in tried
    ]

    said = subprocess.run(
        [str(vllm_python), "-c", READ],
        input=json.dumps(lines),
        capture_output=True,
        text=True,
        check=False,
        env=VLLM.env(launch()) | {"PATH": "/usr/bin:/bin", "VLLM_LOGGING_LEVEL": "ERROR"},
    )

    assert said.returncode == 0, said.stderr[-2000:]
    answer = json.loads(said.stdout.splitlines()[-1])
    assert set(TOOL_PARSERS) <= set(answer["tools"])
    assert set(REASONING_PARSERS) <= set(answer["reasoning"])
    (quantization,) = (s for s in VLLM.settings if s.name == "quantization")
    assert set(quantization.choices) - {"auto"} <= set(answer["quantizations"])
    for (variant, settings, gpus), read in zip(tried, answer["read"], strict=True):
        assert read["uds"] == "/run/engine.sock"
        parallel = [read[f"{kind}_parallel_size"] for kind in ("tensor", "pipeline", "data")]
        assert parallel[0] * parallel[1] * parallel[2] == (gpus if variant == "cuda" else 1)
        for name in ("max_model_len", "max_num_seqs", "max_num_batched_tokens"):
            if name in settings:
                assert read[name] == settings[name]
        if settings.get("speculation", "none") != "none":
            assert read["speculative_config"]["method"] == settings["speculation"]
            assert read["speculative_config"].get("model") == (
                "/models/small" if settings["speculation"] in DRAFTING else None
            )
