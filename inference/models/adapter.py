from typing import ClassVar

from django.core.exceptions import ValidationError
from django.db import models, transaction
from django.db.models import Q
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, gettext_noop

from accounts.models import Organization, User
from accounts.tenancy import TenantQuerySet
from inference.engines import ENGINES
from inference.engines.base import Lora
from inference.engines.lora import TOO_HIGH
from inference.lifecycle import Desired
from inference.models.instance import Instance, served_model_name
from portal.lib.ids import uuid7

MOST_ADAPTERS = 32  # of one instance


class AdapterQuerySet(TenantQuerySet):
    def alive(self) -> "AdapterQuerySet":
        """All that have not been removed; those on their way out keep their names until then."""
        return self.filter(removed_at=None)


class Adapter(models.Model):
    """A LoRA adapter of an instance: a model name of its own, loaded into engines that run.

    People add and remove it; the reconciler writes `state` and `message`. It belongs to the
    instance and to no revision, so that nothing starts anew for it.
    """

    class Source(models.TextChoices):
        LOCAL = "local", gettext_lazy("Local folder")
        HUB = "hub", gettext_lazy("Hugging Face")

    class State(models.TextChoices):
        REQUESTED = "requested", gettext_lazy("Requested")  # or its instance does not run
        LOADING = "loading", gettext_lazy("Loading")
        READY = "ready", gettext_lazy("Ready")
        FAILED = "failed", gettext_lazy("Failed")
        REMOVING = "removing", gettext_lazy("Being removed")

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    organization = models.ForeignKey(
        Organization, on_delete=models.PROTECT, related_name="adapters"
    )
    instance = models.ForeignKey(Instance, on_delete=models.CASCADE, related_name="adapters")
    name = models.CharField(gettext_lazy("name"), max_length=63, validators=[served_model_name])
    source = models.CharField(max_length=16, choices=Source)
    model_id = models.CharField(gettext_lazy("adapter"), max_length=512)  # "acme/tone", a folder
    model_revision = models.CharField(max_length=64)  # commit hash, or a hash of the folder
    rank = models.PositiveSmallIntegerField()
    base_model = models.CharField(max_length=512, blank=True)  # as its maker says
    state = models.CharField(max_length=16, choices=State, default=State.REQUESTED)
    message = models.TextField(blank=True)  # a sentence for people
    created_by = models.ForeignKey(User, on_delete=models.SET_NULL, null=True, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)
    ready_at = models.DateTimeField(null=True, blank=True)  # for the first time
    removed_at = models.DateTimeField(null=True, blank=True)

    objects = AdapterQuerySet.as_manager()

    class Meta:
        ordering: ClassVar = ["name"]
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["organization", "name"],
                condition=Q(removed_at=None),
                name="one_live_adapter_per_name",
                violation_error_message=gettext_lazy("An adapter with this name exists already."),
            )
        ]

    def __str__(self) -> str:
        return self.name

    @classmethod
    @transaction.atomic
    def add(
        cls,
        instance: Instance,
        by: User | None,
        *,
        name: str,
        source: str,
        model_id: str,
        model_revision: str,
        rank: int,
        base_model: str = "",
    ) -> "Adapter":
        """Have it loaded, now and whenever the instance runs. Raises ValidationError, its messages
        by field."""
        Organization.objects.lock(instance.organization_id)  # others may be about to take the name
        Instance.objects.select_for_update().get(id=instance.id)  # it may be about to be buried
        instance.refresh_from_db()
        adapter = cls(
            organization_id=instance.organization_id,
            instance=instance,
            name=name,
            source=source,
            model_id=model_id,
            model_revision=model_revision,
            rank=rank,
            base_model=base_model[:512],
            created_by=by,
        )
        adapter._check()
        adapter.save()
        instance.note("adapter_added", gettext_noop("An adapter was added."), by=by, about=name)
        instance.wake()
        return adapter

    @transaction.atomic
    def remove(self, by: User | None) -> bool:
        """Take it off; its name is free once no engine has it. False where someone was first."""
        # Whoever makes a replica's row holds this one: none may come in between.
        instance = Instance.objects.select_for_update().get(id=self.instance_id)
        mine = Adapter.objects.alive().filter(id=self.id).exclude(state=self.State.REMOVING)
        runs = instance.replicas.exclude(state="gone").exists()
        if not mine.update(
            state=self.State.REMOVING, message="", removed_at=None if runs else timezone.now()
        ):
            return False
        self.refresh_from_db()
        instance.note(
            "adapter_removed", gettext_noop("An adapter was removed."), by=by, about=self.name
        )
        instance.wake()
        return True

    def _check(self) -> None:
        """Raises ValidationError."""
        instance = self.instance
        if instance.deleted_at is not None or instance.desired == Desired.DELETED:
            raise ValidationError(_("The instance is deleted."))
        lora = lora_of(instance)
        if lora is None:
            raise ValidationError(no_room(instance))
        self.clean_fields(exclude=["created_by", "message"])
        if self.rank > lora.max_rank:
            facts = {"rank": self.rank, "most": lora.max_rank}
            raise ValidationError({"model_id": _(TOO_HIGH) % facts})
        self._check_name()
        if instance.adapters.filter(removed_at=None).count() >= MOST_ADAPTERS:
            message = _("An instance has %(most)d adapters at most.")
            raise ValidationError(message % {"most": MOST_ADAPTERS})

    def _check_name(self) -> None:
        organization = self.organization
        if organization.instances.filter(name=self.name, deleted_at=None).exists():
            raise ValidationError({"name": _("An instance has this name already.")})
        if organization.routes.filter(name=self.name).exists():
            raise ValidationError({"name": _("A route has this name already.")})
        if organization.adapters.filter(name=self.name, removed_at=None).exists():
            raise ValidationError({"name": _("An adapter with this name exists already.")})


def lora_of(instance: Instance) -> Lora | None:
    """How adapters come and go with the settings that are wanted now; None: not at all."""
    return ENGINES[instance.engine].lora(instance.settings)


def no_room(instance: Instance) -> str:
    """Why it takes no adapters now, and what helps."""
    engine = ENGINES[instance.engine]
    switches = [setting.name for setting in engine.settings if setting.kind == "bool"]
    if not any(engine.lora({name: True}) for name in switches):
        return _("The engine of this instance takes no adapters.")
    return _(
        "This instance takes no adapters yet. Turn on “LoRA adapters” in the settings of its "
        "engine first; that is a new revision."
    )
