from typing import Any, ClassVar

from django.db import models
from django.db.models import Q
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from accounts.models import Organization, User
from accounts.tenancy import TenantQuerySet
from billing.models.auto_top_up import AutoTopUp
from billing.models.ledger import LedgerTransaction
from portal.lib.ids import uuid7


class TopUp(models.Model):
    """Credit that somebody is paying for. It is in the wallet once Stripe has said that it is paid,
    by `transaction`."""

    class Source(models.TextChoices):
        CHECKOUT = "checkout", _("By hand")
        AUTOMATIC = "automatic", _("Automatic")

    class State(models.TextChoices):
        OPEN = "open", _("Waiting for payment")
        PAID = "paid", _("Paid")
        FAILED = "failed", _("Not paid")
        EXPIRED = "expired", _("Expired")

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    organization = models.ForeignKey(Organization, on_delete=models.PROTECT, related_name="top_ups")
    source = models.CharField(max_length=16, choices=Source)
    state = models.CharField(max_length=16, choices=State, default=State.OPEN)
    nano = models.BigIntegerField()  # what the wallet gets
    tax_nano = models.BigIntegerField(default=0)  # what was paid on top of it
    currency = models.CharField(max_length=3)
    session_id = models.CharField(max_length=255, blank=True)  # Stripe's, of its page
    intent_id = models.CharField(max_length=255, blank=True)  # Stripe's, of the payment
    failure = models.CharField(max_length=64, blank=True)  # as Stripe calls it: "card_declined"
    transaction = models.OneToOneField(
        LedgerTransaction, on_delete=models.PROTECT, null=True, related_name="top_up"
    )
    by = models.ForeignKey(User, on_delete=models.SET_NULL, null=True, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)
    settled_at = models.DateTimeField(null=True)
    told_at = models.DateTimeField(null=True)  # its people know that it failed

    objects = TenantQuerySet.as_manager()

    class Meta:
        db_table = "billing_top_up"
        ordering: ClassVar = ["-id"]
        indexes: ClassVar = [
            models.Index(fields=["organization", "-id"], name="top_ups_by_organization"),
            models.Index(fields=["created_at"], name="top_ups_by_time"),
        ]
        constraints: ClassVar = [
            models.CheckConstraint(condition=Q(nano__gt=0), name="top_up_is_something"),
            models.CheckConstraint(
                condition=Q(state="paid", transaction__isnull=False)
                | (~Q(state="paid") & Q(transaction=None)),
                name="top_up_is_paid_by_a_transaction",
            ),
            models.UniqueConstraint(
                fields=["session_id"], condition=~Q(session_id=""), name="one_top_up_of_a_session"
            ),
            models.UniqueConstraint(
                fields=["intent_id"], condition=~Q(intent_id=""), name="one_top_up_of_an_intent"
            ),
            models.UniqueConstraint(
                fields=["organization"],
                condition=Q(source="automatic", state="open"),
                name="one_automatic_top_up_at_a_time",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.nano} {self.currency} for {self.organization}"

    def settle(self, transaction: LedgerTransaction, tax_nano: int = 0) -> None:
        """It is paid. The caller holds this row."""
        self._end(self.State.PAID, transaction=transaction, tax_nano=tax_nano, failure="")

    def fail(self, failure: str) -> bool:
        """It will not be paid; False where it has ended already."""
        failure = failure[:64] or "unknown"
        if self.state != self.State.OPEN or not self._end(self.State.FAILED, failure=failure):
            return False
        if self.source == self.Source.AUTOMATIC:
            AutoTopUp.pause(self.organization, failure)
        return True

    def expire(self) -> bool:
        """Nobody paid in time; False where it has ended already."""
        return self.state == self.State.OPEN and self._end(self.State.EXPIRED)

    def _end(self, state: str, **fields: Any) -> bool:
        fields |= {"state": state, "settled_at": timezone.now()}
        unpaid = TopUp.objects.filter(id=self.id).exclude(state=self.State.PAID)
        ended: bool = unpaid.update(**fields) == 1
        self.refresh_from_db()
        return ended
