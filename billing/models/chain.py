from typing import ClassVar

from django.db import models
from django.db.models import Q


class LedgerDay(models.Model):
    """A day of UTC that is over, sealed by `billing.chain`: a hash of all that was posted on it and
    of the hash before. Days follow each other without a gap; a trigger of the database lets no
    other row in, nothing change, and nothing more be posted on a sealed day."""

    day = models.DateField(primary_key=True)
    first_entry = models.BigIntegerField(null=True)  # the least and the greatest id; null: none
    last_entry = models.BigIntegerField(null=True)
    transactions = models.BigIntegerField()
    entries = models.BigIntegerField()
    previous = models.CharField(max_length=64)  # SHA-256, hexadecimal; zeros before the first day
    hash = models.CharField(max_length=64)
    sealed_at = models.DateTimeField()

    class Meta:
        db_table = "billing_ledger_day"
        ordering: ClassVar = ["day"]
        constraints: ClassVar = [
            models.CheckConstraint(
                condition=Q(hash__regex="^[0-9a-f]{64}$", previous__regex="^[0-9a-f]{64}$"),
                name="ledger_day_has_hashes",
            )
        ]

    def __str__(self) -> str:
        return f"{self.day} {self.hash}"
