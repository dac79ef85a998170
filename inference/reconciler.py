"""Closes the difference between what people want and what runs: observe → decide (pure) → act.

Level-triggered: each round looks at everything afresh and remembers nothing, so it may be killed
between any two statements. A replica's row exists before its engine is asked for, and asking again
for the same replica starts nothing, so an instance generation never has two engines. It is the one
writer of the observed fields of Instance and of Replica.
"""

import contextlib
import logging
import threading
import time
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import msgspec
import psycopg
from django.conf import settings
from django.db import InterfaceError, OperationalError, connection, transaction
from django.utils import timezone
from django.utils.translation import gettext_noop

from inference import catalog
from inference.hub import HubError
from inference.lifecycle import SETTLED, Desired, InstanceState, Stage, transition
from inference.models import Instance, Node, Replica
from inference.models.instance import CONTROLLER_CHANNEL
from inference.provisioners.base import (
    Handle,
    Observed,
    Phase,
    Provisioner,
    Reason,
    Rejected,
    Retryable,
    Spec,
    Unavailable,
)
from inference.provisioners.local import LocalProvisioner

log = logging.getLogger(__name__)

ATTEMPTS = 3  # failed starts of one generation before it is left to a person
BACKOFF = 2.0  # seconds before the second attempt; doubled before each further one
LONGEST_BACKOFF = 60.0
NO_ROOM_RETRY = 5.0  # seconds until a place that was full is asked again
BUSY_ROUND = 1.0  # seconds between rounds while something is on its way
QUIET_ROUND = 5.0
WELL = timedelta(minutes=2)  # an engine that ran so long starts with a clean slate when it crashes

# Trying the same again cannot help; a person must change something first.
HOPELESS = frozenset({Reason.BAD_ARGUMENTS, Reason.OUT_OF_MEMORY, Reason.QUOTA_EXCEEDED})
# Not the model's fault: starting again is not counted.
BLAMELESS = frozenset({Reason.CANCELLED, Reason.NODE_LOST, Reason.PREEMPTED})

# Sentences for people; pages translate them when they show them.
WAITING = gettext_noop("Waiting to start.")
STOPPING = gettext_noop("Stopping the engine.")
LOST = gettext_noop("The engine's machine has lost it.")


# ------------------------------------------------------------------------------------ decide


@dataclass(frozen=True)
class View:
    """What one decision is made from."""

    desired: Desired
    generation: int
    state: InstanceState
    attempts: int
    retry_at: datetime | None
    now: datetime
    replica: "ReplicaView | None"  # the newest
    observed: Observed | None  # None: nothing to observe, or not reached
    unreachable: bool = False


@dataclass(frozen=True)
class ReplicaView:
    generation: int
    state: str
    asked_for: bool  # the provisioner has accepted it
    ready_at: datetime | None


@dataclass(frozen=True)
class Show:
    """Let people see this. None leaves attempts and retry_at as they are."""

    state: InstanceState
    stage: Stage = Stage.NONE
    reason: str = ""
    message: str = ""
    attempts: int | None = None
    retry_at: datetime | None = None


class Create:
    """Make a replica's row for the wanted generation."""


class Ensure:
    """Ask the provisioner for the replica."""


class MarkReady:
    """Let the gateway send it requests."""


class Unmark:
    """Keep the gateway from sending it requests for now."""


class Stop:
    """No more requests to it, then end the engine."""


@dataclass(frozen=True)
class End:
    """The engine is gone for good."""

    reason: str = ""
    exit_code: int | None = None


class Remove:
    """Delete what the provisioner still keeps of it: process, socket, files."""


class Bury:
    """The instance is deleted."""


class SayUnreachable:
    """The place does not answer: say so and change nothing else."""


Action = Show | Create | Ensure | MarkReady | Unmark | Stop | End | Remove | Bury | SayUnreachable


