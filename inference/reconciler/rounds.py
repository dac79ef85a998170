"""Acts on what was decided: rounds over all instances with one provisioner."""

import contextlib
import logging
import time
from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import cached_property
from uuid import UUID

import msgspec
from django.db import InterfaceError, OperationalError, transaction
from django.db.models import F, Q
from django.utils import timezone

from inference import samples
from inference.hub import HubError
from inference.lifecycle import ATTEMPTS, Desired, InstanceState, Stage
from inference.models import Adapter, Instance, Node, Replica, ScheduleEntry
from inference.provisioners.base import (
    Health,
    Observed,
    Phase,
    Provisioner,
    Reason,
    Rejected,
    Retryable,
    Sight,
    Unavailable,
)
from inference.reconciler import crashes, writes
from inference.reconciler.adapters import keep
from inference.reconciler.decision import BLAMELESS, CIRCUMSTANCES, NO_ROOM_RETRY, decide
from inference.reconciler.place import handle_of, spec_of
from inference.reconciler.schedule import none_since, wanted_replicas
from inference.reconciler.steps import (
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
)

ASK_AGAIN = 2.0  # seconds until a place that could not answer just now is asked again
SWEEP = 60.0  # seconds until what a place keeps is looked through again, where nothing changed
LAST_WORDS = 64 * 1024  # bytes of a failed start's log that are kept
NIGHT_IDLE = timedelta(minutes=15)  # without a request, before what was woken at night sleeps again

log = logging.getLogger(__name__)


@dataclass
class _Look:
    """What one round goes by."""

    reached: bool = True
    health: Health | None = None
    sights: dict[str, Sight] = field(default_factory=dict)  # by replica
    ghosts: dict[UUID, list[Sight]] = field(default_factory=dict)  # by instance; books: gone
    replicas: dict[UUID, list[Replica]] = field(default_factory=dict)  # by instance, not gone
    entries: dict[UUID, list[ScheduleEntry]] = field(default_factory=dict)  # by instance
    adapters: dict[UUID, list[Adapter]] = field(default_factory=dict)  # by instance
    nodes: list[Node] = field(default_factory=list)

    @property
    def open(self) -> bool:
        """Whether some machine takes new engines."""
        return not self.nodes or any(not node.cordoned for node in self.nodes)

    @cached_property
    def draining(self) -> frozenset[str]:
        return frozenset(node.name for node in self.nodes if node.draining)

    @property
    def last_contact(self) -> datetime | None:
        """When the place was reached before this round."""
        return max((node.seen_at for node in self.nodes), default=None)


