"""Acts on what was decided: rounds over all instances with one provisioner."""

import contextlib
import logging
from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

import msgspec
from django.db import InterfaceError, OperationalError, transaction
from django.db.models import F, Q
from django.utils import timezone

from inference import samples
from inference.hub import HubError
from inference.lifecycle import Desired, InstanceState, Stage
from inference.models import Instance, Node, Replica, ScheduleEntry
from inference.provisioners.base import (
    NodeStatus,
    Observed,
    Provisioner,
    Reason,
    Rejected,
    Retryable,
    Sight,
    Unavailable,
)
from inference.reconciler import writes
from inference.reconciler.decision import (
    ATTEMPTS,
    NO_ROOM_RETRY,
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
    decide,
)
from inference.reconciler.place import handle_of, spec_of
from inference.reconciler.schedule import wanted_replicas

ASK_AGAIN = 2.0  # seconds until a place that could not answer just now is asked again
LAST_WORDS = 64 * 1024  # bytes of a failed start's log that are kept
NIGHT_IDLE = timedelta(minutes=15)  # without a request, before the schedule puts it to sleep

log = logging.getLogger(__name__)


@dataclass
class _Look:
    """What one round goes by."""

    reached: bool = True
    sights: dict[str, Sight] = field(default_factory=dict)  # by replica
    replicas: dict[UUID, list[Replica]] = field(default_factory=dict)  # by instance, not gone
    entries: dict[UUID, list[ScheduleEntry]] = field(default_factory=dict)  # by instance
    open: bool = True  # some machine takes new engines
    draining: frozenset[str] = frozenset()

    def ghosts(self, instance: Instance) -> list[Sight]:
        """What the place has of the instance and the books call gone."""
        living = {str(replica.id) for replica in self.replicas.get(instance.id, ())}
        mine = str(instance.id)
        return [
            sight
            for id_, sight in self.sights.items()
            if sight.handle.instance_id == mine and id_ not in living
        ]


