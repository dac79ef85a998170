"""What a person can have done about a failed start. PURE: the best first.

A remedy that changes something says the whole change, so that a press of a button can do it;
what the engine has no setting for, or would refuse, is never offered.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from inference.doctor.codes import Code, gettext_noop
from inference.doctor.diagnosis import Diagnosis
from inference.engines import ENGINES
from inference.engines.base import BadSetting, Setting, SettingValue

LEAST_CONTEXT = 512  # tokens; shorter ones serve nobody
ROUND = 256  # tokens; suggested contexts are multiples of it
LARGEST_SHARE = 0.95  # of a GPU's memory; the rest is the driver's
LEAST_SHARE = 0.3
USUAL_SHARE = 0.9  # vLLM's own, where nothing is set
FEW_REQUESTS = 16  # at a time; vLLM's own is 256 or more, and each costs memory


class Kind(StrEnum):
    CHANGE = "change"  # other settings, or another number of GPUs, and start
    RETRY = "retry"  # start it again as it is
    ACCESS = "access"  # where the organization's token is entered
    LICENCE = "licence"  # the model's page on the hub
    MODEL = "model"  # the catalogue
    OPERATOR = "operator"  # nothing here helps; tell whoever runs the machines


@dataclass(frozen=True, kw_only=True)
class Remedy:
    name: str  # unique among those offered together
    kind: Kind
    label: str  # for translators: `%(name)s` stands for one of `figures`
    figures: Mapping[str, int | str] = field(default_factory=dict)
    settings: Mapping[str, SettingValue | None] = field(default_factory=dict)  # None: the default
    gpu_count: int | None = None


@dataclass(frozen=True, kw_only=True)
class Situation:
    """What the instance asked for, and what there is."""

    engine: str = "vllm"
    settings: Mapping[str, SettingValue] = field(default_factory=dict)
    gpu_count: int = 0  # 0: it computes on the CPU
    machine_gpus: int = 0  # of the machine with the most
    from_hub: bool = False

    def value(self, name: str) -> SettingValue | None:
        """As it is set, or what holds without."""
        setting = self._setting(name)
        return self.settings.get(name, setting.default if setting else None)

    def accepts(self, remedy: Remedy) -> bool:
        """Whether its change can be made and is one."""
        if remedy.kind is not Kind.CHANGE:
            return True
        if remedy.gpu_count is not None:
            return 0 < remedy.gpu_count <= self.machine_gpus and remedy.gpu_count != self.gpu_count
        return any(
            value != self.settings.get(name) for name, value in remedy.settings.items()
        ) and all(self._takes(name, value) for name, value in remedy.settings.items())

    def changed(self, remedy: Remedy) -> dict[str, SettingValue]:
        """The settings with the remedy's over them."""
        both = {**self.settings, **remedy.settings}
        return {name: value for name, value in both.items() if value is not None}

    def _takes(self, name: str, value: SettingValue | None) -> bool:
        setting = self._setting(name)
        if setting is None:
            return False
        try:
            return value is None or setting.check(value) == value
        except BadSetting:
            return False

    def _setting(self, name: str) -> Setting | None:
        variant = "cuda" if self.gpu_count else "cpu"
        for setting in ENGINES[self.engine].settings:
            if setting.name == name and variant in setting.variants:
                return setting
        return None


RETRY = Remedy(name="retry", kind=Kind.RETRY, label=gettext_noop("Start it again"))
OTHER_MODEL = Remedy(name="model", kind=Kind.MODEL, label=gettext_noop("Choose another model"))
HUB_TOKEN = Remedy(name="hub-token", kind=Kind.ACCESS, label=gettext_noop("Enter a hub token"))
LICENCE = Remedy(
    name="licence", kind=Kind.LICENCE, label=gettext_noop("Accept the licence on the hub")
)
OPERATOR = Remedy(
    name="operator", kind=Kind.OPERATOR, label=gettext_noop("What to tell the operator")
)


def remedies(diagnosis: Diagnosis, situation: Situation) -> list[Remedy]:
    """The best first; never empty, since one can always start it again."""
    offered: dict[str, Remedy] = {}
    for remedy in _BY_CODE.get(diagnosis.code, _again)(diagnosis, situation):
        if situation.accepts(remedy):
            offered.setdefault(remedy.name, remedy)
    offered.setdefault(RETRY.name, RETRY)
    return list(offered.values())


# What helps with what


def _again(diagnosis: Diagnosis, situation: Situation) -> Iterator[Remedy]:
    yield RETRY
    yield OPERATOR


def _gpu_memory(diagnosis: Diagnosis, situation: Situation) -> Iterator[Remedy]:
    yield from _more_gpus(situation)
    yield from _fewer_requests(situation)
    yield from _half_context(diagnosis, situation)
    yield OTHER_MODEL


