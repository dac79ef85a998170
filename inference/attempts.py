"""Starts of an instance: how each ended, what was wrong with it, and what can be done about it.

What was wrong is read from the kept log each time somebody asks: a sign that the doctor learns
later explains old attempts too.
"""

from dataclasses import dataclass, replace

from django.db.models import QuerySet

from accounts.models import User
from inference import doctor, fit_answers
from inference.doctor import Diagnosis, Kind, Remedy, Situation
from inference.lifecycle import InstanceState
from inference.models import Instance, Replica
from inference.provisioners.base import Reason

KEPT = 50  # attempts that are told of
ON_PURPOSE = (Reason.CANCELLED, Reason.PREEMPTED)


@dataclass(frozen=True)
class Attempt:
    """One replica, from its start to its end."""

    replica: Replica
    diagnosis: Diagnosis | None  # None: nothing was wrong, or it has not ended

    @property
    def log(self) -> str:
        """What the engine wrote, without where things lie on the machine."""
        return doctor.without_paths(self.replica.start_log)


def of(instance: Instance) -> list[Attempt]:
    """The newest first."""
    replicas = instance.replicas.order_by("-id")[:KEPT]
    return [Attempt(replica, _diagnosis(replica)) for replica in replicas]


def failure(instance: Instance) -> Diagnosis | None:
    """What keeps the wanted generation from running, where something has."""
    reason, message = _said(instance)
    if not reason:
        return None
    loop = doctor.loop_in(message)
    ended = _ended(instance).filter(generation=instance.generation, ready_at__isnull=not loop)
    replica = ended.first()
    if replica is not None and (found := _diagnosis(replica)):
        return replace(found, facts={**found.facts, **loop})
    return doctor.diagnose(None, [], reason=reason, message=message)


def remedies(instance: Instance) -> list[Remedy]:
    """What can be done about that, the best first."""
    found = failure(instance)
    return doctor.remedies(found, _situation(instance)) if found else []


def apply(instance: Instance, by: User, name: str) -> bool:
    """Have it done. False where it is not (any longer) offered. Raises ValidationError."""
    remedy = next((remedy for remedy in remedies(instance) if remedy.name == name), None)
    if remedy is None:
        return False
    if remedy.kind is Kind.RETRY:
        return instance.request_start(by)
    if remedy.kind is not Kind.CHANGE:
        return False  # a place to go to, nothing to do
    if remedy.gpu_count is not None:
        instance.change(by, gpu_count=remedy.gpu_count)
    else:
        instance.change(by, settings=_situation(instance).changed(remedy))
    return True


def _said(instance: Instance) -> tuple[str, str]:
    if instance.state == InstanceState.FAILED:
        return instance.reason or Reason.CRASHED, instance.message
    return instance.rollout_reason, instance.rollout_message


def _ended(instance: Instance) -> QuerySet[Replica]:
    """The newest first; not those that were to end."""
    ended = instance.replicas.filter(state=Replica.State.GONE)
    return ended.exclude(end_reason__in=ON_PURPOSE).order_by("-id")


def _diagnosis(replica: Replica) -> Diagnosis | None:
    if replica.state != Replica.State.GONE or replica.end_reason in {"", *ON_PURPOSE}:
        return None
    lines = replica.start_log.splitlines()
    return doctor.diagnose(
        replica.exit_code, lines, reason=replica.end_reason, message=replica.end_message
    )


def _situation(instance: Instance) -> Situation:
    return Situation(
        engine=instance.engine,
        settings=instance.settings,
        gpu_count=instance.gpu_count,
        machine_gpus=fit_answers.most_gpus(fit_answers.places()),
        from_hub=instance.model_source == Instance.Source.HUB,
    )
