"""What the reconciler writes, each by compare-and-set on what its decision was made from.

A person, or a second controller whose lock was taken from it, may have been first; then nothing is
written, `Overtaken` is raised and the next round looks again.
"""

from collections.abc import Collection
from datetime import datetime, timedelta
from statistics import median
from typing import Any

import msgspec
from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models import F, Value
from django.db.models.functions import Greatest
from django.utils import timezone
from django.utils.translation import gettext_noop

from inference import fit_records
from inference.lifecycle import Desired, InstanceState, transition
from inference.models import Adapter, Instance, Replica, ServingInterval
from inference.provisioners.base import AdapterPhase, Handle, Observed, Reason
from inference.reconciler.steps import End, GiveUp, Show

UNREACHABLE = gettext_noop(
    "The machine's supervisor cannot be reached; nothing changes until it answers."
)
STARTS_REMEMBERED = 5  # of which the median is what a start takes
State = Replica.State


class Overtaken(Exception):
    """Someone was first, so what was decided is out of date."""


def create(instance: Instance, index: int) -> Replica:
    """A replica's row for the generation that was looked at. Raises Overtaken."""
    with transaction.atomic():
        wanted = _unchanged(instance).filter(desired=Desired.RUNNING).select_for_update()
        if not wanted.exists():
            raise Overtaken
        try:
            with transaction.atomic():
                return instance.replicas.create(
                    organization_id=instance.organization_id,
                    generation=instance.generation,
                    index=index,
                    revision=instance.revisions.filter(number=instance.revision).first(),
                    provisioner=settings.PROVISIONER,
                )
        except IntegrityError as error:
            raise Overtaken from error


def accept(replica: Replica, handle: Handle) -> None:
    """The provisioner has taken it on. Its start begins here: waiting for room is no part of it."""
    if replica.handle is None:
        replica.created_at = timezone.now()
    replica.handle = msgspec.to_builtins(handle)
    replica.save(update_fields=["handle", "created_at"])


def show(instance: Instance, shown: Show, observed: Observed | None = None) -> None:
    """Write what people see, where it differs; a change of state or stage is an event. Raises
    Overtaken."""
    changed = _changed(instance, shown, observed)
    if not changed:
        return
    moved = bool({"state", "stage"} & changed.keys())
    if "state" in changed:
        transition(InstanceState(instance.state), shown.state)
        changed["state_changed_at"] = timezone.now()
        if shown.state == InstanceState.READY:
            changed["ready_at"] = timezone.now()
    with transaction.atomic():
        if not _unchanged(instance).update(**changed):
            raise Overtaken
        if shown.rollout_reason and "stage" in changed and not shown.stage:
            # What ran before is ready, the one that was on its way is not.
            said = shown.rollout_message or instance.rollout_message
            instance.note("start_failed", said, code=str(shown.rollout_reason))
        elif moved:
            instance.note(shown.stage or shown.state, shown.message, code=str(shown.reason))
        elif instance.message == UNREACHABLE:
            instance.note("reached", gettext_noop("The machine's supervisor answers again."))
    for name, value in changed.items():
        setattr(instance, name, value)


def say_unreachable(instance: Instance) -> None:
    """A condition beside the state, which stays what was last known."""
    if instance.message == UNREACHABLE:
        return
    with transaction.atomic():
        now = {"reason": Reason.BACKEND_UNREACHABLE.value, "message": UNREACHABLE}
        if not _unchanged(instance).update(**now):
            raise Overtaken
        instance.note("unreachable", UNREACHABLE, code=Reason.BACKEND_UNREACHABLE)


