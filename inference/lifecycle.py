"""The life of an instance. PURE: one table of transitions.

`desired` is what a person wants and has one writer, the person's verbs on Instance; `state` is
what is observed and has one writer, the reconciler.
"""

from enum import StrEnum

ATTEMPTS = 3  # failed starts of one generation before it is left to a person


class Desired(StrEnum):
    RUNNING = "running"
    ASLEEP = "asleep"  # holds nothing until a request or a person wakes it
    STOPPED = "stopped"
    DELETED = "deleted"


class InstanceState(StrEnum):
    REQUESTED = "requested"
    PROVISIONING = "provisioning"
    LOADING = "loading"
    READY = "ready"
    DEGRADED = "degraded"
    ASLEEP = "asleep"
    STOPPING = "stopping"
    STOPPED = "stopped"
    FAILED = "failed"


class Stage(StrEnum):
    """The detail within provisioning and loading."""

    NONE = ""
    QUEUED = "queued"
    INSTALLING_ENGINE = "installing_engine"
    DOWNLOADING = "downloading"
    STARTING = "starting"
    LOADING = "loading"
    WARMING = "warming"


_S = InstanceState
# The world is looked at now and then, so phases may be skipped: between two looks an engine can be
# asked for, load and be ready. Nothing but a person's request leads back to `requested`.
_UNDERWAY = frozenset(
    {
        *(_S.PROVISIONING, _S.LOADING, _S.READY, _S.DEGRADED),
        *(_S.ASLEEP, _S.STOPPING, _S.STOPPED, _S.FAILED),
    }
)

TRANSITIONS: dict[InstanceState, frozenset[InstanceState]] = {
    _S.REQUESTED: _UNDERWAY,
    _S.PROVISIONING: _UNDERWAY,
    _S.LOADING: _UNDERWAY,
    _S.READY: _UNDERWAY,
    _S.DEGRADED: _UNDERWAY,
    _S.ASLEEP: _UNDERWAY,
    _S.STOPPING: _UNDERWAY,
    _S.STOPPED: _UNDERWAY | {_S.REQUESTED},
    _S.FAILED: _UNDERWAY | {_S.REQUESTED},
}

_FULFILLED: dict[Desired, frozenset[InstanceState]] = {
    Desired.RUNNING: frozenset({_S.READY}),
    Desired.ASLEEP: frozenset({_S.ASLEEP}),
    Desired.STOPPED: frozenset({_S.STOPPED}),
    Desired.DELETED: frozenset(),  # until it is not there any more
}


def settled(desired: Desired, state: InstanceState, attempts: int) -> bool:
    """Whether nothing more will happen by itself.

    A failed start is left to a person; one who asks again sets the count of attempts to 0.
    """
    if desired == Desired.RUNNING and state == InstanceState.FAILED:
        return attempts > 0
    if desired == Desired.RUNNING and state == InstanceState.DEGRADED:
        return attempts >= ATTEMPTS  # some serve, and the others cannot start
    return state in _FULFILLED[desired]


class ForbiddenTransition(Exception):
    """The reconciler asked for a step that the table does not have: a defect, not a condition."""


def transition(current: InstanceState, target: InstanceState) -> InstanceState:
    """`target`, if an instance may go there from `current`. Raises ForbiddenTransition."""
    if target != current and target not in TRANSITIONS[current]:
        raise ForbiddenTransition(f"{current} -> {target}")
    return target
