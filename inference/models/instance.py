from collections.abc import Mapping
from typing import Any
from uuid import UUID

from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator, RegexValidator
from django.db import connection, models, transaction
from django.db.models import F
from django.urls import reverse
from django.utils.translation import gettext_lazy as _
from django.utils.translation import gettext_noop

from accounts.models import Organization, User
from accounts.tenancy import TenantQuerySet
from billing.models import BillingProfile
from billing.running import Hours, Running
from inference.engines import ENGINES
from inference.engines.base import BadSetting, says_when_idle
from inference.lifecycle import ATTEMPTS, Desired, InstanceState, Stage, settled
from inference.models.changes import Changes
from inference.models.quota import check_quota, needs_approval
from portal.lib.ids import uuid7

served_model_name = RegexValidator(
    r"^[a-z0-9](?:[a-z0-9._-]{0,61}[a-z0-9])?$",
    _("Use lower-case letters, digits, dots and dashes; begin and end with a letter or digit."),
)


CONTROLLER_CHANNEL = "modelport_controller"  # PostgreSQL NOTIFY: a person wants something


class InstanceQuerySet(TenantQuerySet):
    def alive(self) -> "InstanceQuerySet":
        """All but the deleted ones."""
        return self.filter(deleted_at=None)


class Instance(Changes, models.Model):
    """A tenant's dedicated running model.

    A person writes `desired` (through the request_* verbs), the reconciler writes the rest of the
    observed fields. `generation` grows whenever what should run has changed or must start afresh;
    a replica belongs to one generation for ever.
    """

    class Source(models.TextChoices):
        BUNDLED = "bundled", _("Bundled")
        LOCAL = "local", _("Local folder")
        HUB = "hub", _("Hugging Face")

    class Approval(models.TextChoices):
        """An operator's word on a large request; empty where none is needed."""

        PENDING = "pending", _("Waiting for approval")
        GRANTED = "granted", _("Approved")
        REFUSED = "refused", _("Refused")

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    organization = models.ForeignKey(
        Organization, on_delete=models.PROTECT, related_name="instances"
    )
    name = models.CharField(_("name"), max_length=63, validators=[served_model_name])
    model_source = models.CharField(max_length=16, choices=Source)
    model_id = models.CharField(_("model"), max_length=512)  # "Qwen/Qwen3-8B", or a folder's path
    model_revision = models.CharField(max_length=64)  # commit hash, or a hash of the folder
    model_file = models.CharField(max_length=255, blank=True)  # of several in it, the one to load
    # A second model, which guesses what the first one then checks; all three empty: none.
    draft_source = models.CharField(max_length=16, choices=Source, blank=True, default="")
    draft_id = models.CharField(_("draft model"), max_length=512, blank=True, default="")
    draft_revision = models.CharField(max_length=64, blank=True, default="")
    engine = models.CharField(_("engine"), max_length=32, default="vllm")
    settings = models.JSONField(default=dict, blank=True)  # the engine's typed settings
    gpu_count = models.PositiveSmallIntegerField(default=0)
    queue_size = models.PositiveSmallIntegerField(
        _("waiting line"),
        default=0,
        validators=[MaxValueValidator(10_000)],
        help_text=_("Requests that wait for a turn where the instance is at its limit; 0: none."),
    )
    queue_seconds = models.PositiveSmallIntegerField(
        _("longest wait"),
        default=30,
        validators=[MinValueValidator(1), MaxValueValidator(600)],
        help_text=_("Seconds after which a waiting request is refused."),
    )

    desired = models.CharField(
        max_length=16, choices=[(d.value, d.value) for d in Desired], default=Desired.RUNNING.value
    )
    generation = models.PositiveIntegerField(default=1)
    # The number of the InstanceRevision that is wanted; the fields above are what it says.
    revision = models.PositiveIntegerField(default=1)
    replica_count = models.PositiveSmallIntegerField(
        _("replicas"), default=1, validators=[MinValueValidator(1), MaxValueValidator(16)]
    )
    sleep_after_minutes = models.PositiveSmallIntegerField(
        _("sleeps after"),
        null=True,
        blank=True,
        validators=[MinValueValidator(1), MaxValueValidator(10_080)],
        help_text=_("Minutes without a request; it wakes with the next one. Empty: never."),
    )
    sleeps_by_schedule = models.BooleanField(default=False)  # else nobody had asked anything
    # Whether this generation may end its forerunner before it is ready, for want of room.
    replaces_at_once = models.BooleanField(default=False)
    approval = models.CharField(max_length=8, choices=Approval, blank=True, default="")
    # It was to run and did not, for the organization's credit was used up.
    stopped_for_credit = models.BooleanField(default=False)

    state = models.CharField(
        max_length=16,
        choices=[(s.value, s.value) for s in InstanceState],
        default=InstanceState.REQUESTED.value,
    )
    stage = models.CharField(
        max_length=24, choices=[(s.value, s.value) for s in Stage], blank=True, default=""
    )
    reason = models.CharField(max_length=32, blank=True)  # one of the provisioners' closed set
    message = models.TextField(blank=True)  # a sentence for people
    progress_done = models.BigIntegerField(null=True, blank=True)
    progress_total = models.BigIntegerField(null=True, blank=True)
    progress_unit = models.CharField(max_length=16, blank=True)  # "bytes" or "packages"
    progress_seconds_left = models.PositiveIntegerField(null=True, blank=True)
    # Why the wanted generation does not serve while an earlier one still does.
    rollout_reason = models.CharField(max_length=32, blank=True, default="")
    rollout_message = models.TextField(blank=True, default="")
    typical_start_seconds = models.PositiveIntegerField(null=True, blank=True)  # as measured
    attempts = models.PositiveSmallIntegerField(default=0)  # failed starts of this generation
    retry_at = models.DateTimeField(null=True, blank=True)  # backoff ends
    state_changed_at = models.DateTimeField(auto_now_add=True)
    ready_at = models.DateTimeField(null=True, blank=True)

    created_by = models.ForeignKey(User, on_delete=models.SET_NULL, null=True, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)
    deleted_at = models.DateTimeField(null=True, blank=True)

    objects = InstanceQuerySet.as_manager()

    class Meta:
        ordering = ["-created_at"]
        constraints = [
            models.UniqueConstraint(
                fields=["organization", "name"],
                condition=models.Q(deleted_at=None),
                name="one_live_instance_per_name",
                violation_error_message=_("An instance with this name exists already."),
            )
        ]

    def __str__(self) -> str:
        return self.name

    def get_absolute_url(self) -> str:
        return reverse("instance", kwargs={"org": self.organization.slug, "instance_id": self.id})

    @property
    def is_settled(self) -> bool:
        """Whether nothing more will happen to it by itself."""
        return settled(Desired(self.desired), InstanceState(self.state), self.attempts)

    @classmethod
    @transaction.atomic
    def request(
        cls,
        organization: Organization,
        by: User | None,
        *,
        name: str,
        model_source: str,
        model_id: str,
        model_revision: str,
        model_file: str = "",
        draft_source: str = "",
        draft_id: str = "",
        draft_revision: str = "",
        engine: str = "vllm",
        settings: Mapping[str, object] | None = None,
        gpu_count: int = 0,
        queue_size: int = 0,
        queue_seconds: int = 30,
        replica_count: int = 1,
        sleep_after_minutes: int | None = None,
    ) -> "Instance":
        """Ask for a new instance. Raises ValidationError, its messages by field."""
        instance = cls(
            organization=organization,
            name=name,
            model_source=model_source,
            model_id=model_id,
            model_revision=model_revision,
            model_file=model_file,
            draft_source=draft_source,
            draft_id=draft_id,
            draft_revision=draft_revision,
            engine=engine,
            settings=checked_settings(engine, settings or {}, gpu_count),
            gpu_count=gpu_count,
            queue_size=queue_size,
            queue_seconds=queue_seconds,
            replica_count=replica_count,
            sleep_after_minutes=sleep_after_minutes,
            created_by=by,
        )
        instance.full_clean(exclude=["created_by"], validate_constraints=False)
        instance.check_engine()
        instance.check_sleep()
        instance._take_name()
        instance.write_revision(by)
        instance.note("requested", gettext_noop("The instance was requested."), by=by)
        wake_controller(instance.id)
        return instance

    def request_start(self, by: User | None) -> bool:
        """Run it (again). False where it is to run already and has not failed."""
        return self._want(
            Desired.RUNNING,
            models.Q(desired__in=[Desired.STOPPED, Desired.ASLEEP])
            | models.Q(state=InstanceState.FAILED, attempts__gt=0)  # 0: it was asked for already
            | models.Q(attempts__gte=ATTEMPTS),  # some serve, or an earlier revision does
            "start_requested",
            gettext_noop("A start was requested."),
            by,
            # What was to end anyway need not serve on until the new one does.
            replaces_at_once=self.desired != Desired.RUNNING,
        )

    def request_stop(self, by: User | None) -> bool:
        """Free what it holds; it keeps its name and settings. False where it is to stop already."""
        return self._want(
            Desired.STOPPED,
            models.Q(desired__in=[Desired.RUNNING, Desired.ASLEEP]),
            "stop_requested",
            gettext_noop("A stop was requested."),
            by,
        )

    def stop_for_credit(self) -> bool:
        """The credit is used up that it would cost. False where it is not to run."""
        return self._want(
            Desired.STOPPED,
            models.Q(desired=Desired.RUNNING),
            "credit_used_up",
            gettext_noop("The credit is used up, so it was stopped."),
            None,
            stopped_for_credit=True,
        )

    def request_sleep(self, by: User | None) -> bool:
        """Free what it holds until a request or a person wakes it. False unless it is to run."""
        return self._want(
            Desired.ASLEEP,
            models.Q(desired=Desired.RUNNING),
            "sleep_requested",
            gettext_noop("It goes to sleep."),
            by,
        )

    def fall_asleep(self, *, by_schedule: bool) -> bool:
        """What the person has laid down for when nobody asks. False where that was overtaken."""
        return self._want(
            Desired.ASLEEP,
            models.Q(desired=Desired.RUNNING, generation=self.generation),
            "sleep_requested",
            gettext_noop("The schedule puts it to sleep.")
            if by_schedule
            else gettext_noop("Nobody has asked it anything for a while; it goes to sleep."),
            None,
            sleeps_by_schedule=by_schedule,
        )

    def request_wake(self, by: User | None) -> bool:
        """Run it again after its sleep. False unless it is to sleep."""
        at_hand = self.replicas.filter(state="asleep", generation=self.generation).exists()
        return self._want(
            Desired.RUNNING,
            models.Q(desired=Desired.ASLEEP),
            "wake_requested",
            gettext_noop("It wakes up."),
            by,
            afresh=not at_hand,  # what stayed at hand is what shall run
            replaces_at_once=True,
        )

    def request_restart(self, by: User | None) -> bool:
        """End the engine and start a fresh one. False where a fresh one is on order already."""
        return self._want(
            Desired.RUNNING,
            models.Q(replicas__generation=F("generation")) | ~models.Q(desired=Desired.RUNNING),
            "restart_requested",
            gettext_noop("A restart was requested."),
            by,
            replaces_at_once=self.replica_count == 1,  # several take turns
        )

    def request_delete(self, by: User | None) -> bool:
        """End it for good; its usage stays. False where that was asked for already."""
        return self._want(
            Desired.DELETED,
            models.Q(),
            "delete_requested",
            gettext_noop("The deletion was requested."),
            by,
        )

    @transaction.atomic
    def decide_approval(self, by: User, *, granted: bool) -> bool:
        """An operator's word on it. False where another was first."""
        word = self.Approval.GRANTED if granted else self.Approval.REFUSED
        pending = type(self).objects.filter(id=self.id, approval=self.Approval.PENDING)
        if not pending.update(approval=word.value):
            return False
        self.refresh_from_db()
        if granted:
            self.note("approved", gettext_noop("An operator has approved the request."), by=by)
        else:
            self.note("refused", gettext_noop("An operator has refused the request."), by=by)
        wake_controller(self.id)
        return True

    def wake(self) -> None:
        """Have the controller look at it."""
        wake_controller(self.id)

    @staticmethod
    def checked(
        engine: str, settings: Mapping[str, object], gpu_count: int | None = None
    ) -> dict[str, Any]:
        """The settings in their types and ranges. Raises ValidationError."""
        return checked_settings(engine, settings, gpu_count)

    def check_engine(self) -> None:
        """Whether its engine loads such weights, and has a draft model where the settings want one.
        Raises ValidationError."""
        check_format(self.engine, self.model_file)
        if (
            len({bool(part) for part in (self.draft_source, self.draft_id, self.draft_revision)})
            > 1
        ):
            raise ValidationError({"draft_id": _("A draft model has a source and a revision.")})
        try:
            ENGINES[self.engine].check_draft(self.settings, self.draft_id)
        except BadSetting as problem:
            raise ValidationError({"draft_id": str(problem)}) from problem

    @property
    def why_never_sleeps(self) -> str:
        """Why it cannot fall asleep by itself; empty where it can."""
        engine = ENGINES[self.engine]
        if says_when_idle(engine):
            return ""
        sentence = _("%(engine)s does not say when it is idle, so it cannot sleep by itself.")
        return str(sentence % {"engine": engine.title})

    def check_sleep(self) -> None:
        """Whether it can do what `sleep_after_minutes` says. Raises ValidationError."""
        if self.sleep_after_minutes is not None and self.why_never_sleeps:
            raise ValidationError({"sleep_after_minutes": self.why_never_sleeps})

    def set_queue(self, size: int, seconds: int) -> None:
        """Let so many requests wait for so long where it is at its limit. Raises ValidationError"""
        self.queue_size, self.queue_seconds = size, seconds
        fields = ["queue_size", "queue_seconds"]
        self._clean_only(*fields)
        self.save(update_fields=fields)

    def _lacks_credit(self) -> bool:
        """Whether it would cost something by the hour, and there is nothing to pay it."""
        suspended = BillingProfile.objects.filter(
            organization_id=self.organization_id, suspended_at__isnull=False
        )
        return suspended.exists() and self.hourly_cost(Hours(self.organization)) > 0

    def hourly_cost(self, hours: Hours) -> int:
        """Nano-units for an hour of one replica of it, on the GPUs of its newest."""
        replica = self.replicas.first()
        gpu_type = replica.gpu_type if replica is not None else ""
        known = gpu_type or not self.gpu_count
        return hours.cost(
            Running(self.model_id, self.engine, self.gpu_count, gpu_type if known else None)
        )

    def note(
        self,
        reason: str,
        message: str,
        *,
        by: User | None = None,
        code: str = "",
        about: str = "",
    ) -> None:
        """Write down that something happened; `code` is a provisioner's reason, `about` the name of
        what it happened to, where that is a part of the instance."""
        data = {"code": code, "about": about}
        self.events.create(
            organization_id=self.organization_id,
            generation=self.generation,
            reason=reason,
            message=message,
            data={name: value for name, value in data.items() if value},
            by=by,
        )

    def _take_name(self) -> None:
        """Save it as a new one. Raises ValidationError where the name is taken."""
        Organization.objects.lock(self.organization_id)  # a route or an adapter may want it too
        others = Instance.objects.for_organization(self.organization).alive()
        if others.filter(name=self.name).exists():
            raise ValidationError({"name": _("An instance with this name exists already.")})
        if self.organization.routes.filter(name=self.name).exists():
            raise ValidationError({"name": _("A route has this name already.")})
        if self.organization.adapters.filter(name=self.name, removed_at=None).exists():
            raise ValidationError({"name": _("An adapter has this name already.")})
        check_quota(self)
        self.approval = self.Approval.PENDING.value if needs_approval(self) else ""
        self.save()

    @transaction.atomic
    def _want(
        self,
        desired: Desired,
        only_if: models.Q,
        reason: str,
        message: str,
        by: User | None,
        *,
        afresh: bool = True,
        **also: object,
    ) -> bool:
        """State what is wanted, unless someone was first. A deleted instance wants nothing more."""
        starts = afresh and desired == Desired.RUNNING
        alive = type(self).objects.filter(id=self.id, deleted_at=None)
        alive.select_for_update().first()  # of two at the same time, the second sees the first
        if desired == Desired.RUNNING and self._lacks_credit():
            if alive.filter(stopped_for_credit=False).update(stopped_for_credit=True):
                message = gettext_noop("The credit is used up, so it was not started.")
                self.note("credit_used_up", message, by=by)
            self.refresh_from_db()
            return False
        changed = (
            alive.filter(only_if)
            .exclude(desired=Desired.DELETED)
            .update(
                desired=desired,
                generation=F("generation") + (1 if starts else 0),
                attempts=0,
                retry_at=None,
                **(_AFRESH | also),
            )
        )
        self.refresh_from_db()
        if changed:
            self.note(reason, message, by=by)
            wake_controller(self.id)
        return bool(changed)