def decide(view: View) -> list[Action]:
    """What to do now. PURE."""
    if view.unreachable:
        return [SayUnreachable()]  # nothing is known, so nothing is re-created
    if view.replica is None or view.replica.state == Replica.State.GONE:
        return _without_replica(view)
    if view.desired != Desired.RUNNING or view.replica.generation != view.generation:
        return _towards_the_end(view)
    return _on_its_way(view, view.replica)


def _without_replica(view: View) -> list[Action]:
    if view.desired == Desired.DELETED:
        left = view.observed is not None and view.observed.phase != Phase.GONE
        return [Remove()] if left else [Bury()]
    if view.desired == Desired.STOPPED:
        return [Show(InstanceState.STOPPED)]
    if view.state == InstanceState.FAILED and view.attempts:
        return []  # until a person asks again
    if view.retry_at and view.now < view.retry_at:
        return []
    shown = Show(InstanceState.PROVISIONING, Stage.QUEUED, message=WAITING)
    # The last one's folder goes before a new one comes: its log was there to be read until now.
    return [*([Remove()] if view.observed else []), Create(), shown, Ensure()]


def _towards_the_end(view: View) -> list[Action]:
    observed = view.observed
    if observed is None or observed.phase in {Phase.EXITED, Phase.GONE}:
        stopped = view.desired == Desired.STOPPED
        end = End(Reason.CANCELLED, observed.exit_code if observed else None)
        return [end, *([Show(InstanceState.STOPPED)] if stopped else [])]
    return [Stop(), Show(InstanceState.STOPPING, message=STOPPING)]


def _on_its_way(view: View, replica: ReplicaView) -> list[Action]:
    observed = view.observed
    if observed is None or observed.phase == Phase.GONE:
        if replica.asked_for:  # the place has lost it
            return _failed(view, replica, Reason.NODE_LOST, LOST, None)
        return [Ensure()] if not view.retry_at or view.now >= view.retry_at else []
    match observed.phase:
        case Phase.EXITED:
            return _failed(
                view,
                replica,
                observed.reason or Reason.CRASHED,
                observed.message,
                observed.exit_code,
            )
        case Phase.READY:
            mark = [MarkReady()] if replica.state != Replica.State.READY else []
            well = replica.ready_at is not None and view.now - replica.ready_at > WELL
            return [*mark, Show(InstanceState.READY, attempts=0 if well else None)]
        case Phase.DEGRADED:
            unmark = [Unmark()] if replica.state == Replica.State.READY else []
            return [*unmark, Show(InstanceState.DEGRADED, message=observed.message)]
        case Phase.LOADING:
            return [Show(InstanceState.LOADING, observed.stage, message=observed.message)]
        case Phase.PROVISIONING:
            return [Show(InstanceState.PROVISIONING, observed.stage, message=observed.message)]
        case _:  # ending by itself: what it died of is known when it has
            return []


def _failed(
    view: View, replica: ReplicaView, reason: Reason, message: str, exit_code: int | None
) -> list[Action]:
    end = End(reason, exit_code)
    if reason in BLAMELESS:
        return [end, Show(InstanceState.PROVISIONING, Stage.QUEUED, reason, message)]
    well = replica.ready_at is not None and view.now - replica.ready_at > WELL
    attempts = 1 if well else view.attempts + 1
    if reason in HOPELESS or attempts >= ATTEMPTS:
        return [end, Show(InstanceState.FAILED, Stage.NONE, reason, message, attempts=attempts)]
    delay = min(LONGEST_BACKOFF, BACKOFF * 2 ** (attempts - 1))
    retry_at = view.now + timedelta(seconds=delay)
    shown = Show(
        InstanceState.PROVISIONING,
        Stage.QUEUED,
        reason,
        message,
        attempts=attempts,
        retry_at=retry_at,
    )
    return [end, shown]


# --------------------------------------------------------------------------------------- act


