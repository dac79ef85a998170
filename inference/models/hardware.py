from django.db import models

from portal.lib.ids import uuid7


class Node(models.Model):
    """A machine with engines, as its supervisor last described it. Sizes are bytes."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    name = models.CharField(max_length=253, unique=True)  # host name
    cpu_count = models.IntegerField()
    memory_bytes = models.BigIntegerField()
    disk_free_bytes = models.BigIntegerField()
    gpus = models.JSONField(default=list)  # [{"index": 0, "name": "…", "memory_bytes": …}, …]
    seen_at = models.DateTimeField()
    # What an operator wants of it: a cordoned machine takes nothing new, a drained one ends all.
    cordoned = models.BooleanField(default=False)
    draining = models.BooleanField(default=False)

    def __str__(self) -> str:
        return self.name