_AFRESH: dict[str, object] = {
    "stopped_for_credit": False,
    "sleeps_by_schedule": False,
    "rollout_reason": "",
    "rollout_message": "",
}


def checked_settings(
    engine: str, settings: Mapping[str, object], gpu_count: int | None = None
) -> dict[str, Any]:
    """The settings in their types and ranges. Raises ValidationError."""
    if engine not in ENGINES:
        raise ValidationError({"engine": _("There is no such engine.")})
    try:
        return dict(ENGINES[engine].check(settings, gpu_count))
    except BadSetting as problem:
        raise ValidationError({"settings": str(problem)}) from problem


def check_format(engine: str, model_file: str) -> None:
    """Whether the engine loads such weights: a chosen GGUF, or all safetensors. Raises
    ValidationError."""
    formats, title = ENGINES[engine].formats, ENGINES[engine].title
    if model_file and "gguf" not in formats:
        raise ValidationError(
            {"model_file": _("%(engine)s loads no GGUF files.") % {"engine": title}}
        )
    if not model_file and "safetensors" not in formats:
        raise ValidationError(
            {"model_file": _("%(engine)s loads a GGUF file: choose one.") % {"engine": title}}
        )


def wake_controller(instance_id: UUID | None = None) -> None:
    """Have the controller look, at one instance or at all. On commit; it looks by itself too, only
    later."""
    with connection.cursor() as cursor:
        about = str(instance_id) if instance_id else ""
        cursor.execute("SELECT pg_notify(%s, %s)", [CONTROLLER_CHANNEL, about])