class Reconciler:
    """Rounds over all instances with one provisioner."""

    def __init__(self, provisioner: Provisioner) -> None:
        self.provisioner = provisioner

    def round(self) -> bool:
        """Look at every instance once; whether anything is on its way."""
        reached = self._look_round()
        busy = False
        for instance in Instance.objects.alive().select_related("organization"):
            try:
                busy |= self.reconcile(instance)
            except (OperationalError, InterfaceError):
                raise
            except Exception:  # one instance's defect must not stop the others
                log.exception("instance %s could not be reconciled", instance.id)
                busy = True
        if reached:
            self._remove_orphans()
        return busy

    def reconcile(self, instance: Instance) -> bool:
        """One look, one decision; whether the instance is still on its way."""
        replica = instance.replicas.order_by("-id").first()
        observed, unreachable = self._observe(replica)
        view = View(
            desired=Desired(instance.desired),
            generation=instance.generation,
            state=InstanceState(instance.state),
            attempts=instance.attempts,
            retry_at=instance.retry_at,
            now=timezone.now(),
            replica=_view_of(replica),
            observed=observed,
            unreachable=unreachable,
        )
        for action in decide(view):
            if isinstance(action, Create):
                replica = _create(instance)
                if replica is None:
                    break
            else:
                self._act(action, instance, replica, observed)
        return instance.deleted_at is None and (
            instance.state not in SETTLED or _unfinished(instance)
        )

    def _observe(self, replica: Replica | None) -> tuple[Observed | None, bool]:
        if replica is None:
            return None, False
        try:
            return self.provisioner.observe(handle_of(replica)), False
        except Unavailable:
            return None, True

    def _act(
        self,
        action: Action,
        instance: Instance,
        replica: Replica | None,
        observed: Observed | None,
    ) -> None:
        match action:
            case Show():
                _show(instance, action, observed)
                return
            case Bury():
                _bury(instance)
                return
            case SayUnreachable():
                _say_unreachable(instance)
                return
        if replica is None:
            return
        match action:
            case Ensure():
                self._ensure(instance, replica)
            case MarkReady() if observed:
                _mark_ready(instance, replica, observed)
            case Unmark():
                _move(replica, Replica.State.STARTING)
            case Stop():
                self._stop(replica)
            case End():
                _end(replica, action)
            case Remove():
                with contextlib.suppress(Unavailable):
                    self.provisioner.delete(handle_of(replica))

    def _ensure(self, instance: Instance, replica: Replica) -> None:
        try:
            handle = self.provisioner.ensure(spec_of(instance, replica), handle_of(replica))
        except Rejected as refusal:
            self._rejected(instance, replica, refusal)
        except HubError as problem:
            self._rejected(instance, replica, Rejected(Reason.BAD_ARGUMENTS, problem.sentence))
        except (Retryable, Unavailable) as problem:
            log.info("instance %s: %s", instance.id, problem)
            _postpone(instance, 2.0)
        else:
            replica.handle = msgspec.to_builtins(handle)
            replica.save(update_fields=["handle"])

    def _rejected(self, instance: Instance, replica: Replica, refusal: Rejected) -> None:
        if refusal.reason == Reason.INSUFFICIENT_CAPACITY:
            # It waits in line: room is made when another instance stops.
            retry_at = timezone.now() + timedelta(seconds=NO_ROOM_RETRY)
            waiting = Show(
                InstanceState.PROVISIONING,
                Stage.QUEUED,
                refusal.reason,
                refusal.message,
                retry_at=retry_at,
            )
            _show(instance, waiting, None)
            return
        _end(replica, End(refusal.reason))
        failed = Show(
            InstanceState.FAILED,
            reason=refusal.reason,
            message=refusal.message,
            attempts=ATTEMPTS,
        )
        _show(instance, failed, None)

    def _stop(self, replica: Replica) -> None:
        _move(replica, Replica.State.STOPPING)  # first, so that the gateway sends nothing more
        with contextlib.suppress(Unavailable):
            self.provisioner.stop(handle_of(replica))

    def _look_round(self) -> bool:
        """Keep the machines' descriptions up to date; False where the place is not reached."""
        try:
            health = self.provisioner.check()
        except Unavailable:
            return False
        for node in health.nodes:
            Node.objects.update_or_create(
                name=node.name,
                defaults={
                    "cpu_count": node.cpu_count,
                    "memory_bytes": node.memory_bytes,
                    "disk_free_bytes": node.disk_free_bytes,
                    "gpus": msgspec.to_builtins(node.gpus),
                    "seen_at": timezone.now(),
                },
            )
        return True

    def _remove_orphans(self) -> None:
        """Engines that no instance knows (any more): a deleted database, a lost row."""
        with contextlib.suppress(Unavailable):
            handles = self.provisioner.list()
            ids = [handle.replica_id for handle in handles]
            known = {
                str(id)
                for id in Replica.objects.filter(id__in=ids, instance__deleted_at=None).values_list(
                    "id", flat=True
                )
            }
            for handle in handles:
                if handle.replica_id not in known:
                    self.provisioner.delete(handle)


