from typing import ClassVar

from django.db import models
from django.db.models import Q

from accounts.models import Organization
from accounts.tenancy import TenantQuerySet


class CreditLease(models.Model):
    """What a gateway process may let requests spend of an organization's credit, in nano-units.

    It is reserved as long as the lease is open: nobody else gets what was granted and not spent.
    `billing.holds` alone writes here.
    """

    organization = models.ForeignKey(
        Organization, on_delete=models.PROTECT, related_name="credit_leases"
    )
    writer = models.CharField(max_length=32)  # of the process's journal, which tells what is spent
    machine = models.UUIDField()  # whose meter ships that journal
    granted = models.BigIntegerField(default=0)  # in all, less what was handed back
    spent = models.BigIntegerField(default=0)  # in all, as far as it has come in from the journal
    opened_at = models.DateTimeField(auto_now_add=True)
    closed_at = models.DateTimeField(null=True)  # the journal has come in to its end

    objects = TenantQuerySet.as_manager()

    class Meta:
        db_table = "billing_credit_lease"
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["organization", "writer"], name="one_credit_lease_of_a_gateway"
            ),
            models.CheckConstraint(
                condition=Q(granted__gte=0, spent__gte=0), name="credit_lease_is_not_negative"
            ),
        ]
        indexes: ClassVar = [
            models.Index(
                fields=["organization"], condition=Q(closed_at=None), name="open_credit_leases"
            ),
            models.Index(
                fields=["machine", "writer"],
                condition=Q(closed_at=None),
                name="open_leases_of_machines",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.granted - self.spent} of {self.organization_id} with {self.writer}"


class RunningHold(models.Model):
    """What is reserved of an organization's credit for its instances that run, in nano-units."""

    organization = models.OneToOneField(
        Organization, on_delete=models.PROTECT, primary_key=True, related_name="running_hold"
    )
    nano = models.BigIntegerField(default=0)
    nano_per_hour = models.BigIntegerField(default=0)  # what they cost
    warned_at = models.DateTimeField(null=True)  # that the credit will soon be used up
    updated_at = models.DateTimeField(auto_now=True)

    objects = TenantQuerySet.as_manager()

    class Meta:
        db_table = "billing_running_hold"
        constraints: ClassVar = [
            models.CheckConstraint(
                condition=Q(nano__gte=0, nano_per_hour__gte=0), name="running_hold_is_not_negative"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.nano} of {self.organization_id}"
