"""What the reconciler decides, by tables: a look in, actions out."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from inference.lifecycle import Desired, InstanceState, Stage, settled, transition
from inference.lifecycle import ForbiddenTransition as Forbidden
from inference.provisioners.base import Observed, Phase, Reason
from inference.reconciler.decision import (
    ATTEMPTS,
    BLAMELESS,
    CIRCUMSTANCES,
    HOPELESS,
    LONGEST_BACKOFF,
    Action,
    Bury,
    Create,
    End,
    Ensure,
    MarkReady,
    Remove,
    ReplicaView,
    SayUnreachable,
    Show,
    Stop,
    Unmark,
    View,
    backoff,
    decide,
)

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
LATER = NOW + timedelta(seconds=30)
AT = "unix:/run/engine.sock"

WANTED = View(
    desired=Desired.RUNNING, generation=2, state=InstanceState.PROVISIONING, now=NOW, replica=None
)
STOPPED = replace(WANTED, desired=Desired.STOPPED)
DELETED = replace(WANTED, desired=Desired.DELETED)
COMING = ReplicaView(generation=2, asked_for=True)
SERVING = ReplicaView(generation=2, asked_for=True, serving=True, has_been_ready=True, address=AT)
OLD = replace(SERVING, generation=1)
GONE = replace(COMING, gone=True)


def seen(phase: Phase, **more: Any) -> Observed:
    return Observed(phase=phase, **more)


def ended(reason: Reason | None = None, code: int = 1) -> Observed:
    return seen(Phase.EXITED, reason=reason, exit_code=code, message="It ended.")


def names(actions: list[Action]) -> list[str]:
    return [type(action).__name__ for action in actions]


@pytest.mark.parametrize(
    ("view", "expected"),
    [
        # Nothing runs.
        (WANTED, ["Create", "Show", "Ensure"]),
        (replace(WANTED, replica=GONE, observed=seen(Phase.GONE)), ["Create", "Show", "Ensure"]),
        (replace(WANTED, replica=GONE, observed=ended()), ["Remove", "Create", "Show", "Ensure"]),
        (replace(WANTED, replica=GONE, observed=seen(Phase.READY)), ["Remove"]),
        (replace(WANTED, retry_at=LATER), []),
        (replace(WANTED, retry_at=NOW), ["Create", "Show", "Ensure"]),
        (replace(WANTED, state=InstanceState.FAILED, attempts=3), []),
        (replace(WANTED, state=InstanceState.FAILED, attempts=0), ["Create", "Show", "Ensure"]),
        (STOPPED, ["Show"]),
        (DELETED, ["Bury"]),
        (replace(DELETED, retry_at=LATER), ["Bury"]),
        (replace(DELETED, state=InstanceState.FAILED, attempts=3), ["Bury"]),
        (replace(DELETED, replica=GONE, observed=ended()), ["Remove"]),
        (replace(DELETED, replica=GONE, observed=seen(Phase.STOPPING)), ["Remove"]),
        (replace(DELETED, replica=GONE, observed=seen(Phase.GONE)), ["Bury"]),
        # It is on its way.
        (replace(WANTED, replica=COMING, observed=seen(Phase.PROVISIONING)), ["Show"]),
        (replace(WANTED, replica=COMING, observed=seen(Phase.LOADING)), ["Show"]),
        (replace(WANTED, replica=COMING, observed=seen(Phase.STOPPING)), []),
        (replace(WANTED, replica=COMING, observed=seen(Phase.READY)), ["MarkReady", "Show"]),
        # It serves, and may cease to.
        (replace(WANTED, replica=SERVING, observed=seen(Phase.READY, address=AT)), ["Show"]),
        (
            replace(WANTED, replica=SERVING, observed=seen(Phase.READY, address="unix:/elsewhere")),
            ["MarkReady", "Show"],
        ),
        (replace(WANTED, replica=SERVING, observed=seen(Phase.DEGRADED)), ["Unmark", "Show"]),
        (replace(WANTED, replica=SERVING, observed=seen(Phase.LOADING)), ["Unmark", "Show"]),
        (replace(WANTED, replica=SERVING, observed=seen(Phase.STOPPING)), ["Unmark"]),
        (replace(WANTED, replica=SERVING, observed=ended()), ["End", "Show"]),
        # The row is there; whether the place was asked is not known.
        (
            replace(WANTED, replica=ReplicaView(generation=2), observed=seen(Phase.GONE)),
            ["Ensure"],
        ),
        (
            replace(
                WANTED, replica=ReplicaView(generation=2), observed=seen(Phase.GONE), retry_at=LATER
            ),
            [],
        ),
        (replace(WANTED, replica=COMING, observed=seen(Phase.GONE)), ["End", "Show"]),
        # It is not wanted any more.
        (replace(STOPPED, replica=SERVING, observed=seen(Phase.READY)), ["Stop", "Show"]),
        (replace(STOPPED, replica=COMING, observed=seen(Phase.PROVISIONING)), ["Stop", "Show"]),
        (replace(STOPPED, replica=SERVING, observed=ended()), ["End", "Show"]),
        (replace(STOPPED, replica=SERVING, observed=seen(Phase.GONE)), ["End", "Show"]),
        (replace(DELETED, replica=SERVING, observed=seen(Phase.READY)), ["Stop", "Show"]),
        (replace(DELETED, replica=SERVING, observed=ended()), ["End"]),
        # Another generation is wanted.
        (replace(WANTED, replica=OLD, observed=seen(Phase.READY)), ["Stop", "Show"]),
        (replace(WANTED, replica=OLD, observed=seen(Phase.STOPPING)), ["Stop", "Show"]),
        (replace(WANTED, replica=OLD, observed=ended()), ["End"]),
    ],
)
def test_steps(view: View, expected: list[str]) -> None:
    assert names(decide(view)) == expected


@pytest.mark.parametrize("desired", Desired)
@pytest.mark.parametrize("replica", [COMING, SERVING, OLD, ReplicaView(generation=2)])
def test_where_the_place_cannot_be_reached_nothing_is_touched(
    desired: Desired, replica: ReplicaView
) -> None:
    view = replace(WANTED, desired=desired, replica=replica, unreachable=True)
    assert decide(view) == [SayUnreachable()]


@pytest.mark.parametrize(
    ("view", "expected"),
    [
        (replace(WANTED, replica=GONE), [SayUnreachable()]),
        (replace(DELETED, replica=GONE), [SayUnreachable()]),  # gone must be seen to be said
        (replace(STOPPED, replica=GONE), [Show(InstanceState.STOPPED)]),
        (replace(WANTED, replica=GONE, state=InstanceState.FAILED, attempts=3), []),
    ],
)
def test_a_place_out_of_reach_does_not_concern_what_holds_nothing_there(
    view: View, expected: list[Action]
) -> None:
    assert decide(replace(view, unreachable=True)) == expected


@pytest.mark.parametrize("reason", Reason)
def test_each_reason_leads_to_another_start_or_to_a_person(reason: Reason) -> None:
    view = replace(WANTED, replica=COMING, observed=ended(reason))
    end, shown = decide(view)
    assert end == End(reason, 1)
    assert isinstance(shown, Show)
    assert (shown.reason, shown.message) == (reason, "It ended.")
    if reason in HOPELESS:
        assert shown.state == InstanceState.FAILED
        return
    assert (shown.state, shown.stage) == (InstanceState.PROVISIONING, Stage.QUEUED)
    counted = reason not in BLAMELESS | CIRCUMSTANCES
    assert shown.attempts == (1 if counted else None)
    assert (shown.retry_at is None) == (reason in BLAMELESS)


def test_a_start_that_fails_is_tried_with_growing_pauses_and_then_left_to_a_person() -> None:
    view = replace(WANTED, replica=COMING, observed=ended(Reason.CRASHED))
    pauses = []
    for attempt in range(1, ATTEMPTS):
        _, shown = decide(view)
        assert isinstance(shown, Show)
        assert shown.attempts == attempt
        assert shown.retry_at
        pauses.append((shown.retry_at - NOW).total_seconds())
        view = replace(view, attempts=attempt)
    assert pauses == [1.0, 2.0]
    _, shown = decide(view)
    assert shown == Show(
        InstanceState.FAILED, reason=Reason.CRASHED, message="It ended.", attempts=ATTEMPTS
    )
    assert backoff(99) == LONGEST_BACKOFF


@pytest.mark.parametrize("reason", [Reason.CRASHED, Reason.OUT_OF_MEMORY])
@pytest.mark.parametrize("attempts", [0, ATTEMPTS - 1, 50])
def test_an_engine_that_has_served_always_comes_back_soon(reason: Reason, attempts: int) -> None:
    view = replace(WANTED, replica=SERVING, observed=ended(reason, -9), attempts=attempts)
    end, shown = decide(view)
    assert end == End(reason, -9)
    assert isinstance(shown, Show)
    assert (shown.state, shown.attempts) == (InstanceState.PROVISIONING, 1)
    assert shown.retry_at == NOW + timedelta(seconds=1)


@pytest.mark.parametrize("reason", CIRCUMSTANCES)
def test_bad_circumstances_never_use_up_the_attempts(reason: Reason) -> None:
    view = replace(WANTED, replica=COMING, observed=ended(reason), attempts=ATTEMPTS - 1)
    _, shown = decide(view)
    assert isinstance(shown, Show)
    assert (shown.state, shown.attempts) == (InstanceState.PROVISIONING, None)


def test_ready_wipes_the_slate() -> None:
    view = replace(WANTED, replica=COMING, observed=seen(Phase.READY, address=AT), attempts=2)
    assert decide(view) == [MarkReady(), Show(InstanceState.READY, attempts=0)]


def test_stages_and_sentences_are_the_places_own() -> None:
    observed = seen(Phase.PROVISIONING, stage=Stage.DOWNLOADING, message="Downloading.")
    view = replace(WANTED, replica=COMING, observed=observed)
    assert decide(view) == [
        Show(InstanceState.PROVISIONING, Stage.DOWNLOADING, message="Downloading.")
    ]


def test_everything_that_may_be_seen_has_an_answer() -> None:
    """All looks there are: no exception, no second engine, no request to what is not ready."""
    replicas = [None, GONE, COMING, SERVING, OLD, ReplicaView(generation=2)]
    observations = [None, *(seen(phase) for phase in Phase)]
    for desired in Desired:
        for state in InstanceState:
            for replica in replicas:
                for observed in observations:
                    view = replace(
                        WANTED, desired=desired, state=state, replica=replica, observed=observed
                    )
                    actions = decide(view)
                    lives = replica is not None and not replica.gone
                    assert not (lives and Create() in actions)
                    if MarkReady() in actions:
                        assert observed is not None
                        assert observed.phase == Phase.READY
                        assert replica is not None
                        assert replica.generation == view.generation
                    if Bury() in actions:
                        assert observed is None or observed.phase == Phase.GONE
                    for action in actions:
                        if isinstance(action, Show):
                            transition(state, action.state)


def test_steps_are_values() -> None:
    """So that tests and logs can tell one from another."""
    assert Ensure() == Ensure() != Remove()
    assert len({Stop(), Stop(), Unmark()}) == 2


@pytest.mark.parametrize(
    ("desired", "state", "attempts", "expected"),
    [
        (Desired.RUNNING, InstanceState.READY, 0, True),
        (Desired.ASLEEP, InstanceState.ASLEEP, 0, True),
        (Desired.RUNNING, InstanceState.ASLEEP, 0, False),
        (Desired.RUNNING, InstanceState.DEGRADED, 0, False),
        (Desired.RUNNING, InstanceState.STOPPED, 0, False),  # a start was asked for just now
        (Desired.RUNNING, InstanceState.FAILED, 3, True),
        (Desired.RUNNING, InstanceState.FAILED, 0, False),
        (Desired.STOPPED, InstanceState.STOPPED, 0, True),
        (Desired.STOPPED, InstanceState.READY, 0, False),
        (Desired.DELETED, InstanceState.STOPPED, 0, False),
    ],
)
def test_settled(desired: Desired, state: InstanceState, attempts: int, expected: bool) -> None:
    assert settled(desired, state, attempts) is expected


def test_nothing_observed_leads_back_to_requested() -> None:
    with pytest.raises(Forbidden):
        transition(InstanceState.READY, InstanceState.REQUESTED)