def handle_of(replica: Replica) -> Handle:
    """How the provisioner finds it; the row's own ids where it has not answered yet."""
    if replica.handle is not None:
        return msgspec.convert(replica.handle, Handle)
    return Handle(
        provisioner=replica.provisioner,
        replica_id=str(replica.id),
        instance_id=str(replica.instance_id),
        generation=replica.generation,
    )


def spec_of(instance: Instance, replica: Replica) -> Spec:
    """What should run. Raises HubError where a local folder is gone."""
    path = catalog.model_path(instance.model_source, instance.model_id)
    token = None
    if instance.model_source == Instance.Source.HUB:
        token = catalog.hub_token(instance.organization)
    return Spec(
        replica_id=str(replica.id),
        instance_id=str(instance.id),
        generation=replica.generation,
        engine=instance.engine,
        model_source=instance.model_source,
        model_id=instance.model_id,
        model_revision=instance.model_revision,
        model_path=str(path or ""),
        served_model_name=instance.name,
        settings=instance.settings,
        gpu_count=instance.gpu_count,
        hub_token=token or "",
    )


def _view_of(replica: Replica | None) -> ReplicaView | None:
    if replica is None:
        return None
    return ReplicaView(
        generation=replica.generation,
        state=replica.state,
        asked_for=replica.handle is not None,
        ready_at=replica.ready_at,
    )


def _create(instance: Instance) -> Replica | None:
    """A replica of the generation that was looked at; None where that is no longer wanted."""
    with transaction.atomic():
        wanted = Instance.objects.select_for_update().filter(
            id=instance.id, generation=instance.generation, desired=Desired.RUNNING
        )
        if not wanted.exists():
            return None
        return instance.replicas.create(
            organization_id=instance.organization_id,
            generation=instance.generation,
            provisioner=settings.PROVISIONER,
        )


def _show(instance: Instance, shown: Show, observed: Observed | None) -> None:
    """Write what people see, where it differs; a change of state or stage is an event."""
    progress = observed.progress if observed else None
    fields: dict[str, Any] = {
        "state": shown.state,
        "stage": shown.stage,
        "reason": str(shown.reason),
        "message": shown.message,
        "progress_done": progress.done if progress else None,
        "progress_total": progress.total if progress else None,
        "progress_unit": progress.unit if progress else "",
        "retry_at": shown.retry_at,
    }
    if shown.attempts is not None:
        fields["attempts"] = shown.attempts
    changed = {name: value for name, value in fields.items() if getattr(instance, name) != value}
    if not changed:
        return
    former = InstanceState(instance.state)
    moved = bool({"state", "stage"} & changed.keys())
    if "state" in changed:
        transition(former, shown.state)
        changed["state_changed_at"] = timezone.now()
        if shown.state == InstanceState.READY:
            changed["ready_at"] = timezone.now()
    with transaction.atomic():
        # Compare and set: if another controller was first, its look was newer than ours.
        won = Instance.objects.filter(id=instance.id, state=former).update(**changed)
        if won and moved:
            instance.note(shown.stage or shown.state, shown.message, code=str(shown.reason))
    for name, value in changed.items():
        setattr(instance, name, value)


