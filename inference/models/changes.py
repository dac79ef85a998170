"""What people may change of an instance once it is there."""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models import F
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop

from accounts.models import Organization, User
from inference.engines import ENGINES
from inference.lifecycle import Desired
from inference.models.quota import check_quota, needs_approval

if TYPE_CHECKING:
    from inference.models.instance import Instance
    from inference.models.revision import InstanceRevision
    from inference.models.schedule import ScheduleEntry

# What a revision says and an instance wants.
DRAFT = ("draft_source", "draft_id", "draft_revision")
CONFIGURATION = (
    *("model_source", "model_id", "model_revision", "model_file", *DRAFT),
    *("engine", "settings", "gpu_count"),
)


class Effect(StrEnum):
    """What a change does to whoever uses the instance."""

    NONE = "none"  # it holds at once and restarts nothing, or nothing changes
    NEXT_START = "next_start"  # nothing runs that it could disturb
    ROLLS = "rolls"  # the new one comes in beside the old one, which serves until then
    INTERRUPTS = "interrupts"  # the old one ends before the new one serves


class Changes:
    """Verbs of `Instance`. What an engine is started with makes a revision; the rest holds at once.

    A revision comes in beside the one that serves, or in its place where a person wants it so
    (`at_once`).
    """

    def change(
        self: Any,
        by: User | None,
        *,
        settings: Mapping[str, object] | None = None,
        model_revision: str | None = None,
        model_file: str | None = None,
        draft_source: str | None = None,
        draft_id: str | None = None,
        draft_revision: str | None = None,
        gpu_count: int | None = None,
        engine: str | None = None,
        at_once: bool = False,
    ) -> "InstanceRevision":
        """Want it otherwise; None stays as it is, but for a draft model that nothing uses any more.
        Raises ValidationError, its messages by field."""
        given = {
            "settings": settings,
            "model_revision": model_revision,
            "model_file": model_file,
            "draft_source": draft_source,
            "draft_id": draft_id,
            "draft_revision": draft_revision,
            "gpu_count": gpu_count,
            "engine": engine,
        }
        wanted = {name: value for name, value in given.items() if value is not None}
        return self._revise(by, wanted, at_once=at_once)

    def effect_of(self: Any, wanted: Mapping[str, object], *, at_once: bool = False) -> Effect:
        """Said beforehand: what asking for these values, by field, would do. Raises
        ValidationError."""
        given = {name: value for name, value in wanted.items() if name in CONFIGURATION}
        if {"engine", "settings"} & given.keys():
            engine = str(given.get("engine", self.engine))
            given["settings"] = self.checked(engine, given.get("settings", self.settings))
        if all(getattr(self, name) == value for name, value in given.items()):
            return Effect.NONE
        if self.desired != Desired.RUNNING:
            return Effect.NEXT_START
        serves = self.replicas.filter(state="ready").exists()
        if not serves:
            return Effect.NEXT_START
        return Effect.INTERRUPTS if at_once else Effect.ROLLS

    def roll_back(
        self: Any, by: User | None, number: int, *, at_once: bool = False
    ) -> "InstanceRevision":
        """Want an earlier revision again. Raises ValidationError, InstanceRevision.DoesNotExist."""
        former = self.revisions.get(number=number)
        wanted = {name: getattr(former, name) for name in CONFIGURATION}
        return self._revise(by, wanted, at_once=at_once, restores=number)

    @transaction.atomic
    def replace_at_once(self: Any, by: User | None) -> bool:
        """Do not wait for room beside what serves: end it first. False where nothing waits."""
        waiting = type(self).objects.filter(
            id=self.id, desired=Desired.RUNNING, replaces_at_once=False
        )
        if not waiting.exclude(rollout_reason="").update(
            replaces_at_once=True,
            attempts=0,
            retry_at=None,
            rollout_reason="",
            rollout_message="",
        ):
            return False
        self.refresh_from_db()
        self.note("replaced", gettext_noop("What runs is replaced at once."), by=by)
        self.wake()
        return True

    @transaction.atomic
    def restore(self: Any) -> bool:
        """Go back to the last revision that has been ready, since the wanted one cannot start."""
        former = self._better_revisions().first()
        if former is None:
            return False
        failed = self.revisions.get(number=self.revision)
        wanted = {name: getattr(former, name) for name in CONFIGURATION}
        self._revise(None, wanted, at_once=True, restores=former.number)
        type(self).objects.filter(id=self.id).update(
            rollout_reason=failed.failed_reason, rollout_message=failed.failed_message
        )
        self.refresh_from_db()
        self.note(
            "rolled_back",
            gettext_noop("The new revision could not start; the one before it is back."),
            code=failed.failed_reason,
        )
        return True

    @property
    def has_better_revision(self: Any) -> bool:
        """Whether an earlier revision has been ready and the wanted one never was."""
        unproved = self.revisions.filter(number=self.revision, first_ready_at=None).exists()
        return unproved and self._better_revisions().exists()

    def _better_revisions(self: Any) -> Any:
        ready = self.revisions.exclude(first_ready_at=None)
        return ready.filter(number__lt=self.revision).order_by("-number")

    @transaction.atomic
    def set_replicas(self: Any, by: User | None, count: int) -> None:
        """So many replicas from now on, where no schedule says otherwise. Raises ValidationError"""
        Organization.objects.lock(self.organization_id)
        self.refresh_from_db(fields=["replica_count", "gpu_count", "desired", "approval"])
        before, self.replica_count = self.replica_count, count
        self._clean_only("replica_count")
        if self.desired in {Desired.RUNNING, Desired.ASLEEP}:
            check_quota(self)
        self._ask_for_approval(more=count > before)
        self.save(update_fields=["replica_count", "approval"])
        self.note("scaled", gettext_noop("The number of replicas was changed."), by=by)
        self.wake()

    def set_sleep(self: Any, by: User | None, minutes: int | None) -> None:
        """Sleep after so many minutes without a request; None: never. Raises ValidationError."""
        self.sleep_after_minutes = minutes
        self._clean_only("sleep_after_minutes")
        self.check_sleep()
        self.save(update_fields=["sleep_after_minutes"])
        self.note("sleep_changed", gettext_noop("When it sleeps was changed."), by=by)

    @transaction.atomic
    def set_schedule(self: Any, by: User | None, entries: "Sequence[ScheduleEntry]") -> None:
        """Put these in the place of the present ones. Raises ValidationError."""
        self.schedule.all().delete()
        for entry in entries:
            entry.instance, entry.organization_id = self, self.organization_id
            entry.full_clean()
            entry.save()
        self.note("schedule_changed", gettext_noop("The schedule was changed."), by=by)
        self.wake()

    def write_revision(
        self: Any, by: User | None, restores: int | None = None
    ) -> "InstanceRevision":
        """Keep what is wanted now as the revision of its number."""
        revision: InstanceRevision = self.revisions.create(
            organization_id=self.organization_id,
            number=self.revision,
            restores=restores,
            created_by=by,
            **{name: getattr(self, name) for name in CONFIGURATION},
        )
        return revision

    @transaction.atomic
    def _revise(
        self: Any,
        by: User | None,
        wanted: dict[str, Any],
        *,
        at_once: bool,
        restores: int | None = None,
    ) -> "InstanceRevision":
        Organization.objects.lock(self.organization_id)
        instance: Instance = type(self).objects.select_for_update().get(id=self.id)
        if instance.deleted_at is not None or instance.desired == Desired.DELETED:
            raise ValidationError(_("The instance is deleted."))
        before = {name: getattr(instance, name) for name in CONFIGURATION}
        for name, value in wanted.items():
            setattr(instance, name, value)
        instance.settings = instance.checked(instance.engine, instance.settings, instance.gpu_count)
        if not wanted.keys() & set(DRAFT):
            instance._drop_unused_draft()
        instance._clean_only(*wanted)
        instance.check_engine()
        if before == {name: getattr(instance, name) for name in CONFIGURATION}:
            raise ValidationError(_("That is how it is already."))
        if instance.desired != Desired.STOPPED:
            check_quota(instance)
        instance._ask_for_approval(more=instance.gpu_count > before["gpu_count"])
        instance.revision = F("revision") + 1
        instance.generation = F("generation") + 1
        instance.attempts, instance.retry_at = 0, None
        instance.rollout_reason, instance.rollout_message = "", ""
        instance.replaces_at_once = at_once
        instance.save()
        self.refresh_from_db()
        revision: InstanceRevision = self.write_revision(by, restores)
        self.note("changed", gettext_noop("The instance was changed."), by=by)
        self.wake()
        return revision

    def _drop_unused_draft(self: Any) -> None:
        """A draft model goes with the setting that it was chosen for."""
        if self.settings.get("speculation") not in ENGINES[self.engine].drafting:
            self.draft_source = self.draft_id = self.draft_revision = ""

    def _ask_for_approval(self: Any, *, more: bool) -> None:
        """Where it has become so large that an operator decides; not where it is small (again)."""
        if not needs_approval(self):
            self.approval = ""
        elif more:
            self.approval = self.Approval.PENDING.value

    def _clean_only(self: Any, *names: str) -> None:
        """Raises ValidationError."""
        others = {field.name for field in self._meta.fields} - set(names)
        self.clean_fields(exclude=others)