def mark_ready(instance: Instance, replica: Replica, observed: Observed) -> None:
    """The gateway may send it requests; from now on it serves, and is billed for that."""
    probe, measured, first = observed.probe, observed.measured, replica.ready_at is None
    now = timezone.now()
    said = msgspec.to_builtins(measured) if measured else {}
    with transaction.atomic():
        _move(
            replica,
            State.READY,
            address=observed.address,
            engine_version=observed.engine_version,
            context_length=observed.context_length,
            chats=observed.chats,
            node=observed.node,
            gpu_type=observed.gpu_type,
            gpu_indices=observed.gpu_indices,
            probe_prompt_tokens=probe.prompt_tokens if probe else 0,
            probe_completion_tokens=probe.completion_tokens if probe else 0,
            adapters=loaded(observed),
            ready_at=replica.ready_at or now,
            **said,
        )
        _serve(replica, now)
        if first:
            _remember_start(instance, replica, now)
            fit_records.keep(instance, replica)


def unmark(replica: Replica) -> None:
    """The gateway sends it nothing until it is ready again."""
    with transaction.atomic():
        _move(replica, State.STARTING)
        _serve_no_more(replica)


def stopping(replica: Replica) -> None:
    """The gateway sends it nothing more."""
    if replica.state != State.STOPPING:
        with transaction.atomic():
            _move(replica, State.STOPPING)
            _serve_no_more(replica)


def resting(replica: Replica) -> None:
    """The gateway sends it nothing more until it is ready again."""
    if replica.state != State.ASLEEP:
        with transaction.atomic():
            _move(replica, State.ASLEEP)
            _serve_no_more(replica)


def end(
    replica: Replica, ended: End, start_log: str = "", last_contact: datetime | None = None
) -> None:
    """It is over. What has ended stays so. Where nobody saw it end, what it served is billed until
    its place was last reached."""
    with transaction.atomic():
        _move(
            replica,
            State.GONE,
            address="",
            ended_at=timezone.now(),
            end_reason=str(ended.reason),
            end_message=ended.message,
            exit_code=ended.exit_code,
            start_log=start_log,
        )
        _serve_no_more(replica, ended.at or last_contact)


def keep_idle(replicas: Collection[Replica]) -> None:
    """Since when each computes nothing, for people to see; decisions go by what is observed."""
    if replicas:
        Replica.objects.bulk_update(replicas, ["idle_since"])


def loaded(observed: Observed) -> list[str]:
    """The ids of the adapters that a replica serves."""
    return sorted(a.adapter_id for a in observed.adapters if a.phase == AdapterPhase.LOADED)


def keep_adapters(replica: Replica, ids: list[str]) -> None:
    """Which adapters it serves, for the gateway."""
    if replica.state == State.READY and replica.adapters != ids:
        _move(replica, State.READY, adapters=ids)


def show_adapter(instance: Instance, adapter: Adapter, state: str, message: str) -> None:
    """Write what people see of it, where that differs. What is on its way out stays so."""
    if (adapter.state, adapter.message) == (state, message):
        return
    first = state == Adapter.State.READY and adapter.ready_at is None
    now = {"ready_at": timezone.now()} if first else {}
    same = Adapter.objects.filter(id=adapter.id, state=adapter.state, removed_at=None)
    with transaction.atomic():
        if not same.update(state=state, message=message, **now):
            return
        if first:
            ready = gettext_noop("The adapter answers by its name.")
            instance.note("adapter_ready", ready, about=adapter.name)
        elif state == Adapter.State.FAILED != adapter.state:
            instance.note("adapter_failed", message, about=adapter.name)


def forget_adapter(adapter: Adapter) -> None:
    """No engine has it any more: its name is free."""
    Adapter.objects.filter(id=adapter.id, removed_at=None).update(removed_at=timezone.now())


def give_up(instance: Instance, gave_up: GiveUp) -> None:
    """The wanted revision could not start; one that has been ready before has no fault in itself"""
    instance.revisions.filter(number=instance.revision, first_ready_at=None).update(
        failed_at=timezone.now(),
        failed_reason=str(gave_up.reason),
        failed_message=gave_up.message,
    )


