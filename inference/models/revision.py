from typing import ClassVar

from django.db import models

from accounts.models import User
from accounts.tenancy import TenantQuerySet
from inference.models.instance import Instance
from portal.lib.ids import uuid7


class InstanceRevision(models.Model):
    """One version of what an instance should run. It never changes; going back to it is a new one.

    Whether it could start is written beside it by the reconciler.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    organization = models.ForeignKey(
        "accounts.Organization", on_delete=models.PROTECT, related_name="+"
    )
    instance = models.ForeignKey(Instance, on_delete=models.CASCADE, related_name="revisions")
    number = models.PositiveIntegerField()
    model_source = models.CharField(max_length=16, choices=Instance.Source)
    model_id = models.CharField(max_length=512)
    model_revision = models.CharField(max_length=64)
    model_file = models.CharField(max_length=255, blank=True)
    engine = models.CharField(max_length=32)
    settings = models.JSONField(default=dict, blank=True)
    gpu_count = models.PositiveSmallIntegerField(default=0)
    restores = models.PositiveIntegerField(null=True)  # the number that it went back to
    created_by = models.ForeignKey(User, on_delete=models.SET_NULL, null=True, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)
    first_ready_at = models.DateTimeField(null=True)
    failed_at = models.DateTimeField(null=True)
    failed_reason = models.CharField(max_length=32, blank=True)
    failed_message = models.TextField(blank=True)

    objects = TenantQuerySet.as_manager()

    class Meta:
        ordering: ClassVar = ["-number"]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["instance", "number"], name="one_revision_per_number"),
        ]

    def __str__(self) -> str:
        return f"{self.instance} · revision {self.number}"
