from typing import ClassVar

from django.db import models


class LimitGrant(models.Model):
    """How much of a limit has been handed out in a window, over all machines.

    Each machine's meter takes slices here and grants them to its gateways, so that a limit holds
    over all of them. Windows that are past are of no more use.
    """

    pk = models.CompositePrimaryKey("limit_id", "window_start")
    limit_id = models.UUIDField()
    window_start = models.DateTimeField()
    granted = models.BigIntegerField(default=0)

    class Meta:
        db_table = "billing_limit_grant"
        indexes: ClassVar = [models.Index(fields=["window_start"], name="limit_grant_by_window")]

    def __str__(self) -> str:
        return f"{self.granted} of {self.limit_id}"
