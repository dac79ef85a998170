"""transformers serve: https://huggingface.co/docs/transformers/serving. PURE.

The light engine for whatever transformers can load: one request after another. It has no metrics;
the launcher counts its requests, so that one can tell when it is idle.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

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
_LAUNCHER = Path(__file__).with_name("transformers_launch.py").read_text()
_CPU_OVERHEAD = GIB  # 444 MB measured with a model of 2 MB, and the tokens of one conversation
_CUDA_OVERHEAD = 6 * GIB  # of the host's memory, as vLLM's

_RECIPES: dict[Variant, Recipe] = {
    "cpu": Recipe(
        name="transformers-cpu",
        version="5.19.0",
        python="3.11",
        distribution="transformers",
        steps=(
            Step(requirements="torch-cpu.txt", extra_index="torch_cpu"),
            Step(requirements="transformers-cpu.txt"),
        ),
        disk_bytes=3 * GIB,
    ),
    "cuda": Recipe(
        name="transformers-cuda",
        version="5.20.2",
        python="3.11",
        distribution="transformers",
        steps=(Step(requirements="transformers-cuda.txt"),),
        disk_bytes=12 * GIB,
    ),
}


class TransformersServe:
    name = "transformers"
    title = "transformers serve"
    good_for = gettext_noop("For models that vLLM does not know: light, one request after another.")
    formats = frozenset({"safetensors"})
    drafting: tuple[str, ...] = ()
    variants: tuple[Variant, ...] = ("cpu", "cuda")
    health_path = "/health"
    models_path = "/v1/models"
    context = Told("/v1/models", ("data", 0, "max_model_len"))
    version = Told("/version", ("version",))
    wire = Wire()
    metrics_path = "/metrics"
    sleep_path = wake_path = ""
    metric_names: Mapping[str, str | tuple[str, ...]] = {
        "running": "transformers_requests_running",
        "requests": "transformers_requests_total",
    }
    settings: tuple[Setting, ...] = (
        Setting(
            name="dtype",
            label=gettext_noop("Number format"),
            help=gettext_noop("How weights are held in memory; automatic follows the model."),
            kind="choice",
            default="auto",
            choices=("auto", "bfloat16", "float16", "float32"),
            group=Group.BASIC,
        ),
        Setting(
            name="reasoning",
            label=gettext_noop("Thinking"),
            help=gettext_noop("For models that can think first; automatic follows the model."),
            kind="choice",
            default="auto",
            choices=("auto", "on", "off"),
            group=Group.TOOLS,
        ),
        Setting(
            name="continuous_batching",
            label=gettext_noop("Several requests at a time"),
            help=gettext_noop("Requests are computed side by side; without, one after another."),
            kind="bool",
            default=False,
            variants=("cuda",),
            group=Group.SPEED,
        ),
    )

    def recipe(self, variant: Variant) -> Recipe:
        return _RECIPES[variant]

    def check(
        self, settings: Mapping[str, object], gpu_count: int | None = None
    ) -> dict[str, SettingValue]:
        if gpu_count is not None and gpu_count > 1:
            raise BadSetting("transformers serve uses one GPU, not several.")
        return checked(self.settings, settings)

    def check_draft(self, settings: Mapping[str, object], draft: str) -> None:
        check_pair(self, settings, draft)

    def command(self, python: str) -> list[str]:
        return [python, "-c", _LAUNCHER]

    def argv(self, launch: Launch, command: list[str]) -> list[str]:
        settings = self.check(launch.settings, len(launch.gpu_indices))
        argv = [
            *command,
            *("--model", launch.model_path),
            *("--name", launch.served_model_name),
            *("--socket", launch.socket),
            *("--device", "cpu" if launch.variant == "cpu" else "cuda:0"),
            *("--dtype", str(settings.get("dtype", "auto"))),
            *("--reasoning", str(settings.get("reasoning", "auto"))),
        ]
        batches = settings.get("continuous_batching") and launch.variant == "cuda"
        return [*argv, "--continuous-batching"] if batches else argv

    def env(self, launch: Launch) -> dict[str, str]:
        return {
            "HF_HUB_OFFLINE": "1",
            "TRANSFORMERS_OFFLINE": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "DO_NOT_TRACK": "1",
            "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
            "CUDA_VISIBLE_DEVICES": ",".join(map(str, launch.gpu_indices)),
        }

    def probe(self, launch: Launch) -> Probe:
        body: dict[str, object] = {
            "model": launch.served_model_name,
            "prompt": "Ready?",
            "max_tokens": 2,
            "temperature": 0,
        }
        return Probe("/v1/completions", body)

    def lora(self, settings: Mapping[str, SettingValue]) -> Lora | None:
        return None

    def chat_probe(self, launch: Launch) -> Probe | None:
        return None

    def endpoints(self, settings: Mapping[str, SettingValue]) -> frozenset[str]:
        return frozenset({"/v1/chat/completions", "/v1/completions", "/v1/responses"})

    def measured(self, lines: Iterable[str]) -> Measured:
        return Measured()  # it does not say

    def stage(self, line: str) -> Stage | None:
        if "Application startup complete" in line:
            return Stage.WARMING
        return Stage.LOADING if "Loading weights" in line else None

    def can_sleep(self, settings: Mapping[str, SettingValue], variant: Variant) -> bool:
        return False

    def memory_bytes(
        self, settings: Mapping[str, SettingValue], variant: Variant, weight_bytes: int
    ) -> int:
        if variant == "cuda":
            return _CUDA_OVERHEAD
        doubled = 2 if settings.get("dtype") == "float32" else 1  # files are 16 bits a weight
        return _CPU_OVERHEAD + doubled * weight_bytes


ENGINE = TransformersServe()
