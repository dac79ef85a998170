from django.db import models

from inference.models.instance import wake_controller
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

    def cordon(self) -> None:
        """Nothing new starts there; what runs stays."""
        self._want(cordoned=True, draining=False)

    def drain(self) -> None:
        """Nothing new starts there, and what runs ends once it has answered."""
        self._want(cordoned=True, draining=True)

    def open(self) -> None:
        """It takes engines again."""
        self._want(cordoned=False, draining=False)

    def _want(self, *, cordoned: bool, draining: bool) -> None:
        self.cordoned, self.draining = cordoned, draining
        self.save(update_fields=["cordoned", "draining"])
        wake_controller()