class Reconciler:
    def __init__(self, provisioner: Provisioner) -> None:
        self.provisioner = provisioner
        self._accounted_for: frozenset[UUID] = frozenset()  # saves queries, decides nothing
        self._sweep_due = 0.0
        self._phases: dict[str, Phase] = {}  # at the last look, by replica

    def stirs(self) -> bool:
        """Whether an engine has died, or moved otherwise, since the last round. Costs no query."""
        try:
            return _phases(self.provisioner.observe_all()) != self._phases
        except Unavailable:
            return False

    def round(self, only: Collection[UUID] = ()) -> bool:
        """Look at every instance once, or only at these; whether anything is on its way."""
        instances = Instance.objects.alive()
        if only:
            instances = instances.filter(id__in=only)
        look = self._look()
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
            writes.keep_idle(_rested(look))
            self._remove_orphans(look)
            self._describe_nodes(look)
        return busy

    def _look(self) -> _Look:
        look = _Look(nodes=list(Node.objects.all()))
        living, entries, adapters = defaultdict(list), defaultdict(list), defaultdict(list)
        for replica in Replica.objects.exclude(state=Replica.State.GONE).order_by("id"):
            living[replica.instance_id].append(replica)
        for entry in ScheduleEntry.objects.order_by("id"):
            entries[entry.instance_id].append(entry)
        for adapter in Adapter.objects.filter(removed_at=None):
            adapters[adapter.instance_id].append(adapter)
        look.replicas, look.entries, look.adapters = dict(living), dict(entries), dict(adapters)
        try:
            look.health = self.provisioner.check()
            # After the rows: what had been asked for by then is shown, or the place has lost it.
            sights = self.provisioner.observe_all()
        except Unavailable:
            look.reached = False
            return look
        self._phases = _phases(sights)
        look.sights = {sight.handle.replica_id: sight for sight in sights}
        known = {str(replica.id) for replicas in living.values() for replica in replicas}
        ghosts = defaultdict(list)
        for id_, sight in look.sights.items():
            if id_ not in known:
                ghosts[UUID(sight.handle.instance_id)].append(sight)
        look.ghosts = dict(ghosts)
        return look

    def _concerned(self, instances: "Iterable[Instance]", look: _Look) -> "Iterable[Instance]":
        """All but those that hold nothing and want nothing."""
        resting = Q(desired=F("state"), desired__in=[Desired.STOPPED, Desired.ASLEEP])
        moving = ~resting | Q(id__in={*look.replicas, *look.entries})
        return instances.filter(moving).select_related("organization").order_by("id")  # type: ignore[attr-defined]

    def reconcile(self, instance: Instance, look: _Look) -> bool:
        """One look, one decision; whether the instance is still on its way."""
        replicas = {str(r.id): r for r in look.replicas.get(instance.id, ())}
        for id_, replica in replicas.items():
            if replica.handle is None and id_ in look.sights:
                # Whoever asked for it was killed before the answer was kept. Were it lost later,
                # it would be taken for one that was never there, and started a second time.
                writes.accept(replica, look.sights[id_].handle)
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
            adapting = look.reached and keep(
                self.provisioner,
                instance,
                look.adapters.get(instance.id, []),
                [(r, look.sights[id_]) for id_, r in replicas.items() if id_ in look.sights],
            )
        except writes.Overtaken:
            return True
        if adapting:
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
                ended, log_end = replicas[action.replica], words.get(action.replica, "")
                writes.end(ended, action, log_end, look.last_contact)
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
            case Stop(id_, grace):
                writes.stopping(replicas[id_])  # first, so that the gateway sends nothing more
                with contextlib.suppress(Unavailable):
                    self.provisioner.stop(handle_of(replicas[id_]), grace)
            case Rest(id_):
                self._rest(replicas[id_])
            case Rouse(id_):
                with contextlib.suppress(Unavailable):
                    self.provisioner.wake(handle_of(replicas[id_]))
            case Remove(id_):
                with contextlib.suppress(Unavailable):
                    self.provisioner.delete(look.sights[id_].handle)

    def _rest(self, replica: Replica) -> None:
        writes.resting(replica)  # first, so that the gateway sends nothing more
        with contextlib.suppress(Unavailable):
            if not self.provisioner.sleep(handle_of(replica)):
                writes.stopping(replica)
                self.provisioner.stop(handle_of(replica))

    def _ensure(self, instance: Instance, replica: Replica, replicas: dict[str, Replica]) -> None:
        try:
            spec = spec_of(instance, replica)
            writes.accept(replica, self.provisioner.ensure(spec, handle_of(replica)))
        except Rejected as refusal:
            _refused(instance, replica, refusal, replicas)
        except HubError as problem:
            gone = Rejected(Reason.BAD_ARGUMENTS, problem.sentence)
            _refused(instance, replica, gone, replicas)
        except (Retryable, Unavailable) as problem:
            log.info("instance %s: %s", instance.id, problem)
            writes.postpone(instance, _in(ASK_AGAIN))

    def _describe_nodes(self, look: _Look) -> None:
        """Keep the machines' descriptions up to date. At the end of a round: until then they say
        when the place was reached before."""
        nodes = look.health.nodes if look.health else []
        for node in nodes:
            facts = {
                "cpu_count": node.cpu_count,
                "memory_bytes": node.memory_bytes,
                "disk_free_bytes": node.disk_free_bytes,
                "gpus": msgspec.to_builtins(node.gpus),
                "walls": msgspec.to_builtins(node.walls) or {},
                "seen_at": timezone.now(),
            }
            if not Node.objects.filter(name=node.name).update(**facts):
                Node.objects.get_or_create(name=node.name, defaults=facts)
        if nodes and {node.name for node in look.nodes} - {node.name for node in nodes}:
            # A machine that was renamed must not go on offering room that is not there.
            Node.objects.exclude(name__in=[node.name for node in nodes]).delete()

    def _remove_orphans(self, look: _Look) -> None:
        """Engines and folders that no instance needs (any more): of a deleted one, of an earlier
        replica, of a database that was lost."""
        found = {
            UUID(sight.handle.replica_id): sight
            for ghosts in look.ghosts.values()
            for sight in ghosts
        }
        if not found:
            return
        over = {id_ for id_, sight in found.items() if sight.observed.phase == Phase.EXITED}
        unchanged = over == found.keys() == self._accounted_for
        if unchanged and time.monotonic() < self._sweep_due:
            return
        mine = Replica.objects.filter(instance__in=look.ghosts, instance__deleted_at=None)
        needed = set(mine.exclude(state=Replica.State.GONE).values_list("id", flat=True))
        # The log of the last engine in each place can still be read.
        newest = mine.order_by("instance_id", "index", "-id").distinct("instance_id", "index")
        needed |= over & set(newest.values_list("id", flat=True))
        with contextlib.suppress(Unavailable):
            for id_ in found.keys() - needed:
                self.provisioner.delete(found[id_].handle)
        self._accounted_for = frozenset(found)
        self._sweep_due = time.monotonic() + SWEEP


