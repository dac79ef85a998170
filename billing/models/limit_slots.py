from typing import ClassVar

from django.db import models


class LimitSlots(models.Model):
    """How many requests at a time a machine may let in of a limit, of all that the limit allows.

    Each machine's meter claims them here as it needs them, and lets go of what others want. A
    machine that has not been seen for a while has lost its claim.
    """

    pk = models.CompositePrimaryKey("limit_id", "machine")
    limit_id = models.UUIDField()
    machine = models.UUIDField()
    slots = models.BigIntegerField()
    wanted = models.BooleanField()  # more than was to be had
    seen_at = models.DateTimeField()

    class Meta:
        db_table = "billing_limit_slots"
        indexes: ClassVar = [models.Index(fields=["seen_at"], name="limit_slots_by_seen")]

    def __str__(self) -> str:
        return f"{self.slots} of {self.limit_id} on {self.machine}"
