from typing import ClassVar

from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from accounts.models import Organization, User
from accounts.tenancy import TenantQuerySet
from billing.models.topup import TopUp
from portal.lib.ids import uuid7


class TakenBack(models.Model):
    """What has gone back of a payment: a refund of ours, one made on Stripe's pages, or a dispute.

    `nano` is how much of it the books have taken back so far: all, or nothing again where the
    refund failed or the dispute was won. Each change is a transaction of its own, numbered.
    """

    class Kind(models.TextChoices):
        REFUND = "refund", _("Refund")
        DISPUTE = "dispute", _("Dispute")

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    organization = models.ForeignKey(
        Organization, on_delete=models.PROTECT, related_name="taken_back"
    )
    kind = models.CharField(max_length=16, choices=Kind)
    top_up = models.ForeignKey(
        TopUp, on_delete=models.PROTECT, null=True, related_name="taken_back"
    )  # null: of an invoice
    stripe_id = models.CharField(max_length=255, blank=True)
    status = models.CharField(max_length=32, blank=True)  # as Stripe calls it; empty: not sent yet
    amount_nano = models.BigIntegerField()
    currency = models.CharField(max_length=3)
    nano = models.BigIntegerField(default=0)
    changes = models.PositiveIntegerField(default=0)
    reason = models.CharField(_("reason"), max_length=200, blank=True)
    by = models.ForeignKey(User, on_delete=models.SET_NULL, null=True, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)

    objects = TenantQuerySet.as_manager()

    class Meta:
        db_table = "billing_taken_back"
        ordering: ClassVar = ["-id"]
        constraints: ClassVar = [
            models.CheckConstraint(condition=Q(amount_nano__gt=0), name="taken_back_is_something"),
            models.CheckConstraint(
                condition=Q(nano=0) | Q(nano=models.F("amount_nano")),
                name="taken_back_wholly_or_not",
            ),
            models.UniqueConstraint(
                fields=["stripe_id"], condition=~Q(stripe_id=""), name="one_row_of_a_refund"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.stripe_id or self.id}"
