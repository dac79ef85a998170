from typing import ClassVar

from django.db import models
from django.utils.translation import gettext_lazy as _


class PaymentCheck(models.Model):
    """A day's payments: what Stripe says beside what the books say, in one currency. Each
    difference has its line in `differences`, with its cause."""

    day = models.DateField()  # of UTC, by when Stripe made the objects
    currency = models.CharField(max_length=3)
    stripe_nano = models.BigIntegerField(_("by Stripe"))
    ledger_nano = models.BigIntegerField(_("by the books"))
    objects_seen = models.PositiveIntegerField(default=0)  # of ours, at Stripe
    differences = models.JSONField(default=list)
    unexplained = models.PositiveIntegerField(default=0)
    checked_at = models.DateTimeField(auto_now=True)

    class Meta:
        db_table = "billing_payment_check"
        ordering: ClassVar = ["-day", "currency"]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["day", "currency"], name="one_payment_check_a_day")
        ]

    def __str__(self) -> str:
        return f"{self.day} {self.currency}: {self.stripe_nano} and {self.ledger_nano}"