def bury(instance: Instance) -> None:
    """Nothing of it runs any more; its usage stays."""
    with transaction.atomic():
        now, stopped = timezone.now(), InstanceState.STOPPED.value
        if not _unchanged(instance).update(
            deleted_at=now, state=stopped, stage="", reason="", message=""
        ):
            raise Overtaken
        instance.adapters.filter(removed_at=None).update(removed_at=now)
        instance.note("deleted", gettext_noop("The instance is deleted."))
    instance.deleted_at = now


def postpone(instance: Instance, until: datetime) -> None:
    """The next attempt is not due before then."""
    if not _unchanged(instance).update(retry_at=until):
        raise Overtaken
    instance.retry_at = until


def _serve(replica: Replica, now: datetime) -> None:
    """Its serving begins, unless it goes on."""
    served = ServingInterval.objects.filter(replica=replica)
    if served.filter(ended_at=None).exists():
        return
    last = served.order_by("-ended_at").values_list("ended_at", flat=True).first()
    ServingInterval.objects.create(
        organization_id=replica.organization_id,
        instance_id=replica.instance_id,
        replica=replica,
        gpu_type=replica.gpu_type,
        gpu_count=len(replica.gpu_indices),
        started_at=max(now, last or now),  # a clock may be put back; no second is billed twice
    )


def _serve_no_more(replica: Replica, at: datetime | None = None) -> None:
    """Since `at`, as its place tells, or from now on. Clocks of two machines may differ: what its
    machine has vouched for, and is billed, it has served."""
    now = timezone.now()
    open_one = ServingInterval.objects.filter(replica=replica, ended_at=None)
    billed = F("started_at") + F("billed_seconds") * Value(timedelta(seconds=1))
    open_one.update(ended_at=Greatest(billed, Value(min(at or now, now))))


def _remember_start(instance: Instance, replica: Replica, now: datetime) -> None:
    """What a start takes, and that this revision can."""
    if replica.revision_id is not None:
        instance.revisions.filter(id=replica.revision_id, first_ready_at=None).update(
            first_ready_at=now, failed_at=None, failed_reason="", failed_message=""
        )
    started = instance.replicas.exclude(ready_at=None).order_by("-ready_at")[:STARTS_REMEMBERED]
    took = [(r.ready_at - r.created_at).total_seconds() for r in started if r.ready_at]
    seconds = max(0, round(median(took)))  # a clock may be put back
    if seconds != instance.typical_start_seconds:
        Instance.objects.filter(id=instance.id).update(typical_start_seconds=seconds)
        instance.typical_start_seconds = seconds


def _unchanged(instance: Instance) -> Any:
    """The row, while it is what the decision was made from."""
    return Instance.objects.filter(
        id=instance.id,
        state=instance.state,
        desired=instance.desired,
        generation=instance.generation,
        deleted_at=None,
    )


def _changed(instance: Instance, shown: Show, observed: Observed | None) -> dict[str, Any]:
    progress = observed.progress if observed else None
    fields: dict[str, Any] = {
        "state": shown.state.value,
        "stage": shown.stage.value,
        "reason": str(shown.reason),
        "message": shown.message,
        "progress_done": progress.done if progress else None,
        "progress_total": progress.total if progress else None,
        "progress_unit": progress.unit if progress else "",
        "progress_seconds_left": progress.seconds_left if progress else None,
        "retry_at": shown.retry_at,
        "rollout_reason": str(shown.rollout_reason),
    }
    if shown.attempts is not None:
        fields["attempts"] = shown.attempts
    if shown.rollout_message is not None or not shown.rollout_reason:
        fields["rollout_message"] = shown.rollout_message or ""
    return {name: value for name, value in fields.items() if getattr(instance, name) != value}


def _move(replica: Replica, state: Replica.State, **fields: Any) -> None:
    same = Replica.objects.filter(id=replica.id, state=replica.state)
    if not same.update(state=state, **fields):
        raise Overtaken
    for name, value in {"state": state.value, **fields}.items():
        setattr(replica, name, value)