def _say_unreachable(instance: Instance) -> None:
    instance.reason = Reason.BACKEND_UNREACHABLE
    instance.message = gettext_noop(
        "The machine's supervisor cannot be reached; nothing changes until it answers."
    )
    instance.save(update_fields=["reason", "message"])


def _mark_ready(instance: Instance, replica: Replica, observed: Observed) -> None:
    with transaction.atomic():
        Replica.objects.filter(id=replica.id, state=Replica.State.STARTING).update(
            state=Replica.State.READY,
            address=observed.address,
            engine_version=observed.engine_version,
            context_length=observed.context_length,
            gpu_indices=observed.gpu_indices,
            probe_prompt_tokens=observed.probe.prompt_tokens if observed.probe else 0,
            probe_completion_tokens=observed.probe.completion_tokens if observed.probe else 0,
            ready_at=replica.ready_at or timezone.now(),
        )
        # In one transaction with the instance's state, so that the gateway learns both at once.
        _show(instance, Show(InstanceState.READY), observed)


def _move(replica: Replica, state: Replica.State) -> None:
    if replica.state != state:
        replica.state = state
        replica.save(update_fields=["state"])


def _end(replica: Replica, end: End) -> None:
    replica.state = Replica.State.GONE
    replica.address = ""
    replica.ended_at = timezone.now()
    replica.end_reason = str(end.reason)
    replica.exit_code = end.exit_code
    replica.save(update_fields=["state", "address", "ended_at", "end_reason", "exit_code"])


def _bury(instance: Instance) -> None:
    instance.deleted_at = timezone.now()
    instance.state = InstanceState.STOPPED
    Instance.objects.filter(id=instance.id, deleted_at=None).update(
        deleted_at=instance.deleted_at, state=instance.state, stage="", message=""
    )
    instance.note("deleted", gettext_noop("The instance is deleted."))


def _postpone(instance: Instance, seconds: float) -> None:
    instance.retry_at = timezone.now() + timedelta(seconds=seconds)
    instance.save(update_fields=["retry_at"])


def _unfinished(instance: Instance) -> bool:
    """Settled, but not in what is wanted now."""
    match Desired(instance.desired):
        case Desired.RUNNING:
            return instance.state == InstanceState.STOPPED
        case Desired.STOPPED:
            return instance.state != InstanceState.STOPPED
        case Desired.DELETED:
            return True


# -------------------------------------------------------------------------------------- loop


def provisioner() -> Provisioner:
    """The place where this installation's engines run."""
    return LocalProvisioner(settings.ENV.node_socket)


def run(stop: threading.Event) -> None:
    """Reconcile until asked to stop: at once when a person wants something, else by the clock."""
    reconciler = Reconciler(provisioner())
    with contextlib.closing(_Bell(settings.ENV.database)) as bell:
        while not stop.is_set():
            try:
                busy = reconciler.round()
            except (OperationalError, InterfaceError) as error:
                log.warning("instances wait for the database: %s", error)
                connection.close()
                busy = True
            bell.wait(BUSY_ROUND if busy else QUIET_ROUND, stop)


class _Bell:
    """Rings when someone notifies the controller's channel."""

    SLICE = 0.25  # seconds; how soon a stop is noticed

    def __init__(self, database: str) -> None:
        self._database = database
        self._connection: psycopg.Connection[tuple[Any, ...]] | None = None

    def wait(self, seconds: float, stop: threading.Event) -> None:
        deadline = time.monotonic() + seconds
        while not stop.is_set() and time.monotonic() < deadline:
            try:
                if any(self._listening().notifies(timeout=self.SLICE, stop_after=1)):
                    return
            except psycopg.OperationalError:
                self.close()
                stop.wait(self.SLICE)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _listening(self) -> "psycopg.Connection[tuple[Any, ...]]":
        if self._connection is None:
            self._connection = psycopg.connect(self._database, autocommit=True, connect_timeout=5)
            self._connection.execute(f"LISTEN {CONTROLLER_CHANNEL}")
        return self._connection
