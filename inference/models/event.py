from django.db import models

from accounts.tenancy import TenantQuerySet
from inference.models.instance import Instance
from portal.lib.ids import uuid7


class InstanceEvent(models.Model):
    """Something that happened to an instance: a reason for programs, a sentence for people."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    organization = models.ForeignKey(
        "accounts.Organization", on_delete=models.PROTECT, related_name="+"
    )
    instance = models.ForeignKey(Instance, on_delete=models.CASCADE, related_name="events")
    generation = models.PositiveIntegerField()
    at = models.DateTimeField(auto_now_add=True)
    reason = models.CharField(max_length=40)
    message = models.TextField()
    data = models.JSONField(default=dict, blank=True)
    by = models.ForeignKey(
        "accounts.User", on_delete=models.SET_NULL, null=True, related_name="+"
    )  # the person, where one caused it

    objects = TenantQuerySet.as_manager()

    class Meta:
        ordering = ["-id"]

    def __str__(self) -> str:
        return f"{self.at:%F %T} {self.reason}"
