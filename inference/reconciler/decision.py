"""What to do now for one instance. PURE: a look in, actions out.

Three kinds of failed start, told apart by what a further one could bring:

- trying the same again cannot help (`HOPELESS`): given up at once, a person must change something;
- nobody's fault (`BLAMELESS`) or the circumstances' (`CIRCUMSTANCES`): tried again without end;
- anything else: tried again with growing pauses, given up after `ATTEMPTS`.

An engine that has once been ready is not counted as a failed start when it crashes: it comes back,
however often; the time that its own start takes is the brake.

Another generation comes in beside the one that serves, a replica at a time; an old one ends when a
new one is ready. A new one that cannot start leaves the old ones serving (`rollout_*` says why).
Where there is no room for both, one of several old ones makes room; a single one only where a
person wants it so (`at_once`), and then what was there before comes back if the new one fails.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from inference.lifecycle import Desired, InstanceState, Stage
from inference.provisioners.base import Observed, Phase, Reason

ATTEMPTS = 3  # failed starts of one generation before it is left to a person
BACKOFF = 1.0  # seconds before the second attempt; doubled before each further one
LONGEST_BACKOFF = 60.0
NO_ROOM_RETRY = (
    5.0  # seconds until a place that was full is asked again: that costs next to nothing
)
CIRCUMSTANCES_RETRY = 30.0  # seconds until what needs a whole start to find out is tried again

HOPELESS = frozenset({Reason.BAD_ARGUMENTS, Reason.OUT_OF_MEMORY, Reason.QUOTA_EXCEEDED})
BLAMELESS = frozenset({Reason.CANCELLED, Reason.NODE_LOST, Reason.PREEMPTED})
CIRCUMSTANCES = frozenset({Reason.INSUFFICIENT_CAPACITY, Reason.BACKEND_UNREACHABLE})


def gettext_noop(message: str) -> str:
    """Marks a sentence for translators; pages translate it when they show it."""
    return message


WAITING = gettext_noop("Waiting to start.")
STOPPING = gettext_noop("Stopping the engine.")
LOST = gettext_noop("The engine's machine has lost it.")
CLOSED = gettext_noop("No machine takes new engines right now; an operator has closed them.")
APPROVAL = gettext_noop("Waiting for an operator's approval.")
REFUSED = gettext_noop("An operator has refused the request.")
FEWER = gettext_noop("Fewer replicas answer than are wanted.")


@dataclass(frozen=True, kw_only=True)
class ReplicaView:
    """What the database says of a replica that is not gone, and what is seen of it."""

    id: str
    generation: int
    index: int = 0
    serving: bool = False  # the gateway sends it requests
    asked_for: bool = False  # the provisioner has accepted it
    has_been_ready: bool = False
    stopping: bool = False
    evicted: bool = False  # its machine is to be emptied
    address: str = ""
    observed: Observed | None = None  # None: there is nothing to observe

    @property
    def phase(self) -> Phase:
        return self.observed.phase if self.observed else Phase.GONE

    @property
    def ready(self) -> bool:
        return self.phase == Phase.READY and not self.stopping


@dataclass(frozen=True, kw_only=True)
class View:
    """What one decision is made from."""

    desired: Desired
    generation: int
    state: InstanceState
    reason: str = ""  # with the message, what people see now
    message: str = ""
    rollout_reason: str = ""
    attempts: int = 0
    retry_at: datetime | None = None
    now: datetime
    wanted: int = 1  # replicas
    replicas: tuple[ReplicaView, ...] = ()
    ghosts: tuple[tuple[str, Phase], ...] = ()  # at the place, and gone by the books
    unreachable: bool = False
    open: bool = True  # some machine takes new engines
    approval: str = ""
    at_once: bool = False  # the old generation may end before the new one is ready
    restorable: bool = False  # an earlier revision has been ready, the wanted one never
    sleep_after: timedelta | None = None  # without a request
    night: bool = False  # the schedule wants no replica now
    sleeps_by_schedule: bool = False

    @property
    def waits(self) -> bool:
        """Whether the next attempt is not due yet."""
        return self.retry_at is not None and self.now < self.retry_at

    @property
    def given_up(self) -> bool:
        """Whether the generation is left to a person."""
        return self.attempts >= ATTEMPTS


@dataclass(frozen=True)
class Show:
    """Let people see this. Without `attempts`, their count stays."""

    state: InstanceState
    stage: Stage = Stage.NONE
    reason: str = ""
    message: str = ""
    attempts: int | None = None
    retry_at: datetime | None = None
    rollout_reason: str = ""
    rollout_message: str | None = None  # None: stays, unless there is no reason (any more)
    of: str = ""  # the replica whose progress is shown


@dataclass(frozen=True)
class Create:
    """Make a replica's row for the wanted generation, and ask the provisioner for it."""

    index: int = 0