def _refused(
    instance: Instance, replica: Replica, refusal: Rejected, replicas: dict[str, Replica]
) -> None:
    """The provisioner will not have it as it stands."""
    reason, message = refusal.reason, refusal.message
    if reason == Reason.INSUFFICIENT_CAPACITY:
        # It waits in line: room is made when another instance stops.
        waiting = Show(InstanceState.PROVISIONING, Stage.QUEUED, reason, message)
        waiting = replace(waiting, retry_at=_in(NO_ROOM_RETRY))
        writes.show(instance, _beside_others(waiting, instance, replicas))
        return
    failed = Show(InstanceState.FAILED, Stage.NONE, reason, message, ATTEMPTS)
    with transaction.atomic():
        writes.end(replica, End(str(replica.id), reason, message))
        writes.give_up(instance, GiveUp(reason, message))
        writes.show(instance, _beside_others(failed, instance, replicas))


def _beside_others(shown: Show, instance: Instance, replicas: dict[str, Replica]) -> Show:
    """The same, where others serve: an earlier generation as it did, or fewer than are wanted."""
    serving = [r for r in replicas.values() if r.state == Replica.State.READY]
    if any(r.generation != instance.generation for r in serving):
        return replace(
            shown,
            state=InstanceState(instance.state),
            reason="",
            message="",
            rollout_reason=shown.reason,
            rollout_message=shown.message,
        )
    return replace(shown, state=InstanceState.DEGRADED) if serving else shown


def _rested(look: _Look) -> list[Replica]:
    """Those that have begun to rest, or to compute, since that was last written down."""
    changed = []
    for replica in (replica for replicas in look.replicas.values() for replica in replicas):
        observed = _seen(look, str(replica.id))
        since = observed.idle_since if observed else None
        if replica.state == Replica.State.READY and replica.idle_since != since:
            replica.idle_since = since
            changed.append(replica)
    return changed


def _phases(sights: "Iterable[Sight]") -> dict[str, Phase]:
    return {sight.handle.replica_id: sight.observed.phase for sight in sights}


def _is_outside(action: Action) -> bool:
    """Whether it asks something of the provisioner."""
    return isinstance(action, Create | Ensure | Stop | Rest | Rouse | Remove)


def _in(seconds: float) -> datetime:
    return timezone.now() + timedelta(seconds=seconds)


def _seen(look: _Look, replica_id: str) -> Observed | None:
    sight = look.sights.get(replica_id)
    return sight.observed if sight else None


def _view(instance: Instance, look: _Look) -> View:
    now = timezone.now()
    entries = look.entries.get(instance.id, [])
    wanted = wanted_replicas(instance.replica_count, entries, now) if entries else None
    night_since = none_since(entries, now) if wanted == 0 else None
    return View(
        desired=Desired(instance.desired),
        generation=instance.generation,
        state=InstanceState(instance.state),
        reason=instance.reason,
        message=instance.message,
        rollout_reason=instance.rollout_reason,
        attempts=instance.attempts,
        retry_at=instance.retry_at,
        start_seconds=instance.typical_start_seconds,
        now=now,
        wanted=wanted or instance.replica_count,
        replicas=tuple(_view_of(r, look) for r in look.replicas.get(instance.id, ())),
        ghosts=tuple(
            (sight.handle.replica_id, sight.observed.phase)
            for sight in look.ghosts.get(instance.id, ())
        ),
        unreachable=not look.reached,
        open=look.open,
        approval=instance.approval,
        at_once=instance.replaces_at_once,
        restorable=_is_restorable(instance),
        sleep_after=_sleep_after(instance, night=wanted == 0),
        night_since=night_since,
        sleeps_by_schedule=instance.sleeps_by_schedule,
    )


def _is_restorable(instance: Instance) -> bool:
    """Whether what served before may come back; asked only where that can matter."""
    replaced = instance.replaces_at_once or bool(instance.rollout_reason)
    in_trouble = instance.state != InstanceState.READY
    return replaced and in_trouble and instance.revision > 1 and instance.has_better_revision


def _sleep_after(instance: Instance, *, night: bool) -> timedelta | None:
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
        asleep=replica.state == Replica.State.ASLEEP,
        evicted=bool(replica.node) and replica.node in look.draining,
        address=replica.address,
        began_at=replica.created_at,
        died=_died_before(replica, look),
        observed=_seen(look, str(replica.id)),
    )


def _died_before(replica: Replica, look: _Look) -> tuple[datetime, ...]:
    """When those of its generation did that served in its place; asked only where it is dead."""
    observed = _seen(look, str(replica.id))
    if replica.ready_at is None or observed is None or observed.phase != Phase.EXITED:
        return ()
    served = Replica.objects.filter(
        instance=replica.instance_id, generation=replica.generation, index=replica.index
    ).exclude(ready_at=None)
    dead = served.filter(state=Replica.State.GONE).exclude(end_reason__in=BLAMELESS | CIRCUMSTANCES)
    ends = dead.order_by("-ended_at").values_list("ended_at", flat=True)[: crashes.MOST]
    return tuple(at for at in ends if at is not None)
