from typing import ClassVar

from django.db import models
from django.utils.translation import gettext_lazy as _

from accounts.models import User
from accounts.tenancy import TenantQuerySet
from inference.models.instance import Instance, served_model_name
from portal.lib.ids import uuid7


class Adapter(models.Model):
    """A LoRA adapter on an instance, with a model name of its own. Loaded while it runs.

    `wanted` is a person's, `state` and `message` are the reconciler's.
    """

    class State(models.TextChoices):
        WAITING = "waiting", _("Waiting")
        LOADED = "loaded", _("Loaded")
        FAILED = "failed", _("Failed")

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    organization = models.ForeignKey(
        "accounts.Organization", on_delete=models.PROTECT, related_name="adapters"
    )
    instance = models.ForeignKey(Instance, on_delete=models.CASCADE, related_name="adapters")
    name = models.CharField(_("name"), max_length=63, validators=[served_model_name])
    model_source = models.CharField(max_length=16, choices=Instance.Source)
    model_id = models.CharField(max_length=512)
    model_revision = models.CharField(max_length=64)
    wanted = models.BooleanField(default=True)
    state = models.CharField(max_length=8, choices=State, default=State.WAITING)
    message = models.TextField(blank=True)
    created_by = models.ForeignKey(User, on_delete=models.SET_NULL, null=True, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)

    objects = TenantQuerySet.as_manager()

    class Meta:
        ordering: ClassVar = ["name"]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["organization", "name"], name="one_adapter_per_name"),
        ]

    def __str__(self) -> str:
        return self.name
