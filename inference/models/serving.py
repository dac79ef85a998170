from typing import ClassVar

from django.db import models
from django.db.models import F, Q

from accounts.tenancy import TenantQuerySet
from inference.models.instance import Instance
from inference.models.replica import Replica
from portal.lib.ids import uuid7


class ServingInterval(models.Model):
    """From when until when a replica served: what GPU time is billed by.

    Of one replica they never overlap: the database refuses that (migration 0004).
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    organization = models.ForeignKey(
        "accounts.Organization", on_delete=models.PROTECT, related_name="+"
    )
    instance = models.ForeignKey(Instance, on_delete=models.PROTECT, related_name="served")
    replica = models.ForeignKey(Replica, on_delete=models.PROTECT, related_name="served")
    gpu_type = models.CharField(max_length=120, blank=True)  # empty: the machine's processors
    gpu_count = models.PositiveSmallIntegerField(default=0)
    started_at = models.DateTimeField()
    ended_at = models.DateTimeField(null=True)  # None: it serves
    # How far it has been billed; written by `inference.gpu_time` alone.
    billed_seconds = models.PositiveIntegerField(default=0)  # whole ones, from its start
    billed = models.BooleanField(default=False)  # it has ended, and to its end

    objects = TenantQuerySet.as_manager()

    class Meta:
        ordering: ClassVar = ["started_at"]
        constraints: ClassVar = [
            models.CheckConstraint(
                condition=Q(ended_at=None) | Q(ended_at__gte=F("started_at")),
                name="serving_ends_after_it_starts",
            ),
            models.UniqueConstraint(
                fields=["replica"], condition=Q(ended_at=None), name="one_open_interval"
            ),
        ]
        indexes: ClassVar = [
            models.Index(fields=["id"], condition=Q(billed=False), name="serving_to_be_billed")
        ]

    def __str__(self) -> str:
        return f"{self.replica}: {self.started_at} to {self.ended_at}"
