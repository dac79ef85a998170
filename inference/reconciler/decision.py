"""What to do now for one instance. PURE: a look in, actions out.

Three kinds of failed start, told apart by what a further one could bring:

- trying the same again cannot help (`HOPELESS`): given up at once, a person must change something;
- nobody's fault (`BLAMELESS`) or the circumstances' (`CIRCUMSTANCES`): tried again without end;
- anything else: tried again with growing pauses, given up after `ATTEMPTS`.

An engine that has been ready comes back at once when it dies, however often, as long as it serves
for a while in between; one that dies again and again is a failed start too (`crashes`).

Another generation comes in beside the one that serves, a replica at a time; an old one ends when a
new one is ready. A new one that cannot start leaves the old ones serving (`rollout_*` says why).
Where there is no room for both, one of several old ones makes room; a single one only where a
person wants it so (`at_once`), and then what was there before comes back if the new one fails.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from inference.lifecycle import ATTEMPTS, Desired, InstanceState, Stage
from inference.provisioners.base import Phase, Reason
from inference.reconciler import crashes
from inference.reconciler.steps import (
    APPROVAL,
    REFUSED,
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
    Rest,
    Restore,
    Rouse,
    SayUnreachable,
    Show,
    Stop,
    Unmark,
    View,
    Wake,
    gettext_noop,
)

BACKOFF = 1.0  # seconds before the second attempt; doubled before each further one
LONGEST_BACKOFF = 60.0
NO_ROOM_RETRY = (
    5.0  # seconds until a place that was full is asked again: that costs next to nothing
)
HASTE = 30.0  # seconds for the answers under way where somebody waits for the end
CIRCUMSTANCES_RETRY = 30.0  # seconds until what needs a whole start to find out is tried again

HOPELESS = frozenset({Reason.BAD_ARGUMENTS, Reason.OUT_OF_MEMORY, Reason.QUOTA_EXCEEDED})
BLAMELESS = frozenset({Reason.CANCELLED, Reason.NODE_LOST, Reason.PREEMPTED})
CIRCUMSTANCES = frozenset({Reason.INSUFFICIENT_CAPACITY, Reason.BACKEND_UNREACHABLE})

WAITING = gettext_noop("Waiting to start.")
STOPPING = gettext_noop("Stopping the engine.")
LOST = gettext_noop("The engine's machine has lost it.")
FEWER = gettext_noop("Fewer replicas answer than are wanted.")


def decide(view: View) -> list[Action]:
    """The steps from what is towards what is wanted; none where there is nothing to do."""
    if view.desired != Desired.RUNNING:
        return _towards_nothing(view)
    if view.approval == "pending" and not view.replicas:
        return [Show(view.state, message=APPROVAL)] if view.message != APPROVAL else []
    if view.approval == "refused" and not view.replicas:
        failed = InstanceState.FAILED
        return [Show(failed, Stage.NONE, Reason.QUOTA_EXCEEDED, REFUSED, ATTEMPTS)]
    if view.unreachable:
        rests = not view.replicas and (view.given_up or view.waits)
        return [] if rests else [SayUnreachable()]
    return _towards_serving(view)


# ------------------------------------------------------------------------- towards nothing at all


def _towards_nothing(view: View) -> list[Action]:
    rest = _AT_REST.get(view.desired)
    if rest is not None and all(_rests(view, replica) for replica in view.replicas):
        if view.desired == Desired.ASLEEP and view.sleeps_by_schedule and not view.night:
            return [Wake()]
        return [Show(rest)]
    if view.unreachable:
        return [SayUnreachable()]  # nothing is known, so nothing counts as ended
    if view.replicas:
        actions = [action for r in view.replicas for action in _towards_rest(view, r)]
        dozing = any(r.asleep and r.phase == Phase.STOPPING for r in view.replicas)
        if dozing or any(isinstance(action, Stop | Rest) for action in actions):
            return [*actions, Show(InstanceState.STOPPING, message=STOPPING)]
        return [*actions, *([Show(rest)] if rest is not None else [])]
    if any(phase != Phase.GONE for _, phase in view.ghosts):
        return [Remove(id_) for id_, _ in view.ghosts]
    return [Bury()]


_AT_REST = {
    Desired.STOPPED: InstanceState.STOPPED,
    Desired.ASLEEP: InstanceState.ASLEEP,
}


def _may_rest(view: View, replica: ReplicaView) -> bool:
    """Whether it is one that sleep may leave at hand."""
    of_now = replica.generation == view.generation and replica.index < view.wanted
    return view.desired == Desired.ASLEEP and of_now and not (replica.evicted or replica.stopping)


def _rests(view: View, replica: ReplicaView) -> bool:
    return _may_rest(view, replica) and replica.asleep and replica.phase == Phase.ASLEEP


def _towards_rest(view: View, replica: ReplicaView) -> list[Action]:
    if _may_rest(view, replica):
        if replica.asleep and replica.phase in {Phase.ASLEEP, Phase.STOPPING}:
            return []
        if replica.observed is not None and replica.observed.can_sleep:
            return [Rest(replica.id)]
    return _towards_the_end(replica, hasty=view.desired != Desired.ASLEEP)


def _towards_the_end(replica: ReplicaView, *, hasty: bool) -> list[Action]:
    if replica.phase in {Phase.EXITED, Phase.GONE}:
        reason = Reason.PREEMPTED if replica.evicted else Reason.CANCELLED
        return [_end(replica, reason, "")]
    return [Stop(replica.id, HASTE) if hasty else Stop(replica.id)]


# ------------------------------------------------------------------------------- towards serving


@dataclass
class _Failure:
    """What came of the starts that failed at this look."""

    reason: str = ""
    message: str = ""
    attempts: int | None = None
    retry_at: datetime | None = None
    at_once: bool = False  # the next one need not wait for another look


def _towards_serving(view: View) -> list[Action]:
    actions: list[Action] = []
    failure = _Failure()
    kept = _kept(view)
    current: list[ReplicaView] = []
    ending: list[ReplicaView] = []
    for replica in view.replicas:
        mine = replica.generation == view.generation and replica.index < view.wanted
        if replica.evicted or replica.stopping or not (mine or replica in kept):
            actions += _towards_the_end(replica, hasty=view.at_once)
            if replica.phase not in {Phase.EXITED, Phase.GONE}:
                ending.append(replica)
            continue
        steps, lives = _on_its_way(view, replica, failure)
        actions += steps
        if mine and lives:
            current.append(replica)
    kept = [replica for replica in kept if replica.ready]
    attempts = view.attempts if failure.attempts is None else failure.attempts
    if attempts >= ATTEMPTS:
        if failure.attempts is not None:
            actions.append(GiveUp(failure.reason, failure.message))
        replaced = view.at_once or bool(view.rollout_reason)
        if view.restorable and replaced and not kept and not current:
            return [*actions, Restore()]
    if not failure.reason or failure.at_once:
        actions += _created(view, current, kept, ending)
    if not failure.reason:
        actions += _rest(view, current, kept)
    return [*actions, *_shown(view, current, kept, failure, attempts)]


def _kept(view: View) -> list[ReplicaView]:
    """Those of earlier generations that serve until new ones do."""
    old = [r for r in view.replicas if r.generation != view.generation and r.has_been_ready]
    old = [r for r in old if not (r.stopping or r.evicted or r.asleep)]
    if view.at_once and not view.given_up:
        return []
    ready = sum(
        r.ready and r.serving and r.generation == view.generation and r.index < view.wanted
        for r in view.replicas
    )
    full = view.rollout_reason == Reason.INSUFFICIENT_CAPACITY and view.wanted > 1
    most = view.wanted - ready - (1 if full and ready + len(old) >= view.wanted else 0)
    newest_first = sorted(old, key=lambda r: (not r.ready, -r.generation, r.index))
    return newest_first[: max(0, most)]


def _on_its_way(view: View, replica: ReplicaView, failure: _Failure) -> tuple[list[Action], bool]:
    """What to do with a replica that is to serve, and whether it lives on."""
    observed = replica.observed
    if observed is None or observed.phase == Phase.GONE:
        if replica.asked_for:  # the place has lost it
            return _failed(view, replica, Reason.NODE_LOST, LOST, failure), False
        due = not (view.obstacle or view.waits)
        return ([Ensure(replica.id)] if due else []), True
    if observed.phase == Phase.EXITED:
        reason = observed.reason or Reason.CRASHED
        return _failed(view, replica, reason, observed.message, failure), False
    if observed.phase == Phase.ASLEEP:
        return [Rouse(replica.id)], True
    if observed.phase == Phase.READY:
        known = replica.serving and replica.address == observed.address
        return ([] if known else [MarkReady(replica.id)]), True
    return ([Unmark(replica.id)] if replica.serving else []), True


def _end(replica: ReplicaView, reason: Reason, message: str) -> End:
    observed = replica.observed
    if observed is None:
        return End(replica.id, reason, message)
    return End(replica.id, reason, message, observed.exit_code, observed.ended_at)


def _failed(
    view: View,
    replica: ReplicaView,
    reason: Reason,
    message: str,
    failure: _Failure,
) -> list[Action]:
    end = _end(replica, reason, message)
    if replica.generation != view.generation:
        return [end]  # an old one; what is wanted is on its way or left to a person already
    if reason not in BLAMELESS | CIRCUMSTANCES:
        _count(view, replica, reason, message, failure)
        return [end]
    failure.reason, failure.message = reason, message
    if reason in CIRCUMSTANCES:
        failure.retry_at = view.now + timedelta(seconds=CIRCUMSTANCES_RETRY)
    return [end]


def _count(
    view: View, replica: ReplicaView, reason: Reason, message: str, failure: _Failure
) -> None:
    """What it makes of the attempts; of several at one look, the one that leaves most hope."""
    attempts = ATTEMPTS if reason in HOPELESS else view.attempts + 1
    if replica.has_been_ready:
        died = crashes.deaths(replica.died, view.now, view.start_seconds)
        attempts = crashes.attempts(len(died))
        if attempts >= ATTEMPTS:
            message = crashes.sentence(died, message)
    if failure.attempts is not None and failure.attempts < attempts:
        return
    failure.reason, failure.message, failure.attempts = reason, message, attempts
    failure.at_once = attempts == 0
    failure.retry_at = None
    if 0 < attempts < ATTEMPTS:
        failure.retry_at = view.now + timedelta(seconds=backoff(attempts))


def _created(
    view: View,
    current: list[ReplicaView],
    kept: list[ReplicaView],
    ending: list[ReplicaView],
) -> list[Action]:
    """New replicas, as many as may come now."""
    mine = [r for r in (*current, *ending) if r.generation == view.generation]
    missing = sorted(set(range(view.wanted)) - {replica.index for replica in mine})
    if not missing or view.given_up or view.waits or view.obstacle:
        return []
    if any(phase not in {Phase.GONE, Phase.EXITED} for _, phase in view.ghosts):
        # Given up for lost, and yet it runs: first there must be none.
        return [Remove(id_) for id_, _ in view.ghosts]
    if kept:  # one new one at a time
        missing = [] if any(not replica.ready for replica in current) else missing[:1]
    elif ending and not current:
        missing = []  # what they hold is needed first
    # The folders of the last ones go before new ones come: their logs were there until now.
    removed = [Remove(id_) for id_, phase in view.ghosts if phase != Phase.GONE] if missing else []
    return [*removed, *(Create(index) for index in missing)]


def _rest(view: View, current: list[ReplicaView], kept: list[ReplicaView]) -> list[Action]:
    """Sleep, where everything has been idle for long enough, or the schedule's hour has come: what
    was woken since then may stay until it is idle."""
    if view.replicas and all(_before(replica, view.night_since) for replica in view.replicas):
        return [FallAsleep(by_schedule=True)]
    if view.sleep_after is None or kept or len(current) < view.wanted:
        return []
    since = [replica.observed.idle_since for replica in current if replica.observed]
    if not all(replica.ready for replica in current) or None in since:
        return []
    if all(at is not None and view.now - at >= view.sleep_after for at in since):
        return [FallAsleep(by_schedule=view.night)]
    return []


def _before(replica: ReplicaView, night_since: datetime | None) -> bool:
    """Whether it is from the day before."""
    began = replica.began_at
    return night_since is not None and began is not None and began < night_since


# ------------------------------------------------------------------------------ what people see


def _shown(
    view: View,
    current: list[ReplicaView],
    kept: list[ReplicaView],
    failure: _Failure,
    attempts: int,
) -> list[Action]:
    ready = [replica for replica in current if replica.ready]
    if len(ready) >= view.wanted and not kept:
        return [Show(InstanceState.READY, attempts=0, of=ready[0].id)]
    reason, message = failure.reason, failure.message
    retry_at = failure.retry_at or (view.retry_at if view.waits else None)
    if ready or kept:
        return [_partly(view, current, ready, kept, failure, retry_at)]
    silent = [r for r in current if r.phase == Phase.DEGRADED]
    if silent and silent[0].observed and not failure.reason:
        return [Show(InstanceState.DEGRADED, message=silent[0].observed.message)]
    starting = [r for r in current if r.phase in _COMING]
    if starting and not failure.reason:
        return [_coming(starting)]
    if current and not failure.reason:
        return []  # asked for a moment ago, or ending by itself
    if attempts >= ATTEMPTS:
        if view.state == InstanceState.FAILED or current:
            return []  # until a person asks again, which sets attempts to 0
        reason, message = reason or view.rollout_reason or view.reason, message or view.message
        return [Show(InstanceState.FAILED, Stage.NONE, reason, message, attempts)]
    if failure.reason:
        queued = (InstanceState.PROVISIONING, Stage.QUEUED)
        return [Show(*queued, reason, message, failure.attempts, retry_at)]
    if view.obstacle:
        return [Show(InstanceState.PROVISIONING, Stage.QUEUED, *view.obstacle)]
    if view.waits:
        return []
    return [Show(InstanceState.PROVISIONING, Stage.QUEUED, message=WAITING)]


_COMING = {Phase.PROVISIONING: InstanceState.PROVISIONING, Phase.LOADING: InstanceState.LOADING}


def _coming(starting: list[ReplicaView]) -> Show:
    """The one that is furthest on its way."""
    first = max(starting, key=lambda r: (r.phase == Phase.LOADING, -r.index))
    observed = first.observed
    assert observed is not None  # noqa: S101  - it has a phase
    return Show(_COMING[first.phase], observed.stage, message=observed.message, of=first.id)


def _partly(
    view: View,
    current: list[ReplicaView],
    ready: list[ReplicaView],
    kept: list[ReplicaView],
    failure: _Failure,
    retry_at: datetime | None,
) -> Show:
    """Some serve: old ones until new ones do, or fewer than are wanted."""
    whole = len(ready) + len(kept) >= view.wanted
    starting = [r for r in current if r.phase in _COMING]
    stage = starting[0].observed.stage if starting and starting[0].observed else Stage.NONE
    reason, message = _why_not_all(view, current, failure, rolls=bool(kept))
    return Show(
        InstanceState.READY if whole else InstanceState.DEGRADED,
        stage,
        reason="" if kept else reason,
        message="" if whole else (not kept and message) or FEWER,
        attempts=failure.attempts,
        retry_at=retry_at,
        rollout_reason=reason if kept else "",
        rollout_message=message if kept else None,
        of=starting[0].id if starting else "",
    )


def _why_not_all(
    view: View, current: list[ReplicaView], failure: _Failure, *, rolls: bool
) -> tuple[str, str | None]:
    """What went wrong at this look, or was said before for as long as it holds. Of the message,
    None means that it stays."""
    if failure.reason:
        return failure.reason, failure.message
    if view.obstacle and len(current) < view.wanted:
        return view.obstacle
    unplaced = any(not replica.asked_for for replica in current)
    if not (unplaced or view.waits or view.given_up or (rolls and view.attempts)):
        return "", None
    if rolls:
        return view.rollout_reason, None
    if view.given_up and view.reason == Reason.BACKEND_UNREACHABLE:
        return "", None  # that was said of the place, which answers again
    return view.reason, view.message


def backoff(attempts: int) -> float:
    """Seconds to wait after this many failed starts."""
    return min(LONGEST_BACKOFF, BACKOFF * 2.0 ** (attempts - 1))