def _gpu_busy(diagnosis: Diagnosis, situation: Situation) -> Iterator[Remedy]:
    free, total = diagnosis.facts.get("free_mib"), diagnosis.facts.get("total_mib")
    if free and total:
        yield from _share(math.floor(free / total * 100 - 1) / 100)
    yield RETRY
    yield OPERATOR


def _host_memory(diagnosis: Diagnosis, situation: Situation) -> Iterator[Remedy]:
    space = situation.value("kv_cache_gib")
    left = max(1, diagnosis.facts.get("free_mib", 0) // 1024 - 1)  # one for all else
    if isinstance(space, int) and space > left:
        yield _conversations(left)
    yield RETRY
    yield OTHER_MODEL
    yield OPERATOR


def _kv_nothing(diagnosis: Diagnosis, situation: Situation) -> Iterator[Remedy]:
    yield from _larger_share(situation)
    yield from _more_gpus(situation)
    yield from _fewer_requests(situation)
    yield OTHER_MODEL


def _kv_space(diagnosis: Diagnosis, situation: Situation) -> Iterator[Remedy]:
    if longest := diagnosis.facts.get("max_context"):
        yield _context(_rounded(longest))
    else:
        yield from _half_context(diagnosis, situation)
    if needed := diagnosis.facts.get("needed_mib"):
        yield _conversations(math.ceil(needed / 1024))
    yield from _larger_share(situation)
    yield from _more_gpus(situation)


def _own_context(diagnosis: Diagnosis, situation: Situation) -> Iterator[Remedy]:
    if own := diagnosis.facts.get("own_context"):
        yield _context(own)
    else:
        yield Remedy(
            name="own-context",
            kind=Kind.CHANGE,
            label=gettext_noop("Start with the model's own context"),
            settings={"max_model_len": None},
        )


def _gated(diagnosis: Diagnosis, situation: Situation) -> Iterator[Remedy]:
    yield HUB_TOKEN
    yield LICENCE
    yield RETRY


def _no_access(diagnosis: Diagnosis, situation: Situation) -> Iterator[Remedy]:
    yield HUB_TOKEN
    yield OTHER_MODEL


def _other_model(diagnosis: Diagnosis, situation: Situation) -> Iterator[Remedy]:
    yield OTHER_MODEL
    yield OPERATOR


def _damaged(diagnosis: Diagnosis, situation: Situation) -> Iterator[Remedy]:
    if situation.from_hub:
        yield OPERATOR
    yield OTHER_MODEL


def _heads(diagnosis: Diagnosis, situation: Situation) -> Iterator[Remedy]:
    heads = diagnosis.facts.get("heads", 0)
    wanted = diagnosis.facts.get("gpus", situation.gpu_count)
    for count in range(min(wanted - 1, situation.machine_gpus), 0, -1):
        if heads % count == 0:
            yield _gpus(count)
            break
    for count in range(wanted + 1, situation.machine_gpus + 1):
        if heads and heads % count == 0:
            yield _gpus(count)
            break
    yield OTHER_MODEL


def _too_many_gpus(diagnosis: Diagnosis, situation: Situation) -> Iterator[Remedy]:
    yield _gpus(diagnosis.facts.get("gpus") or situation.machine_gpus)
    yield OTHER_MODEL


def _quantization(diagnosis: Diagnosis, situation: Situation) -> Iterator[Remedy]:
    if situation.settings.get("quantization"):
        yield Remedy(
            name="no-quantization",
            kind=Kind.CHANGE,
            label=gettext_noop("Start without quantizing"),
            settings={"quantization": None},
        )
    yield OTHER_MODEL
    yield OPERATOR


def _number_format(diagnosis: Diagnosis, situation: Situation) -> Iterator[Remedy]:
    set_now = situation.value("dtype")
    others = ("bfloat16", "float32") if set_now == "float16" else ("float16", "float32")
    for dtype in others:
        if dtype != set_now:
            yield Remedy(
                name=f"dtype-{dtype}",
                kind=Kind.CHANGE,
                label=gettext_noop("Start with the number format %(dtype)s"),
                figures={"dtype": dtype},
                settings={"dtype": dtype},
            )
    yield OTHER_MODEL


def _other_vocabulary(diagnosis: Diagnosis, situation: Situation) -> Iterator[Remedy]:
    yield Remedy(
        name="no-speculation",
        kind=Kind.CHANGE,
        label=gettext_noop("Start without speculative decoding"),
        settings={"speculation": None, "speculative_tokens": None},  # its draft model goes with it
    )
    yield OPERATOR


def _bad_setting(diagnosis: Diagnosis, situation: Situation) -> Iterator[Remedy]:
    if situation.settings:
        yield Remedy(
            name="default-settings",
            kind=Kind.CHANGE,
            label=gettext_noop("Start with the engine's own settings"),
            settings=dict.fromkeys(situation.settings),
        )
    yield OTHER_MODEL
    yield OPERATOR


def _operator(diagnosis: Diagnosis, situation: Situation) -> Iterator[Remedy]:
    yield OPERATOR
    yield RETRY


# Single changes


def _context(tokens: int) -> Remedy:
    return Remedy(
        name="context",
        kind=Kind.CHANGE,
        label=gettext_noop("Start with a context of %(tokens)s tokens"),
        figures={"tokens": tokens},
        settings={"max_model_len": tokens},
    )


def _half_context(diagnosis: Diagnosis, situation: Situation) -> Iterator[Remedy]:
    now = situation.settings.get("max_model_len") or diagnosis.facts.get("context")
    if isinstance(now, int) and now // 2 >= LEAST_CONTEXT:
        yield _context(_rounded(now // 2))


def _rounded(tokens: int) -> int:
    """Not more than that, and easier to read."""
    return tokens // ROUND * ROUND if tokens >= 4 * ROUND else tokens


def _conversations(gib: int) -> Remedy:
    return Remedy(
        name="conversations",
        kind=Kind.CHANGE,
        label=gettext_noop("Start with %(gib)s GiB for conversations"),
        figures={"gib": gib},
        settings={"kv_cache_gib": gib},
    )


def _larger_share(situation: Situation) -> Iterator[Remedy]:
    now = situation.value("gpu_memory_utilization") or USUAL_SHARE
    if isinstance(now, int | float) and now < LARGEST_SHARE:
        yield from _share(LARGEST_SHARE)


def _share(share: float) -> Iterator[Remedy]:
    if share >= LEAST_SHARE:
        yield Remedy(
            name="gpu-share",
            kind=Kind.CHANGE,
            label=gettext_noop("Start with %(percent)s %% of the GPU's memory"),
            figures={"percent": round(share * 100)},
            settings={"gpu_memory_utilization": share},
        )


def _fewer_requests(situation: Situation) -> Iterator[Remedy]:
    now = situation.value("max_num_seqs")
    if situation.gpu_count and (not isinstance(now, int) or now > FEW_REQUESTS):
        yield Remedy(
            name="requests",
            kind=Kind.CHANGE,
            label=gettext_noop("Start with %(requests)s requests at a time"),
            figures={"requests": FEW_REQUESTS},
            settings={"max_num_seqs": FEW_REQUESTS},
        )


def _more_gpus(situation: Situation) -> Iterator[Remedy]:
    """Twice as many: heads come in powers of two nearly everywhere."""
    if situation.gpu_count:
        yield _gpus(situation.gpu_count * 2)


def _gpus(count: int) -> Remedy:
    return Remedy(
        name=f"gpus-{count}",
        kind=Kind.CHANGE,
        label=gettext_noop("Start on %(gpus)s GPUs")
        if count > 1
        else gettext_noop("Start on one GPU"),
        figures={"gpus": count},
        gpu_count=count,
    )


_BY_CODE: dict[Code, Callable[[Diagnosis, Situation], Iterator[Remedy]]] = {
    Code.GPU_MEMORY: _gpu_memory,
    Code.GPU_BUSY: _gpu_busy,
    Code.HOST_MEMORY: _host_memory,
    Code.KILLED: _host_memory,
    Code.KV_NOTHING: _kv_nothing,
    Code.KV_SPACE: _kv_space,
    Code.OWN_CONTEXT: _own_context,
    Code.GATED: _gated,
    Code.NO_ACCESS: _no_access,
    Code.UNKNOWN_ARCHITECTURE: _other_model,
    Code.NEEDS_CODE: _other_model,
    Code.UNSAFE_WEIGHTS: _other_model,
    Code.NO_TOKENIZER: _other_model,
    Code.NO_CHAT_TEMPLATE: _other_model,
    Code.DAMAGED_WEIGHTS: _damaged,
    Code.HEADS: _heads,
    Code.TOO_MANY_GPUS: _too_many_gpus,
    Code.QUANTIZATION: _quantization,
    Code.NUMBER_FORMAT: _number_format,
    Code.OTHER_VOCABULARY: _other_vocabulary,
    Code.BAD_SETTING: _bad_setting,
    Code.DISK: _operator,
    Code.DRIVER: _operator,
    Code.ENVIRONMENT: _operator,
    Code.QUOTA: _operator,
    Code.NO_ROOM: _again,
}