class Reconciler:
    def __init__(self, provisioner: Provisioner) -> None:
        self.provisioner = provisioner

    def round(self, only: Collection[UUID] = ()) -> bool:
        """Look at every instance once, or only at these; whether anything is on its way."""
        instances = Instance.objects.alive()
        if only:
            instances = instances.filter(id__in=only)
        look = self._look(instances)
        busy = False
        # The oldest first: who has waited longest for room gets it.
        for instance in self._concerned(instances, look):
            try:
                busy |= self.reconcile(instance, look)
            except (OperationalError, InterfaceError):
                raise
            except Exception:  # one instance's defect must not stop the others
                log.exception("instance %s could not be reconciled", instance.id)
                busy = True
        if look.reached and not only:
            self._remove_orphans(look)
        return busy

    def _look(self, instances: "Iterable[Instance]") -> _Look:
        look = _Look()
        try:
            self._describe_nodes(self.provisioner.check().nodes)
            # Listed before the rows are read: a row is there before its replica is asked for.
            look.sights = {s.handle.replica_id: s for s in self.provisioner.observe_all()}
        except Unavailable:
            look.reached = False
        living, entries = defaultdict(list), defaultdict(list)
        for replica in Replica.objects.exclude(state=Replica.State.GONE).order_by("id"):
            living[replica.instance_id].append(replica)
        for entry in ScheduleEntry.objects.order_by("id"):
            entries[entry.instance_id].append(entry)
        look.replicas, look.entries = dict(living), dict(entries)
        nodes = list(Node.objects.all())
        look.open = not nodes or any(not node.cordoned for node in nodes)
        look.draining = frozenset(node.name for node in nodes if node.draining)
        return look

    def _concerned(self, instances: "Iterable[Instance]", look: _Look) -> "Iterable[Instance]":
        """All but those that hold nothing and want nothing."""
        there = {UUID(sight.handle.instance_id) for sight in look.sights.values()}
        resting = Q(desired=F("state"), desired__in=[Desired.STOPPED, Desired.ASLEEP])
        moving = ~resting | Q(id__in={*there, *look.replicas, *look.entries})
        return instances.filter(moving).select_related("organization").order_by("id")  # type: ignore[attr-defined,no-any-return]

    def reconcile(self, instance: Instance, look: _Look) -> bool:
        """One look, one decision; whether the instance is still on its way."""
        replicas = {str(r.id): r for r in look.replicas.get(instance.id, ())}
        for id_, replica in replicas.items():
            samples.take(replica, _seen(look, id_), timezone.now())
        view = _view(instance, look)
        actions = decide(view)
        words = self._last_words(actions, replicas)
        try:
            # The gateway learns of state and address at once, and a failed start is counted once.
            with transaction.atomic():
                for action in actions:
                    if not _is_outside(action):
                        self._write(action, instance, replicas, look, words)
            for action in actions:  # no transaction may wait for the provisioner
                if _is_outside(action):
                    self._ask(action, instance, replicas, look)
        except writes.Overtaken:
            return True
        rolling = any(r.generation != instance.generation for r in replicas.values())
        fewer = len(replicas) < view.wanted and not view.given_up
        unsettled = instance.desired == Desired.RUNNING and (rolling or fewer)
        return instance.deleted_at is None and (unsettled or not instance.is_settled)

    def _last_words(self, actions: list[Action], replicas: dict[str, Replica]) -> dict[str, str]:
        """The end of the logs of starts that have failed, before they are lost."""
        words = {}
        for action in actions:
            if isinstance(action, End) and (replica := replicas[action.replica]).ready_at is None:
                with contextlib.suppress(Unavailable):
                    chunk = self.provisioner.logs(handle_of(replica), limit=LAST_WORDS)
                    words[action.replica] = chunk.text.replace("\0", "")
        return words

    def _write(
        self,
        action: Action,
        instance: Instance,
        replicas: dict[str, Replica],
        look: _Look,
        words: dict[str, str],
    ) -> None:
        match action:
            case Show():
                writes.show(instance, action, _seen(look, action.of))
            case MarkReady(id_) if observed := _seen(look, id_):
                writes.mark_ready(instance, replicas[id_], observed)
            case Unmark(id_):
                writes.unmark(replicas[id_])
            case End():
                writes.end(replicas[action.replica], action, words.get(action.replica, ""))
            case GiveUp():
                writes.give_up(instance, action)
            case Restore():
                instance.restore()
            case FallAsleep():
                instance.fall_asleep(by_schedule=action.by_schedule)
            case Wake():
                instance.request_wake(None)
            case Bury():
                writes.bury(instance)
            case SayUnreachable():
                writes.say_unreachable(instance)

    def _ask(
        self, action: Action, instance: Instance, replicas: dict[str, Replica], look: _Look
    ) -> None:
        match action:
            case Create():
                replica = writes.create(instance, action.index)
                replicas[str(replica.id)] = replica
                self._ensure(instance, replica, replicas)
            case Ensure(id_):
                self._ensure(instance, replicas[id_], replicas)
            case Stop(id_):
                writes.stopping(replicas[id_])  # first, so that the gateway sends nothing more
                with contextlib.suppress(Unavailable):
                    self.provisioner.stop(handle_of(replicas[id_]))
            case Remove(id_):
                with contextlib.suppress(Unavailable):
                    self.provisioner.delete(look.sights[id_].handle)

    def _ensure(self, instance: Instance, replica: Replica, replicas: dict[str, Replica]) -> None:
        try:
            spec = spec_of(instance, replica)
            writes.accept(replica, self.provisioner.ensure(spec, handle_of(replica)))
        except Rejected as refusal:
            _refused(instance, replica, refusal, _others_serve(replicas))
        except HubError as problem:
            refusal = Rejected(Reason.BAD_ARGUMENTS, problem.sentence)
            _refused(instance, replica, refusal, _others_serve(replicas))
        except (Retryable, Unavailable) as problem:
            log.info("instance %s: %s", instance.id, problem)
            writes.postpone(instance, _in(ASK_AGAIN))

    def _describe_nodes(self, nodes: list[NodeStatus]) -> None:
        """Keep the machines' descriptions up to date."""
        for node in nodes:
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
        if nodes:
            # A machine that was renamed must not go on offering room that is not there.
            Node.objects.exclude(name__in=[node.name for node in nodes]).delete()

    def _remove_orphans(self, look: _Look) -> None:
        """Engines and folders that no instance needs (any more): of a deleted one, of an earlier
        replica, of a database that was lost."""
        there = {UUID(sight.handle.instance_id) for sight in look.sights.values()}
        mine = Replica.objects.filter(instance__in=there, instance__deleted_at=None)
        needed = set(mine.exclude(state=Replica.State.GONE).values_list("id", flat=True))
        # Of one that rests, the log of the last engine can still be read.
        newest = mine.order_by("instance_id", "-id").distinct("instance_id")
        needed |= set(newest.values_list("id", flat=True))
        with contextlib.suppress(Unavailable):
            for id_, sight in look.sights.items():
                if UUID(id_) not in needed:
                    self.provisioner.delete(sight.handle)


