import pytest

from inference.engines.vllm_parsers import (
    _FAMILIES,
    REASONING_PARSERS,
    TOOL_PARSERS,
    Parsers,
    parsers_for,
)


@pytest.mark.parametrize(
    ("model_type", "name", "parsers"),
    [
        ("qwen2", "Qwen/Qwen2.5-7B-Instruct", Parsers("hermes")),
        ("qwen2", "Qwen/QwQ-32B", Parsers("hermes", "deepseek_r1")),
        ("qwen3", "Qwen/Qwen3-8B", Parsers("hermes", "qwen3")),
        ("qwen3_moe", "Qwen/Qwen3-30B-A3B-Instruct-2507", Parsers("hermes")),
        ("qwen3_moe", "Qwen/Qwen3-30B-A3B-Thinking-2507", Parsers("hermes", "qwen3")),
        ("qwen3_moe", "Qwen/Qwen3-Coder-30B-A3B-Instruct", Parsers("qwen3_coder")),
        ("llama", "meta-llama/Llama-3.3-70B-Instruct", Parsers("llama3_json")),
        ("llama", "acme/our-own-llama", Parsers()),
        ("llama", "deepseek-ai/DeepSeek-R1-Distill-Llama-8B", Parsers("", "deepseek_r1")),
        ("deepseek_v3", "deepseek-ai/DeepSeek-V3-0324", Parsers("deepseek_v3")),
        ("deepseek_v3", "deepseek-ai/DeepSeek-V3.1", Parsers("deepseek_v31", "deepseek_v3")),
        ("mistral", "mistralai/Mistral-7B-Instruct-v0.3", Parsers("mistral")),
        ("mistral", "mistralai/Mistral-7B-Instruct-v0.2", Parsers()),
        ("mistral", "mistralai/Magistral-Small-2506", Parsers("mistral", "mistral")),
        ("phi3", "microsoft/Phi-4-mini-instruct", Parsers("phi4_mini_json")),
        ("phi3", "microsoft/Phi-3-mini-4k-instruct", Parsers()),
        ("olmo3", "allenai/Olmo-3-7B-Think", Parsers("olmo3", "olmo3")),
        ("gpt_oss", "openai/gpt-oss-20b", Parsers("openai", "openai_gptoss")),
        ("mamba", "state-spaces/mamba-2.8b", Parsers()),
    ],
)
def test_the_family_says_how_it_writes(model_type: str, name: str, parsers: Parsers) -> None:
    assert parsers_for(model_type, name) == parsers


def test_every_parser_of_a_family_can_be_chosen() -> None:
    for parsers in _FAMILIES.values():
        assert parsers.tools in {"", *TOOL_PARSERS}
        assert parsers.reasoning in {"", *REASONING_PARSERS}