@dataclass(frozen=True)
class Ensure:
    """Ask the provisioner for the replica."""

    replica: str


@dataclass(frozen=True)
class MarkReady:
    """Let the gateway send it requests, at the address observed."""

    replica: str


@dataclass(frozen=True)
class Unmark:
    """Keep the gateway from sending it requests for now."""

    replica: str


@dataclass(frozen=True)
class Stop:
    """No more requests to it, then end the engine."""

    replica: str


@dataclass(frozen=True)
class End:
    """The engine is gone for good."""

    replica: str
    reason: str = ""
    message: str = ""
    exit_code: int | None = None


@dataclass(frozen=True)
class Remove:
    """Delete what the provisioner still keeps of it: process, socket, files."""

    replica: str


@dataclass(frozen=True)
class GiveUp:
    """The wanted revision cannot start: write that beside it."""

    reason: str
    message: str


@dataclass(frozen=True)
class Restore:
    """Want the last revision again that has been ready."""


@dataclass(frozen=True)
class FallAsleep:
    """Nobody has asked anything for long enough, or the schedule says so."""

    by_schedule: bool = False


@dataclass(frozen=True)
class Wake:
    """The schedule says so."""


@dataclass(frozen=True)
class Bury:
    """The instance is deleted."""


@dataclass(frozen=True)
class SayUnreachable:
    """The place does not answer: say so and change nothing else."""


Action = (
    Show
    | Create
    | Ensure
    | MarkReady
    | Unmark
    | Stop
    | End
    | Remove
    | GiveUp
    | Restore
    | FallAsleep
    | Wake
    | Bury
    | SayUnreachable
)


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
    if not view.replicas and rest is not None:
        if view.desired == Desired.ASLEEP and view.sleeps_by_schedule and not view.night:
            return [Wake()]
        return [Show(rest)]
    if view.unreachable:
        return [SayUnreachable()]  # nothing is known, so nothing counts as ended
    if view.replicas:
        actions = [action for replica in view.replicas for action in _towards_the_end(replica)]
        if any(isinstance(action, Stop) for action in actions):
            return [*actions, Show(InstanceState.STOPPING, message=STOPPING)]
        return [*actions, *([Show(rest)] if rest is not None else [])]
    if any(phase != Phase.GONE for _, phase in view.ghosts):
        return [Remove(id_) for id_, _ in view.ghosts]
    return [Bury()]


_AT_REST = {
    Desired.STOPPED: InstanceState.STOPPED,
    Desired.ASLEEP: InstanceState.ASLEEP,
}


def _towards_the_end(replica: ReplicaView) -> list[Action]:
    if replica.phase in {Phase.EXITED, Phase.GONE}:
        code = replica.observed.exit_code if replica.observed else None
        reason = Reason.PREEMPTED if replica.evicted else Reason.CANCELLED
        return [End(replica.id, reason, exit_code=code)]
    return [Stop(replica.id)]


# ------------------------------------------------------------------------------- towards serving


@dataclass
class _Failure:
    """What came of the starts that failed at this look."""

    reason: str = ""
    message: str = ""
    attempts: int | None = None
    retry_at: datetime | None = None


