"""What to do now for one instance. PURE: a look in, actions out.

Three kinds of failed start, told apart by what a further one could bring:

- trying the same again cannot help (`HOPELESS`): failed at once, a person must change something;
- nobody's fault (`BLAMELESS`) or the circumstances' (`CIRCUMSTANCES`): tried again without end;
- anything else: tried again with growing pauses, failed after `ATTEMPTS`.

An engine that has once been ready is not counted as a failed start when it crashes: it comes back,
however often; the time that its own start takes is the brake.
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


@dataclass(frozen=True, kw_only=True)
class ReplicaView:
    """What the database says of the newest replica."""

    generation: int
    gone: bool = False
    serving: bool = False  # the gateway sends it requests
    asked_for: bool = False  # the provisioner has accepted it
    has_been_ready: bool = False
    address: str = ""


@dataclass(frozen=True, kw_only=True)
class View:
    """What one decision is made from."""

    desired: Desired
    generation: int
    state: InstanceState
    attempts: int = 0
    retry_at: datetime | None = None
    now: datetime
    replica: ReplicaView | None = None
    observed: Observed | None = None  # None: there is nothing to observe, or it was not reached
    unreachable: bool = False

    @property
    def waits(self) -> bool:
        """Whether the next attempt is not due yet."""
        return self.retry_at is not None and self.now < self.retry_at


@dataclass(frozen=True)
class Show:
    """Let people see this. Without `attempts`, their count stays."""

    state: InstanceState
    stage: Stage = Stage.NONE
    reason: str = ""
    message: str = ""
    attempts: int | None = None
    retry_at: datetime | None = None


@dataclass(frozen=True)
class Create:
    """Make a replica's row for the wanted generation."""


@dataclass(frozen=True)
class Ensure:
    """Ask the provisioner for the replica."""


@dataclass(frozen=True)
class MarkReady:
    """Let the gateway send it requests, at the address observed."""


@dataclass(frozen=True)
class Unmark:
    """Keep the gateway from sending it requests for now."""


@dataclass(frozen=True)
class Stop:
    """No more requests to it, then end the engine."""


@dataclass(frozen=True)
class End:
    """The engine is gone for good."""

    reason: str = ""
    exit_code: int | None = None


@dataclass(frozen=True)
class Remove:
    """Delete what the provisioner still keeps of it: process, socket, files."""


@dataclass(frozen=True)
class Bury:
    """The instance is deleted."""


@dataclass(frozen=True)
class SayUnreachable:
    """The place does not answer: say so and change nothing else."""


Action = Show | Create | Ensure | MarkReady | Unmark | Stop | End | Remove | Bury | SayUnreachable


def decide(view: View) -> list[Action]:
    """The steps from what is towards what is wanted; none where there is nothing to do."""
    replica = view.replica
    if replica is None or replica.gone:
        return _without_engine(view)
    if view.unreachable:
        return [SayUnreachable()]  # nothing is known, so nothing may be re-created
    if view.desired != Desired.RUNNING or replica.generation != view.generation:
        return _towards_the_end(view)
    return _on_its_way(view, replica)


def _without_engine(view: View) -> list[Action]:
    if view.desired == Desired.STOPPED:
        return [Show(InstanceState.STOPPED)]
    if view.desired == Desired.RUNNING:
        if view.state == InstanceState.FAILED and view.attempts:
            return []  # until a person asks again, which sets attempts to 0
        if view.waits:
            return []
    if view.unreachable:
        return [SayUnreachable()]
    phase = view.observed.phase if view.observed else Phase.GONE
    if view.desired == Desired.DELETED:
        return [Bury()] if phase == Phase.GONE else [Remove()]
    if phase not in {Phase.GONE, Phase.EXITED}:
        return [Remove()]  # given up for lost, and yet it runs: first there must be none
    shown = Show(InstanceState.PROVISIONING, Stage.QUEUED, message=WAITING)
    # The last one's folder goes before a new one comes: its log was there to be read until now.
    return [*([] if phase == Phase.GONE else [Remove()]), Create(), shown, Ensure()]


def _towards_the_end(view: View) -> list[Action]:
    observed = view.observed
    if observed is None or observed.phase in {Phase.EXITED, Phase.GONE}:
        end = End(Reason.CANCELLED, observed.exit_code if observed else None)
        stopped = view.desired == Desired.STOPPED
        return [end, *([Show(InstanceState.STOPPED)] if stopped else [])]
    return [Stop(), Show(InstanceState.STOPPING, message=STOPPING)]


def _on_its_way(view: View, replica: ReplicaView) -> list[Action]:
    observed = view.observed
    if observed is None or observed.phase == Phase.GONE:
        if replica.asked_for:  # the place has lost it
            return _failed(view, replica, Reason.NODE_LOST, LOST, None)
        return [] if view.waits else [Ensure()]
    if observed.phase == Phase.EXITED:
        reason = observed.reason or Reason.CRASHED
        return _failed(view, replica, reason, observed.message, observed.exit_code)
    if observed.phase == Phase.READY:
        known = replica.serving and replica.address == observed.address
        return [*([] if known else [MarkReady()]), Show(InstanceState.READY, attempts=0)]
    return [*([Unmark()] if replica.serving else []), *_shown_on_its_way(observed)]


def _shown_on_its_way(observed: Observed) -> list[Action]:
    match observed.phase:
        case Phase.DEGRADED:
            return [Show(InstanceState.DEGRADED, message=observed.message)]
        case Phase.LOADING:
            return [Show(InstanceState.LOADING, observed.stage, message=observed.message)]
        case Phase.PROVISIONING:
            return [Show(InstanceState.PROVISIONING, observed.stage, message=observed.message)]
        case _:  # ending by itself: what it dies of is known when it has
            return []


def _failed(
    view: View, replica: ReplicaView, reason: Reason, message: str, exit_code: int | None
) -> list[Action]:
    end = End(reason, exit_code)
    if reason in BLAMELESS:
        return [end, _again(reason, message)]
    if reason in CIRCUMSTANCES:
        retry_at = view.now + timedelta(seconds=CIRCUMSTANCES_RETRY)
        return [end, _again(reason, message, retry_at)]
    attempts = 1 if replica.has_been_ready else view.attempts + 1
    if not replica.has_been_ready and (reason in HOPELESS or attempts >= ATTEMPTS):
        return [end, Show(InstanceState.FAILED, Stage.NONE, reason, message, attempts)]
    retry_at = view.now + timedelta(seconds=backoff(attempts))
    return [end, _again(reason, message, retry_at, attempts)]


def _again(
    reason: Reason, message: str, retry_at: datetime | None = None, attempts: int | None = None
) -> Show:
    return Show(InstanceState.PROVISIONING, Stage.QUEUED, reason, message, attempts, retry_at)


def backoff(attempts: int) -> float:
    """Seconds to wait after this many failed starts."""
    return min(LONGEST_BACKOFF, BACKOFF * 2.0 ** (attempts - 1))
