"""Acts on what was decided: rounds over all instances with one provisioner."""

import contextlib
import logging
from datetime import datetime, timedelta
from uuid import UUID

import msgspec
from django.db import InterfaceError, OperationalError, transaction
from django.utils import timezone

from inference import samples
from inference.hub import HubError
from inference.lifecycle import Desired, InstanceState, Stage
from inference.models import Instance, Node, Replica
from inference.provisioners.base import (
    Observed,
    Provisioner,
    Reason,
    Rejected,
    Retryable,
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
    MarkReady,
    Remove,
    ReplicaView,
    SayUnreachable,
    Show,
    Stop,
    Unmark,
    View,
    decide,
)
from inference.reconciler.place import handle_of, spec_of

ASK_AGAIN = 2.0  # seconds until a place that could not answer just now is asked again

log = logging.getLogger(__name__)


class Reconciler:
    def __init__(self, provisioner: Provisioner) -> None:
        self.provisioner = provisioner

    def round(self) -> bool:
        """Look at every instance once; whether anything is on its way."""
        reached = self._look_round()
        busy = False
        # The oldest first: who has waited longest for room gets it.
        for instance in Instance.objects.alive().select_related("organization").order_by("id"):
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
        if replica is not None:
            samples.take(replica, observed, timezone.now())
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
        actions = decide(view)
        try:
            # The gateway learns of state and address at once, and a failed start is counted once.
            with contextlib.nullcontext() if _outside(actions) else transaction.atomic():
                for action in actions:
                    replica = self._act(action, instance, replica, observed)
        except writes.Overtaken:
            return True
        return instance.deleted_at is None and not instance.is_settled

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
    ) -> Replica | None:
        """Do it; the replica that the next action is about."""
        match action:
            case Create():
                return writes.create(instance)
            case Show():
                writes.show(instance, action, observed)
            case Bury():
                writes.bury(instance)
            case SayUnreachable():
                writes.say_unreachable(instance)
            case _ if replica is not None:
                self._act_on_replica(action, instance, replica, observed)
        return replica

    def _act_on_replica(
        self, action: Action, instance: Instance, replica: Replica, observed: Observed | None
    ) -> None:
        match action:
            case Ensure():
                self._ensure(instance, replica)
            case MarkReady() if observed:
                writes.mark_ready(replica, observed)
            case Unmark():
                writes.unmark(replica)
            case Stop():
                writes.stopping(replica)  # first, so that the gateway sends nothing more
                with contextlib.suppress(Unavailable):
                    self.provisioner.stop(handle_of(replica))
            case End():
                writes.end(replica, action)
            case Remove():
                with contextlib.suppress(Unavailable):
                    self.provisioner.delete(handle_of(replica))

    def _ensure(self, instance: Instance, replica: Replica) -> None:
        try:
            spec = spec_of(instance, replica)
            writes.accept(replica, self.provisioner.ensure(spec, handle_of(replica)))
        except Rejected as refusal:
            _refused(instance, replica, refusal)
        except HubError as problem:
            _refused(instance, replica, Rejected(Reason.BAD_ARGUMENTS, problem.sentence))
        except (Retryable, Unavailable) as problem:
            log.info("instance %s: %s", instance.id, problem)
            writes.postpone(instance, _in(ASK_AGAIN))

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
        if health.nodes:
            # A machine that was renamed must not go on offering room that is not there.
            Node.objects.exclude(name__in=[node.name for node in health.nodes]).delete()
        return True

    def _remove_orphans(self) -> None:
        """Engines and folders that no instance needs (any more): of a deleted one, of an earlier
        replica, of a database that was lost."""
        with contextlib.suppress(Unavailable):
            # Listed before the rows are read: a row is there before its replica is asked for.
            handles = self.provisioner.list()
            instances = [UUID(handle.instance_id) for handle in handles]
            newest = (
                Replica.objects.filter(instance__in=instances, instance__deleted_at=None)
                .order_by("instance_id", "-id")
                .distinct("instance_id")
            )
            needed = {str(replica_id) for replica_id in newest.values_list("id", flat=True)}
            for handle in handles:
                if handle.replica_id not in needed:
                    self.provisioner.delete(handle)


def _refused(instance: Instance, replica: Replica, refusal: Rejected) -> None:
    """The provisioner will not have it as it stands."""
    if refusal.reason == Reason.INSUFFICIENT_CAPACITY:
        # It waits in line: room is made when another instance stops.
        waiting = Show(
            InstanceState.PROVISIONING,
            Stage.QUEUED,
            refusal.reason,
            refusal.message,
            retry_at=_in(NO_ROOM_RETRY),
        )
        writes.show(instance, waiting)
        return
    failed = Show(
        InstanceState.FAILED, reason=refusal.reason, message=refusal.message, attempts=ATTEMPTS
    )
    with transaction.atomic():
        writes.end(replica, End(refusal.reason))
        writes.show(instance, failed)


def _outside(actions: list[Action]) -> bool:
    """Whether they ask something of the provisioner: no transaction may wait for that."""
    return any(isinstance(action, Create | Ensure | Stop | Remove) for action in actions)


def _in(seconds: float) -> datetime:
    return timezone.now() + timedelta(seconds=seconds)


def _view_of(replica: Replica | None) -> ReplicaView | None:
    if replica is None:
        return None
    return ReplicaView(
        generation=replica.generation,
        gone=replica.state == Replica.State.GONE,
        serving=replica.state == Replica.State.READY,
        asked_for=replica.handle is not None,
        has_been_ready=replica.ready_at is not None,
        address=replica.address,
    )