def _towards_serving(view: View) -> list[Action]:
    actions: list[Action] = []
    failure = _Failure()
    kept = _kept(view)
    current: list[ReplicaView] = []
    ending: list[ReplicaView] = []
    for replica in view.replicas:
        mine = replica.generation == view.generation and replica.index < view.wanted
        if replica.evicted or replica.stopping or not (mine or replica in kept):
            actions += _towards_the_end(replica)
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
    if not failure.reason:
        actions += _created(view, current, kept, ending)
        actions += _rest(view, current, kept)
    return [*actions, *_shown(view, current, kept, failure, attempts)]


def _kept(view: View) -> list[ReplicaView]:
    """Those of earlier generations that serve until new ones do."""
    old = [r for r in view.replicas if r.generation != view.generation and r.has_been_ready]
    old = [r for r in old if not r.stopping and not r.evicted]
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
            return _failed(view, replica, Reason.NODE_LOST, LOST, None, failure), False
        due = view.open and not view.waits
        return ([Ensure(replica.id)] if due else []), True
    if observed.phase == Phase.EXITED:
        reason = observed.reason or Reason.CRASHED
        code = observed.exit_code
        return _failed(view, replica, reason, observed.message, code, failure), False
    if observed.phase == Phase.READY:
        known = replica.serving and replica.address == observed.address
        return ([] if known else [MarkReady(replica.id)]), True
    return ([Unmark(replica.id)] if replica.serving else []), True


def _failed(
    view: View,
    replica: ReplicaView,
    reason: Reason,
    message: str,
    exit_code: int | None,
    failure: _Failure,
) -> list[Action]:
    end = End(replica.id, reason, message, exit_code)
    if replica.generation != view.generation:
        return [end]  # an old one; what is wanted is on its way or left to a person already
    failure.reason, failure.message = reason, message
    if reason in BLAMELESS:
        return [end]
    if reason in CIRCUMSTANCES:
        failure.retry_at = view.now + timedelta(seconds=CIRCUMSTANCES_RETRY)
        return [end]
    attempts = 1 if replica.has_been_ready else view.attempts + 1
    if not replica.has_been_ready and reason in HOPELESS:
        attempts = ATTEMPTS
    failure.attempts = attempts
    if attempts < ATTEMPTS:
        failure.retry_at = view.now + timedelta(seconds=backoff(attempts))
    return [end]


def _created(
    view: View,
    current: list[ReplicaView],
    kept: list[ReplicaView],
    ending: list[ReplicaView],
) -> list[Action]:
    """New replicas, as many as may come now."""
    mine = [r for r in (*current, *ending) if r.generation == view.generation]
    missing = sorted(set(range(view.wanted)) - {replica.index for replica in mine})
    if not missing or view.given_up or view.waits or not view.open:
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
    """Sleep, where everything has been idle for long enough."""
    if view.sleep_after is None or kept or len(current) < view.wanted:
        return []
    since = [replica.observed.idle_since for replica in current if replica.observed]
    if not all(replica.ready for replica in current) or None in since:
        return []
    if all(at is not None and view.now - at >= view.sleep_after for at in since):
        return [FallAsleep(by_schedule=view.night)]
    return []


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
    if not view.open:
        full = Reason.INSUFFICIENT_CAPACITY
        return [Show(InstanceState.PROVISIONING, Stage.QUEUED, full, CLOSED)]
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
    unplaced = any(not replica.asked_for for replica in current)
    starting = [r for r in current if r.phase in _COMING]
    stage = starting[0].observed.stage if starting and starting[0].observed else Stage.NONE
    rollout_reason, rollout_message = "", None
    if kept:
        rollout_reason = failure.reason or view.rollout_reason
        rollout_message = failure.message or None
    return Show(
        InstanceState.READY if whole else InstanceState.DEGRADED,
        stage,
        reason="" if whole or kept else failure.reason or (view.reason if unplaced else ""),
        message="" if whole else failure.message or (view.message if unplaced else "") or FEWER,
        attempts=failure.attempts,
        retry_at=retry_at,
        rollout_reason=rollout_reason,
        rollout_message=rollout_message,
        of=starting[0].id if starting else "",
    )


def backoff(attempts: int) -> float:
    """Seconds to wait after this many failed starts."""
    return min(LONGEST_BACKOFF, BACKOFF * 2.0 ** (attempts - 1))
