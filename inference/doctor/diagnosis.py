"""Exit code and end of the log → what is wrong. PURE."""

import signal
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from inference.doctor.codes import FINDINGS, Code
from inference.doctor.signs import CONTEXT, SIGNS
from inference.provisioners.base import Reason

# What a provisioner has said already, where the log adds nothing.
_OF_REASON: dict[str, Code] = {
    Reason.INSUFFICIENT_CAPACITY: Code.NO_ROOM,
    Reason.QUOTA_EXCEEDED: Code.QUOTA,
    Reason.IMAGE_ERROR: Code.ENVIRONMENT,
    Reason.BAD_ARGUMENTS: Code.BAD_SETTING,
    Reason.OUT_OF_MEMORY: Code.HOST_MEMORY,
    Reason.LOAD_TIMEOUT: Code.LOAD_TIMEOUT,
    Reason.NODE_LOST: Code.NODE_LOST,
    Reason.PREEMPTED: Code.ENDED,
    Reason.TIME_LIMIT: Code.TIME_LIMIT,
    Reason.CANCELLED: Code.ENDED,
    Reason.BACKEND_UNREACHABLE: Code.DOWNLOAD,
}
# What somebody else decided: whatever the log holds, it is not why the engine ended.
_DECIDED = frozenset(
    {
        *(Reason.QUOTA_EXCEEDED, Reason.NODE_LOST, Reason.PREEMPTED),
        *(Reason.TIME_LIMIT, Reason.CANCELLED, Reason.LOAD_TIMEOUT),
    }
)


@dataclass(frozen=True)
class Diagnosis:
    code: Code
    facts: Mapping[str, int] = field(default_factory=dict)  # memory in MiB, the rest counted
    said: str = ""  # a place's own sentence, which says more than ours

    @property
    def reason(self) -> str:
        """Of the provisioners' closed set."""
        return FINDINGS[self.code].reason

    @property
    def sentence(self) -> str:
        """For translators: `%(name)s` stands for a fact."""
        return FINDINGS[self.code].sentence

    @property
    def advice(self) -> str:
        return FINDINGS[self.code].advice

    @property
    def message(self) -> str:
        return self.sentence % self.facts

    @property
    def loops(self) -> bool:
        """Whether it came again and again after the engine had been ready (`loops`)."""
        return "deaths" in self.facts


def diagnose(
    exit_code: int | None, log_tail: list[str], *, reason: str = "", message: str = ""
) -> Diagnosis:
    """`exit_code` is negative for a signal, None where nobody was there to see it.

    A kept attempt also has the `reason` and `message` that were given when it ended.
    """
    if reason in _DECIDED:
        return Diagnosis(_OF_REASON[reason], said=message)
    if found := _signed("\n".join(log_tail)):
        return found
    if found := _signed(message):
        return replace(found, said=message)
    if reason in _OF_REASON:
        return Diagnosis(_OF_REASON[reason], said=message)
    return replace(_of_exit_code(exit_code), said=message if exit_code is None else "")


def _signed(text: str) -> Diagnosis | None:
    """What the first sign in it says."""
    for sign in SIGNS:
        if found := sign.pattern.search(text):
            return Diagnosis(sign.code, _context(text) | _facts(found.groupdict()))
    return None


def _of_exit_code(exit_code: int | None) -> Diagnosis:
    if exit_code is None:
        return Diagnosis(Code.LOST)
    if exit_code == -signal.SIGKILL:
        return Diagnosis(Code.KILLED)
    if exit_code == -signal.SIGILL:
        return Diagnosis(Code.PROCESSOR)
    if exit_code < 0:
        return Diagnosis(Code.SIGNAL, {"signal": -exit_code})
    return Diagnosis(Code.EXITED, {"exit_code": exit_code})


def _context(text: str) -> dict[str, int]:
    """The context length that the engine set out to serve."""
    found = CONTEXT.search(text)
    return {"context": int(found[1])} if found else {}


def _facts(found: Mapping[str, str | None]) -> dict[str, int]:
    facts = {}
    for name, value in found.items():
        if value is None:
            continue
        if name.endswith("_gib"):
            facts[name.replace("_gib", "_mib")] = round(float(value) * 1024)
        else:
            facts[name] = int(value)
    return facts
