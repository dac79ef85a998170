from django.core.validators import RegexValidator
from django.db import models
from django.urls import reverse
from django.utils.translation import gettext_lazy as _

from accounts.models import Organization, User
from accounts.tenancy import TenantQuerySet
from inference.lifecycle import Desired, InstanceState, Stage
from portal.lib.ids import uuid7

served_model_name = RegexValidator(
    r"^[a-z0-9](?:[a-z0-9._-]{0,61}[a-z0-9])?$",
    _("Use lower-case letters, digits, dots and dashes; begin and end with a letter or digit."),
)


class InstanceQuerySet(TenantQuerySet):
    def alive(self) -> "InstanceQuerySet":
        """All but the deleted ones."""
        return self.filter(deleted_at=None)


class Instance(models.Model):
    """A tenant's dedicated running model.

    A person writes `desired` (through the request_* verbs), the reconciler writes the rest of the
    observed fields. `generation` grows whenever what should run has changed or must start afresh;
    a replica belongs to one generation for ever.
    """

    class Source(models.TextChoices):
        BUNDLED = "bundled", _("Bundled")
        LOCAL = "local", _("Local folder")
        HUB = "hub", _("Hugging Face")

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    organization = models.ForeignKey(
        Organization, on_delete=models.PROTECT, related_name="instances"
    )
    name = models.CharField(_("name"), max_length=63, validators=[served_model_name])
    model_source = models.CharField(max_length=16, choices=Source)
    model_id = models.CharField(_("model"), max_length=512)  # "Qwen/Qwen3-8B", or a folder's path
    model_revision = models.CharField(max_length=64)  # commit hash, or a hash of the folder
    engine = models.CharField(_("engine"), max_length=32, default="vllm")
    settings = models.JSONField(default=dict, blank=True)  # the engine's typed settings
    gpu_count = models.PositiveSmallIntegerField(default=0)

    desired = models.CharField(
        max_length=16, choices=[(d.value, d.value) for d in Desired], default=Desired.RUNNING
    )
    generation = models.PositiveIntegerField(default=1)

    state = models.CharField(
        max_length=16,
        choices=[(s.value, s.value) for s in InstanceState],
        default=InstanceState.REQUESTED,
    )
    stage = models.CharField(
        max_length=24, choices=[(s.value, s.value) for s in Stage], blank=True, default=Stage.NONE
    )
    reason = models.CharField(max_length=32, blank=True)  # one of the provisioners' closed set
    message = models.TextField(blank=True)  # a sentence for people
    progress_done = models.BigIntegerField(null=True)
    progress_total = models.BigIntegerField(null=True)
    progress_unit = models.CharField(max_length=16, blank=True)  # "bytes" or "packages"
    attempts = models.PositiveSmallIntegerField(default=0)  # failed starts of this generation
    retry_at = models.DateTimeField(null=True)  # backoff ends
    state_changed_at = models.DateTimeField(auto_now_add=True)
    ready_at = models.DateTimeField(null=True)

    created_by = models.ForeignKey(User, on_delete=models.SET_NULL, null=True, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)
    deleted_at = models.DateTimeField(null=True)

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
