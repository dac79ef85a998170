"""The life of an instance. PURE: one table of transitions.

`desired` is what a person wants and has one writer, the person's verbs on Instance; `state` is
what is observed and has one writer, the reconciler.
"""

from enum import StrEnum


class Desired(StrEnum):
    RUNNING = "running"
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

TRANSITIONS: dict[InstanceState, frozenset[InstanceState]] = {
    _S.REQUESTED: frozenset({_S.PROVISIONING, _S.STOPPING, _S.STOPPED, _S.FAILED}),
    _S.PROVISIONING: frozenset({_S.LOADING, _S.READY, _S.STOPPING, _S.STOPPED, _S.FAILED}),
    _S.LOADING: frozenset({_S.PROVISIONING, _S.READY, _S.STOPPING, _S.STOPPED, _S.FAILED}),
    _S.READY: frozenset(
        {_S.DEGRADED, _S.ASLEEP, _S.PROVISIONING, _S.LOADING, _S.STOPPING, _S.STOPPED, _S.FAILED}
    ),
    _S.DEGRADED: frozenset(
        {_S.READY, _S.PROVISIONING, _S.LOADING, _S.STOPPING, _S.STOPPED, _S.FAILED}
    ),
    _S.ASLEEP: frozenset({_S.PROVISIONING, _S.LOADING, _S.READY, _S.STOPPING, _S.STOPPED}),
    _S.STOPPING: frozenset({_S.STOPPED, _S.PROVISIONING, _S.FAILED}),
    _S.STOPPED: frozenset({_S.REQUESTED, _S.PROVISIONING}),
    _S.FAILED: frozenset({_S.REQUESTED, _S.PROVISIONING, _S.STOPPING, _S.STOPPED}),
}

SETTLED = frozenset({_S.READY, _S.ASLEEP, _S.STOPPED, _S.FAILED})


class ForbiddenTransition(Exception):
    """The reconciler asked for a step that the table does not have: a defect, not a condition."""


def transition(current: InstanceState, target: InstanceState) -> InstanceState:
    """`target`, if an instance may go there from `current`. Raises ForbiddenTransition."""
    if target != current and target not in TRANSITIONS[current]:
        raise ForbiddenTransition(f"{current} -> {target}")
    return target
