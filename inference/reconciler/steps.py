"""What one decision is made from, and the steps that it may consist of. PURE: values, no more."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from inference.lifecycle import ATTEMPTS, Desired, InstanceState, Stage
from inference.provisioners.base import Observed, Phase, Reason


def gettext_noop(message: str) -> str:
    """Marks a sentence for translators; pages translate it when they show it."""
    return message


CLOSED = gettext_noop("No machine takes new engines right now; an operator has closed them.")
APPROVAL = gettext_noop("Waiting for an operator's approval.")
REFUSED = gettext_noop("An operator has refused the request.")


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
    asleep: bool = False  # it was told to sleep
    evicted: bool = False  # its machine is to be emptied
    began_at: datetime | None = None  # None: it was made for this look
    died: tuple[datetime, ...] = ()  # when those before it in its place did, that had been ready
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
    start_seconds: int | None = None  # what a start takes; None: not known yet
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
    night_since: datetime | None = None  # the schedule wants no replica since then
    sleeps_by_schedule: bool = False

    @property
    def night(self) -> bool:
        return self.night_since is not None

    @property
    def waits(self) -> bool:
        """Whether the next attempt is not due yet."""
        return self.retry_at is not None and self.now < self.retry_at

    @property
    def obstacle(self) -> tuple[Reason, str] | None:
        """Why nothing new may start, whatever room there is."""
        if self.approval == "pending":
            return Reason.QUOTA_EXCEEDED, APPROVAL
        if self.approval == "refused":
            return Reason.QUOTA_EXCEEDED, REFUSED
        return None if self.open else (Reason.INSUFFICIENT_CAPACITY, CLOSED)

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
    """No more requests to it, then end the engine: within so many seconds, once it has answered
    those that it has."""

    replica: str
    grace: float = 300.0


@dataclass(frozen=True)
class Rest:
    """No more requests to it, then have it free its GPUs and stay at hand."""

    replica: str


@dataclass(frozen=True)
class Rouse:
    """Have one that rests take its GPUs again."""

    replica: str


@dataclass(frozen=True)
class End:
    """The engine is gone for good."""

    replica: str
    reason: str = ""
    message: str = ""
    exit_code: int | None = None
    at: datetime | None = None  # when the engine ended; None: nobody saw it


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
    | Rest
    | Rouse
    | End
    | Remove
    | GiveUp
    | Restore
    | FallAsleep
    | Wake
    | Bury
    | SayUnreachable
)
