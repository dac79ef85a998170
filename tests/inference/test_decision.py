"""What the reconciler decides, by tables: a look in, actions out."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Any

import pytest

from inference.lifecycle import ATTEMPTS, Desired, InstanceState, Stage, settled, transition
from inference.lifecycle import ForbiddenTransition as Forbidden
from inference.provisioners.base import Observed, Phase, Reason
from inference.reconciler import crashes
from inference.reconciler.decision import (
    BLAMELESS,
    CIRCUMSTANCES,
    FEWER,
    HASTE,
    HOPELESS,
    LONGEST_BACKOFF,
    backoff,
    decide,
)
from inference.reconciler.steps import (
    APPROVAL,
    Action,
    Bury,
    Create,
    End,
    Ensure,
    FallAsleep,
    GiveUp,
    MarkReady,
    Remove,
    ReplicaView,
    Restore,
    SayUnreachable,
    Show,
    Stop,
    Unmark,
    View,
    Wake,
)

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
LATER = NOW + timedelta(seconds=30)
AT = "unix:/run/engine.sock"

WANTED = View(desired=Desired.RUNNING, generation=2, state=InstanceState.PROVISIONING, now=NOW)
STOPPED = replace(WANTED, desired=Desired.STOPPED)
ASLEEP = replace(WANTED, desired=Desired.ASLEEP)
DELETED = replace(WANTED, desired=Desired.DELETED)
NEW = ReplicaView(id="a", generation=2)  # the row is there; whether the place was asked: unknown
COMING = replace(NEW, asked_for=True)
SERVING = replace(COMING, serving=True, has_been_ready=True, address=AT)
OLD = replace(SERVING, id="o", generation=1)


def seen(phase: Phase, **more: Any) -> Observed:
    return Observed(phase=phase, **more)


def ended(reason: Reason | None = None, code: int = 1) -> Observed:
    return seen(Phase.EXITED, reason=reason, exit_code=code, message="It ended.")


UP = seen(Phase.READY, address=AT)
DOZY = seen(Phase.READY, address=AT, can_sleep=True)
RESTING = seen(Phase.ASLEEP)
DOZING = replace(SERVING, serving=False, asleep=True)
GONE = ("g", Phase.GONE)


def of(view: View, *replicas: tuple[ReplicaView, Observed | None], **more: Any) -> View:
    """The view with these replicas, and what is seen of each."""
    looks = tuple(replace(replica, observed=observed) for replica, observed in replicas)
    return replace(view, replicas=looks, **more)


def names(actions: list[Action]) -> list[str]:
    return [type(action).__name__ for action in actions]


@pytest.mark.parametrize(
    ("view", "expected"),
    [
        # Nothing runs.
        (WANTED, ["Create", "Show"]),
        (replace(WANTED, ghosts=(("g", Phase.EXITED),)), ["Remove", "Create", "Show"]),
        (replace(WANTED, ghosts=(("g", Phase.READY),)), ["Remove", "Show"]),
        (replace(WANTED, retry_at=LATER), []),
        (replace(WANTED, retry_at=NOW), ["Create", "Show"]),
        (replace(WANTED, state=InstanceState.FAILED, attempts=3), []),
        (replace(WANTED, state=InstanceState.FAILED, attempts=0), ["Create", "Show"]),
        (replace(WANTED, wanted=3), ["Create", "Create", "Create", "Show"]),
        (STOPPED, ["Show"]),
        (ASLEEP, ["Show"]),
        (DELETED, ["Bury"]),
        (replace(DELETED, retry_at=LATER), ["Bury"]),
        (replace(DELETED, state=InstanceState.FAILED, attempts=3), ["Bury"]),
        (replace(DELETED, ghosts=(("g", Phase.EXITED),)), ["Remove"]),
        (replace(DELETED, ghosts=(("g", Phase.STOPPING),)), ["Remove"]),
        # It is on its way.
        (of(WANTED, (COMING, seen(Phase.PROVISIONING))), ["Show"]),
        (of(WANTED, (COMING, seen(Phase.LOADING))), ["Show"]),
        (of(WANTED, (COMING, seen(Phase.STOPPING))), []),
        (of(WANTED, (COMING, seen(Phase.READY))), ["MarkReady", "Show"]),
        # It serves, and may cease to.
        (of(WANTED, (SERVING, UP)), ["Show"]),
        (of(WANTED, (SERVING, seen(Phase.READY, address="unix:/else"))), ["MarkReady", "Show"]),
        (of(WANTED, (SERVING, seen(Phase.DEGRADED))), ["Unmark", "Show"]),
        (of(WANTED, (SERVING, seen(Phase.LOADING))), ["Unmark", "Show"]),
        (of(WANTED, (SERVING, seen(Phase.STOPPING))), ["Unmark"]),
        (of(WANTED, (SERVING, ended())), ["End", "Create", "Show"]),
        # The row is there; whether the place was asked is not known.
        (of(WANTED, (NEW, None)), ["Ensure"]),
        (of(WANTED, (NEW, seen(Phase.GONE)), retry_at=LATER), []),
        (of(WANTED, (COMING, seen(Phase.GONE))), ["End", "Show"]),
        # It sleeps at hand, where its place can keep it so.
        (of(ASLEEP, (SERVING, DOZY)), ["Rest", "Show"]),
        (of(ASLEEP, (DOZING, seen(Phase.STOPPING))), ["Show"]),
        (of(ASLEEP, (DOZING, RESTING)), ["Show"]),
        (of(ASLEEP, (DOZING, DOZY)), ["Rest", "Show"]),  # it was not heard
        (of(ASLEEP, (DOZING, ended(Reason.PREEMPTED))), ["End", "Show"]),
        (of(ASLEEP, (replace(DOZING, evicted=True), RESTING)), ["Stop", "Show"]),
        (of(ASLEEP, (replace(DOZING, generation=1), RESTING)), ["Stop", "Show"]),
        (of(ASLEEP, (replace(DOZING, index=1), RESTING)), ["Stop", "Show"]),
        (of(STOPPED, (DOZING, RESTING)), ["Stop", "Show"]),
        (of(DELETED, (DOZING, RESTING)), ["Stop", "Show"]),
        (of(WANTED, (DOZING, RESTING)), ["Rouse"]),
        (of(WANTED, (DOZING, seen(Phase.STOPPING))), []),  # it is still falling asleep
        (of(WANTED, (DOZING, seen(Phase.LOADING))), ["Show"]),
        (of(WANTED, (DOZING, UP)), ["MarkReady", "Show"]),
        (of(WANTED, (DOZING, ended(Reason.PREEMPTED))), ["End", "Show"]),
        (of(WANTED, (replace(DOZING, generation=1), RESTING)), ["Stop", "Show"]),
        # It is not wanted any more.
        (of(STOPPED, (SERVING, UP)), ["Stop", "Show"]),
        (of(ASLEEP, (SERVING, UP)), ["Stop", "Show"]),
        (of(STOPPED, (COMING, seen(Phase.PROVISIONING))), ["Stop", "Show"]),
        (of(STOPPED, (SERVING, ended())), ["End", "Show"]),
        (of(STOPPED, (SERVING, seen(Phase.GONE))), ["End", "Show"]),
        (of(DELETED, (SERVING, UP)), ["Stop", "Show"]),
        (of(DELETED, (SERVING, ended())), ["End"]),
        # An operator has something to say.
        (replace(WANTED, open=False), ["Show"]),
        (replace(WANTED, approval="pending"), ["Show"]),
        (replace(WANTED, approval="pending", message=APPROVAL), []),
        (replace(WANTED, approval="refused"), ["Show"]),
        (of(WANTED, (replace(SERVING, evicted=True), UP), open=False), ["Stop", "Show"]),
    ],
)
def test_steps(view: View, expected: list[str]) -> None:
    assert names(decide(view)) == expected


# Another generation comes in


def test_a_new_generation_comes_in_beside_the_one_that_serves() -> None:
    view = of(replace(WANTED, state=InstanceState.READY), (OLD, UP))
    assert decide(view) == [Create(0), Show(InstanceState.READY)]
    coming = of(view, (OLD, UP), (COMING, seen(Phase.LOADING, stage=Stage.LOADING)))
    assert decide(coming) == [Show(InstanceState.READY, Stage.LOADING, of="a")]
    marked = of(view, (OLD, UP), (COMING, UP))
    assert "Stop" not in names(decide(marked))  # first the gateway must know of it
    there = of(view, (OLD, UP), (SERVING, UP))
    assert decide(there)[0] == Stop("o")


def test_several_replicas_take_turns() -> None:
    olds = [replace(OLD, id=f"o{n}", index=n) for n in range(3)]
    view = replace(WANTED, wanted=3, state=InstanceState.READY)
    both = [(old, UP) for old in olds]
    assert names(decide(of(view, *both))) == ["Create", "Show"]
    one_ready = of(view, *both, (SERVING, UP))
    stopped = [action for action in decide(one_ready) if isinstance(action, Stop)]
    assert stopped == [Stop("o2")]
    two_left = of(view, *both[:2], (SERVING, UP))
    assert names(decide(two_left)) == ["Create", "Show"]


def test_where_there_is_no_room_for_both_one_of_several_makes_room_and_a_single_one_stays() -> None:
    full = {"rollout_reason": Reason.INSUFFICIENT_CAPACITY, "state": InstanceState.READY}
    olds = [(replace(OLD, id=f"o{n}", index=n), UP) for n in range(2)]
    several = of(WANTED, *olds, (NEW, None), wanted=2, **full)
    assert Stop("o1") in decide(several)
    single = of(WANTED, (OLD, UP), (NEW, None), **full)
    assert not [action for action in decide(single) if isinstance(action, Stop)]


def test_at_once_means_that_the_old_one_ends_first() -> None:
    view = of(replace(WANTED, at_once=True), (OLD, UP))
    assert names(decide(view)) == ["Stop", "Show"]
    ending = of(view, (replace(OLD, stopping=True), seen(Phase.STOPPING)))
    assert "Create" not in names(decide(ending))
    assert names(decide(of(view))) == ["Create", "Show"]


@pytest.mark.parametrize("reason", sorted(HOPELESS))
def test_a_revision_that_cannot_start_leaves_the_old_one_serving_and_says_why(
    reason: Reason,
) -> None:
    view = of(replace(WANTED, state=InstanceState.READY), (OLD, UP), (COMING, ended(reason)))
    end, gave_up, shown = decide(view)
    assert end == End("a", reason, "It ended.", 1)
    assert gave_up == GiveUp(reason, "It ended.")
    assert isinstance(shown, Show)
    assert (shown.state, shown.reason, shown.attempts) == (InstanceState.READY, "", ATTEMPTS)
    assert (shown.rollout_reason, shown.rollout_message) == (reason, "It ended.")
    after = replace(of(view, (OLD, UP)), attempts=ATTEMPTS, rollout_reason=reason)
    assert decide(after) == [Show(InstanceState.READY, rollout_reason=reason)]  # and stays so


def test_what_served_before_comes_back_where_it_was_replaced_at_once() -> None:
    view = of(WANTED, (COMING, ended(Reason.OUT_OF_MEMORY)), at_once=True, restorable=True)
    assert names(decide(view)) == ["End", "GiveUp", "Restore"]
    later = replace(WANTED, at_once=True, restorable=True, attempts=ATTEMPTS)
    assert decide(later) == [Restore()]
    assert Restore() not in decide(replace(view, at_once=False))


def test_an_old_one_that_dies_while_the_new_one_cannot_start_is_restored() -> None:
    view = replace(WANTED, attempts=ATTEMPTS, rollout_reason=Reason.CRASHED, restorable=True)
    assert names(decide(of(view, (OLD, ended(Reason.CRASHED))))) == ["End", "Restore"]


# Several replicas


def test_fewer_than_wanted_is_said() -> None:
    second = replace(COMING, id="b", index=1)
    view = of(WANTED, (SERVING, UP), (second, seen(Phase.LOADING, stage=Stage.LOADING)), wanted=2)
    shown = decide(view)[-1]
    assert shown == Show(InstanceState.DEGRADED, Stage.LOADING, message=FEWER, of="b")
    crashed = of(view, (SERVING, UP), (second, ended(Reason.CRASHED)))
    shown = decide(crashed)[-1]
    assert isinstance(shown, Show)
    assert (shown.state, shown.reason) == (InstanceState.DEGRADED, Reason.CRASHED)
    assert shown.retry_at is not None


def test_one_too_many_is_stopped() -> None:
    second = replace(SERVING, id="b", index=1)
    assert decide(of(WANTED, (SERVING, UP), (second, UP)))[0] == Stop("b")


# Sleep


IDLE = seen(Phase.READY, address=AT, idle_since=NOW - timedelta(minutes=10))


def test_it_falls_asleep_when_nobody_has_asked_for_long_enough() -> None:
    view = replace(WANTED, state=InstanceState.READY, sleep_after=timedelta(minutes=10))
    assert FallAsleep() in decide(of(view, (SERVING, IDLE)))
    longer = replace(view, sleep_after=timedelta(minutes=11))
    for busy in (
        of(view, (SERVING, UP)),  # it computes
        of(longer, (SERVING, IDLE)),
        of(view, (SERVING, IDLE), (replace(SERVING, id="b", index=1), UP), wanted=2),
        of(view, (OLD, IDLE), (COMING, seen(Phase.LOADING))),
        of(replace(view, sleep_after=None), (SERVING, IDLE)),
    ):
        assert "FallAsleep" not in names(decide(busy))


def test_the_schedule_puts_to_sleep_at_its_hour_and_wakes() -> None:
    view = replace(WANTED, sleep_after=timedelta(minutes=10), night_since=NOW)
    from_the_day = replace(SERVING, began_at=NOW - timedelta(seconds=1))
    assert FallAsleep(by_schedule=True) in decide(of(view, (from_the_day, UP)))
    coming = replace(COMING, began_at=NOW - timedelta(seconds=1))
    assert FallAsleep(by_schedule=True) in decide(of(view, (coming, seen(Phase.LOADING))))
    woken = replace(SERVING, began_at=NOW)
    assert "FallAsleep" not in names(decide(of(view, (woken, UP))))
    assert FallAsleep(by_schedule=True) in decide(of(view, (woken, IDLE)))
    asleep = replace(ASLEEP, state=InstanceState.ASLEEP, sleeps_by_schedule=True)
    assert decide(replace(asleep, night_since=NOW)) == [Show(InstanceState.ASLEEP)]
    assert decide(asleep) == [Wake()]
    assert decide(replace(asleep, sleeps_by_schedule=False)) == [Show(InstanceState.ASLEEP)]


def test_answers_under_way_have_long_where_nobody_waits_for_the_end() -> None:
    patient = Stop("a").grace
    assert decide(of(ASLEEP, (SERVING, UP)))[0] == Stop("a", patient)
    assert patient > HASTE
    for view in (STOPPED, DELETED):
        assert decide(of(view, (SERVING, UP)))[0] == Stop("a", HASTE)
    assert decide(of(replace(WANTED, at_once=True), (OLD, UP)))[0] == Stop("o", HASTE)


# Out of reach


@pytest.mark.parametrize("desired", Desired)
@pytest.mark.parametrize("replica", [COMING, SERVING, OLD, NEW])
def test_where_the_place_cannot_be_reached_nothing_is_touched(
    desired: Desired, replica: ReplicaView
) -> None:
    view = of(WANTED, (replica, None), desired=desired, unreachable=True)
    assert decide(view) == [SayUnreachable()]


@pytest.mark.parametrize(
    ("view", "expected"),
    [
        (WANTED, [SayUnreachable()]),
        (DELETED, [SayUnreachable()]),  # gone must be seen to be said
        (STOPPED, [Show(InstanceState.STOPPED)]),
        (ASLEEP, [Show(InstanceState.ASLEEP)]),
        (replace(WANTED, state=InstanceState.FAILED, attempts=3), []),
    ],
)
def test_a_place_out_of_reach_does_not_concern_what_holds_nothing_there(
    view: View, expected: list[Action]
) -> None:
    assert decide(replace(view, unreachable=True)) == expected


# Failed starts


@pytest.mark.parametrize("reason", Reason)
def test_each_reason_leads_to_another_start_or_to_a_person(reason: Reason) -> None:
    actions = decide(of(WANTED, (COMING, ended(reason))))
    end, shown = actions[0], actions[-1]
    assert end == End("a", reason, "It ended.", 1)
    assert isinstance(shown, Show)
    assert (shown.reason, shown.message) == (reason, "It ended.")
    if reason in HOPELESS:
        assert shown.state == InstanceState.FAILED
        assert actions[1] == GiveUp(reason, "It ended.")
        return
    assert len(actions) == 2
    assert (shown.state, shown.stage) == (InstanceState.PROVISIONING, Stage.QUEUED)
    counted = reason not in BLAMELESS | CIRCUMSTANCES
    assert shown.attempts == (1 if counted else None)
    assert (shown.retry_at is None) == (reason in BLAMELESS)


def test_a_start_that_fails_is_tried_with_growing_pauses_and_then_left_to_a_person() -> None:
    view = of(WANTED, (COMING, ended(Reason.CRASHED)))
    pauses = []
    for attempt in range(1, ATTEMPTS):
        shown = decide(view)[-1]
        assert isinstance(shown, Show)
        assert shown.attempts == attempt
        assert shown.retry_at
        pauses.append((shown.retry_at - NOW).total_seconds())
        view = replace(view, attempts=attempt)
    assert pauses == [1.0, 2.0]
    assert decide(view)[-1] == Show(
        InstanceState.FAILED, reason=Reason.CRASHED, message="It ended.", attempts=ATTEMPTS
    )
    assert backoff(99) == LONGEST_BACKOFF


# Deaths of engines that had been ready


def died(*minutes_ago: float, start_seconds: int | None = 40, **more: Any) -> View:
    """One that has served is dead, and so many before it in its place were."""
    before = tuple(NOW - timedelta(minutes=ago) for ago in minutes_ago)
    view = replace(WANTED, state=InstanceState.READY, start_seconds=start_seconds, **more)
    return of(view, (replace(SERVING, died=before), ended(Reason.CRASHED, -9)))


@pytest.mark.parametrize("reason", [Reason.CRASHED, Reason.OUT_OF_MEMORY])
@pytest.mark.parametrize("attempts", [0, ATTEMPTS - 1, 50])
def test_an_engine_that_has_served_comes_back_at_once(reason: Reason, attempts: int) -> None:
    view = of(WANTED, (SERVING, ended(reason, -9)), attempts=attempts)
    actions = decide(replace(view, attempts=0))
    assert actions[:2] == [End("a", reason, "It ended.", -9), Create(0)]
    shown = decide(view)[-1]
    assert isinstance(shown, Show)
    assert (shown.state, shown.attempts) == (InstanceState.PROVISIONING, 0)
    assert shown.retry_at is None


@pytest.mark.parametrize(
    ("minutes_ago", "pause"),
    [
        ((), None),
        ((2, 4), None),  # the third within ten minutes
        ((2, 4, 6), 1.0),
        ((2, 4, 6, 8), 2.0),
        ((11, 12, 13, 14, 15, 16), None),  # whoever serves for ten minutes has a clean slate
        ((9, 11, 13, 15, 17, 19), None),
        ([3.5 * n for n in range(1, 20)], None),  # killed twenty times, and served in between
    ],
)
def test_pauses_grow_with_the_deaths_within_ten_minutes(
    minutes_ago: tuple[float, ...], pause: float | None
) -> None:
    shown = decide(died(*minutes_ago))[-1]
    assert isinstance(shown, Show)
    assert shown.state == InstanceState.PROVISIONING
    waits = (shown.retry_at - NOW).total_seconds() if shown.retry_at else None
    assert waits == pause


def test_what_dies_again_and_again_is_left_to_a_person_with_the_reason() -> None:
    end, gave_up, shown = decide(died(0.5, 1, 1.5, 2, 2.5))
    assert end == End("a", Reason.CRASHED, "It ended.", -9)
    said = "It started and died 6 times within 3 min. It ended."
    assert gave_up == GiveUp(Reason.CRASHED, said)
    assert shown == Show(InstanceState.FAILED, Stage.NONE, Reason.CRASHED, said, ATTEMPTS)
    assert crashes.MOST == 6


def test_what_takes_long_to_start_has_a_longer_window() -> None:
    """Else an engine that starts for five minutes could die for ever."""
    deaths = [6.0 * n for n in range(1, 6)]
    assert names(decide(died(*deaths, start_seconds=300)))[1] == "GiveUp"
    assert names(decide(died(*deaths, start_seconds=None)))[1] == "Create"
    served = [18.0 * n for n in range(1, 20)]
    assert names(decide(died(*served, start_seconds=300)))[1] == "Create"


def test_a_death_among_others_that_die_again_and_again_is_not_their_fault() -> None:
    """One of two loops, the other dies for the first time at the same look."""
    looping = replace(SERVING, died=tuple(NOW - timedelta(minutes=n) for n in range(1, 6)))
    other = replace(SERVING, id="b", index=1)
    for replicas in ((looping, other), (other, looping)):
        view = of(WANTED, *((one, ended(Reason.CRASHED)) for one in replicas), wanted=2)
        assert names(decide(view)) == ["End", "End", "Create", "Create", "Show"]


def test_one_that_dies_again_and_again_leaves_the_others_serving() -> None:
    looping = replace(SERVING, died=tuple(NOW - timedelta(minutes=n) for n in range(1, 6)))
    other = replace(SERVING, id="b", index=1)
    view = of(WANTED, (looping, ended(Reason.CRASHED)), (other, UP), wanted=2)
    *_, shown = decide(view)
    assert isinstance(shown, Show)
    assert (shown.state, shown.attempts) == (InstanceState.DEGRADED, ATTEMPTS)
    assert shown.message.startswith("It started and died 6 times")


@pytest.mark.parametrize("reason", CIRCUMSTANCES)
def test_bad_circumstances_never_use_up_the_attempts(reason: Reason) -> None:
    view = of(WANTED, (COMING, ended(reason)), attempts=ATTEMPTS - 1)
    _, shown = decide(view)
    assert isinstance(shown, Show)
    assert (shown.state, shown.attempts) == (InstanceState.PROVISIONING, None)


def test_ready_wipes_the_slate() -> None:
    view = of(WANTED, (COMING, UP), attempts=2)
    assert decide(view) == [MarkReady("a"), Show(InstanceState.READY, attempts=0, of="a")]


def test_stages_and_sentences_are_the_places_own() -> None:
    observed = seen(Phase.PROVISIONING, stage=Stage.DOWNLOADING, message="Downloading.")
    assert decide(of(WANTED, (COMING, observed))) == [
        Show(InstanceState.PROVISIONING, Stage.DOWNLOADING, message="Downloading.", of="a")
    ]


def test_everything_that_may_be_seen_has_an_answer() -> None:
    """All looks there are at two replicas: no exception, no second engine in a place, no request
    to what is not ready, nothing that the table of transitions does not have."""
    others = [None, OLD, replace(OLD, stopping=True)]
    mine = [None, COMING, SERVING, NEW, replace(SERVING, evicted=True)]
    observations = [None, *(seen(phase) for phase in Phase)]
    for desired, state, other, one, first, second in product(
        Desired, InstanceState, others, mine, observations, observations
    ):
        looks = [(r, o) for r, o in ((other, first), (one, second)) if r is not None]
        view = of(WANTED, *looks, desired=desired, state=state)
        actions = decide(view)
        ends = any(isinstance(action, End) and action.replica == "a" for action in actions)
        assert not (one is not None and Create(0) in actions and not ends)
        for action in actions:
            if isinstance(action, MarkReady):
                seen_at = {"o": first, "a": second}[action.replica]
                assert seen_at is not None
                assert seen_at.phase == Phase.READY
            if isinstance(action, Show):
                transition(state, action.state)
            assert not (isinstance(action, Bury) and looks)


def test_steps_are_values() -> None:
    """So that tests and logs can tell one from another."""
    assert Ensure("a") == Ensure("a") != Remove("a")
    assert len({Stop("a"), Stop("a"), Unmark("a")}) == 2


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
