from typing import ClassVar

from django.db import models

from accounts.tenancy import TenantQuerySet
from portal.lib.ids import uuid7


class GpuUsage(models.Model):
    """Seconds of serving that were charged: a part of one serving interval. Inserted once.

    It refers to intervals, instances and transactions by bare ids: a bill outlives what it was for.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    organization = models.ForeignKey(
        "accounts.Organization", on_delete=models.PROTECT, related_name="+", db_index=False
    )
    interval_id = models.UUIDField()
    from_second = models.PositiveIntegerField()  # of the interval
    seconds = models.PositiveIntegerField()
    started_at = models.DateTimeField()
    instance_id = models.UUIDField()
    model_id = models.CharField(max_length=512)
    gpu_type = models.CharField(max_length=120, blank=True)  # empty: processors alone
    gpu_count = models.PositiveSmallIntegerField()
    price_version_id = models.UUIDField()
    cost_nano = models.BigIntegerField()
    currency = models.CharField(max_length=3)
    transaction_id = models.UUIDField(null=True)  # None: it was free

    objects = TenantQuerySet.as_manager()

    class Meta:
        db_table = "billing_gpu_usage"
        ordering: ClassVar = ["-id"]
        indexes: ClassVar = [
            models.Index(fields=["organization", "-started_at"], name="gpu_usage_by_organization")
        ]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["interval_id", "from_second"], name="a_second_once"),
            models.CheckConstraint(
                condition=models.Q(seconds__gt=0, cost_nano__gte=0), name="gpu_usage_is_something"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.seconds} s of {self.interval_id}"
