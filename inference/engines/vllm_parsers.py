"""Which of vLLM's parsers read a model's tool calls and reasoning. PURE.

A model writes both in the format of its family. vLLM reads them with a parser that has to be named;
without one, tool calls and thoughts reach the client as plain text.
"""

from dataclasses import dataclass

# Of vLLM 0.32's registries, without those that need more than their name (a template, a plugin).
TOOL_PARSERS = (
    *("apertus", "cohere_command3", "cohere_command4", "deepseek_v3", "deepseek_v31"),
    *("deepseek_v32", "ernie45", "functiongemma", "gemma4", "gigachat3", "glm45", "glm47"),
    *("granite", "granite-20b-fc", "granite4", "hermes", "hunyuan_a13b", "internlm", "jamba"),
    *("kimi_k2", "lfm2", "llama3_json", "llama4_json", "llama4_pythonic", "longcat", "mimo"),
    *("minimax_m2", "mistral", "olmo3", "openai", "phi4_mini_json", "pythonic", "qwen3_coder"),
    *("qwen3_xml", "seed_oss", "step3", "step3p5", "xlam"),
)
REASONING_PARSERS = (
    *("cohere_command3", "cohere_command4", "deepseek_r1", "deepseek_v3", "ernie45", "gemma4"),
    *("glm45", "glm47", "granite", "hunyuan_a13b", "kimi_k2", "mimo", "minimax_m2", "mistral"),
    *("nemotron_v3", "olmo3", "openai_gptoss", "qwen3", "seed_oss", "step3", "step3p5"),
)


@dataclass(frozen=True)
class Parsers:
    """Empty: none is needed, or we know of none."""

    tools: str = ""
    reasoning: str = ""


# By config.json's model_type: families all of whose chat models write alike.
_FAMILIES = {
    "apertus": Parsers("apertus"),
    "deepseek_v32": Parsers("deepseek_v32", "deepseek_v3"),
    "ernie4_5": Parsers("ernie45", "ernie45"),
    "ernie4_5_moe": Parsers("ernie45", "ernie45"),
    "gemma4": Parsers("gemma4", "gemma4"),
    "glm4_moe": Parsers("glm45", "glm45"),
    "glm4_moe_lite": Parsers("glm47", "glm47"),
    "gpt_oss": Parsers("openai", "openai_gptoss"),
    "granite": Parsers("granite"),
    "granitemoehybrid": Parsers("granite4"),
    "hunyuan_v1_moe": Parsers("hunyuan_a13b", "hunyuan_a13b"),
    "internlm2": Parsers("internlm"),
    "jamba": Parsers("jamba"),
    "kimi_k2": Parsers("kimi_k2", "kimi_k2"),
    "lfm2": Parsers("lfm2"),
    "lfm2_moe": Parsers("lfm2"),
    "llama4": Parsers("llama4_pythonic"),
    "longcat_flash": Parsers("longcat"),
    "mimo": Parsers("mimo", "mimo"),
    "minimax_m2": Parsers("minimax_m2", "minimax_m2"),
    "olmo3": Parsers("olmo3"),
    "qwen2": Parsers("hermes"),
    "qwen2_moe": Parsers("hermes"),
    "qwen3": Parsers("hermes", "qwen3"),
    "qwen3_moe": Parsers("hermes", "qwen3"),
    "qwen3_next": Parsers("hermes", "qwen3"),
    "qwen3_5": Parsers("qwen3_coder", "qwen3"),
    "qwen3_5_moe": Parsers("qwen3_coder", "qwen3"),
    "seed_oss": Parsers("seed_oss", "seed_oss"),
    "step3_vl": Parsers("step3", "step3"),
}
_MISTRAL = frozenset({"mistral", "mistral3", "ministral", "mixtral"})
_OLD_MISTRAL = ("v0.1", "v0.2")  # their vocabulary has no word for a tool call


def parsers_for(model_type: str, name: str) -> Parsers:
    """By the model's family, and by its name where a family's models differ."""
    name = name.lower()
    if "deepseek-r1" in name or "qwq" in name:  # R1's distillates are Qwens and Llamas by type
        return Parsers("hermes" if "qwq" in name else "", "deepseek_r1")
    if model_type == "deepseek_v3":
        return _deepseek(name)
    if model_type == "llama":
        calls = any(version in name for version in ("llama-3.1", "llama-3.2", "llama-3.3"))
        return Parsers("llama3_json" if calls else "")
    if model_type in _MISTRAL:
        return _mistral(name)
    if model_type == "phi3":
        return Parsers("phi4_mini_json" if "phi-4-mini" in name else "")
    if model_type.startswith("qwen3"):
        return _qwen3(model_type, name)
    if model_type.startswith("olmo3") and "think" in name:
        return Parsers("olmo3", "olmo3")
    return _FAMILIES.get(model_type, Parsers())


def _deepseek(name: str) -> Parsers:
    if "v3.1" in name:
        return Parsers("deepseek_v31", "deepseek_v3")
    return Parsers("deepseek_v3")


def _mistral(name: str) -> Parsers:
    if any(version in name for version in _OLD_MISTRAL):
        return Parsers()
    return Parsers("mistral", "mistral" if "magistral" in name else "")


def _qwen3(model_type: str, name: str) -> Parsers:
    """Coders call tools in their own way; instruct models do not think aloud."""
    family = _FAMILIES.get(model_type, Parsers())
    if "coder" in name:
        return Parsers("qwen3_coder")
    return Parsers(family.tools) if "instruct" in name else family