def _refused(instance: Instance, replica: Replica, refusal: Rejected, others_serve: bool) -> None:
    """The provisioner will not have it as it stands."""
    reason, message = refusal.reason, refusal.message
    if reason == Reason.INSUFFICIENT_CAPACITY:
        # It waits in line: room is made when another instance stops.
        now = InstanceState(instance.state) if others_serve else InstanceState.PROVISIONING
        waiting = Show(now, Stage.QUEUED, reason, message, retry_at=_in(NO_ROOM_RETRY))
        if others_serve:
            waiting = Show(
                now,
                Stage.QUEUED,
                "" if now == InstanceState.READY else reason,
                "" if now == InstanceState.READY else message,
                retry_at=_in(NO_ROOM_RETRY),
                rollout_reason=reason,
                rollout_message=message,
            )
        writes.show(instance, waiting)
        return
    with transaction.atomic():
        writes.end(replica, End(str(replica.id), reason, message))
        writes.give_up(instance, GiveUp(reason, message))
        if others_serve:
            now = InstanceState(instance.state)
            serving = Show(now, attempts=ATTEMPTS, rollout_reason=reason, rollout_message=message)
            writes.show(instance, serving)
        else:
            failed = Show(InstanceState.FAILED, Stage.NONE, reason, message, ATTEMPTS)
            writes.show(instance, failed)


def _others_serve(replicas: dict[str, Replica]) -> bool:
    return any(replica.state == Replica.State.READY for replica in replicas.values())


def _is_outside(action: Action) -> bool:
    """Whether it asks something of the provisioner."""
    return isinstance(action, Create | Ensure | Stop | Remove)


def _in(seconds: float) -> datetime:
    return timezone.now() + timedelta(seconds=seconds)


def _seen(look: _Look, replica_id: str) -> Observed | None:
    sight = look.sights.get(replica_id)
    return sight.observed if sight else None


def _view(instance: Instance, look: _Look) -> View:
    now = timezone.now()
    entries = look.entries.get(instance.id, [])
    wanted = wanted_replicas(instance.replica_count, entries, now) if entries else None
    night = wanted == 0
    return View(
        desired=Desired(instance.desired),
        generation=instance.generation,
        state=InstanceState(instance.state),
        reason=instance.reason,
        message=instance.message,
        rollout_reason=instance.rollout_reason,
        attempts=instance.attempts,
        retry_at=instance.retry_at,
        now=now,
        wanted=wanted or instance.replica_count,
        replicas=tuple(_view_of(r, look) for r in look.replicas.get(instance.id, ())),
        ghosts=tuple((s.handle.replica_id, s.observed.phase) for s in look.ghosts(instance)),
        unreachable=not look.reached,
        open=look.open,
        approval=instance.approval,
        at_once=instance.replaces_at_once,
        restorable=_is_restorable(instance),
        sleep_after=_sleep_after(instance, night),
        night=night,
        sleeps_by_schedule=instance.sleeps_by_schedule,
    )


def _is_restorable(instance: Instance) -> bool:
    """Whether what served before may come back; asked only where that can matter."""
    replaced = instance.replaces_at_once or bool(instance.rollout_reason)
    in_trouble = instance.state != InstanceState.READY
    return replaced and in_trouble and instance.revision > 1 and instance.has_better_revision


def _sleep_after(instance: Instance, night: bool) -> timedelta | None:
    minutes = instance.sleep_after_minutes
    if minutes is None:
        return NIGHT_IDLE if night else None
    usual = timedelta(minutes=minutes)
    return min(usual, NIGHT_IDLE) if night else usual


def _view_of(replica: Replica, look: _Look) -> ReplicaView:
    return ReplicaView(
        id=str(replica.id),
        generation=replica.generation,
        index=replica.index,
        serving=replica.state == Replica.State.READY,
        asked_for=replica.handle is not None,
        has_been_ready=replica.ready_at is not None,
        stopping=replica.state == Replica.State.STOPPING,
        evicted=bool(replica.node) and replica.node in look.draining,
        address=replica.address,
        observed=_seen(look, str(replica.id)),
    )
