from typing import ClassVar

from django.db import models
from django.db.models import Q
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from accounts.models import Organization
from accounts.tenancy import TenantQuerySet


class AutoTopUp(models.Model):
    """When an organization's credit falls below so much, so much is paid by its saved card."""

    organization = models.OneToOneField(
        Organization, on_delete=models.CASCADE, primary_key=True, related_name="auto_top_up"
    )
    enabled = models.BooleanField(_("Top up automatically"), default=False)
    threshold_nano = models.BigIntegerField(_("When credit falls below"), default=0)
    nano = models.BigIntegerField(_("Add"), default=0)
    # In a calendar month of UTC, all automatic top-ups together; null: as many as are needed.
    monthly_nano = models.BigIntegerField(_("In a month, at most"), null=True, blank=True)
    # A card was declined, or a payment went back: nothing more is tried until somebody has looked.
    paused_at = models.DateTimeField(null=True)
    failure = models.CharField(max_length=64, blank=True)  # as Stripe calls it; dispute, refund
    updated_at = models.DateTimeField(auto_now=True)

    objects = TenantQuerySet.as_manager()

    class Meta:
        db_table = "billing_auto_top_up"
        constraints: ClassVar = [
            models.CheckConstraint(
                condition=Q(threshold_nano__gte=0, nano__gte=0), name="auto_top_up_is_not_negative"
            ),
            models.CheckConstraint(
                condition=Q(enabled=False) | Q(nano__gt=0), name="auto_top_up_adds_something"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.organization}: {self.nano} below {self.threshold_nano}"

    @classmethod
    def pause(cls, organization: Organization, why: str) -> None:
        """Nothing more is charged until its people have looked."""
        going = cls.objects.filter(organization=organization, paused_at=None)
        going.update(paused_at=timezone.now(), failure=why[:64])


class SavedCard(models.Model):
    """A card that may be charged while nobody is there. What Stripe tells of it, for people."""

    id = models.CharField(primary_key=True, max_length=255)  # Stripe's, of the payment method
    organization = models.ForeignKey(
        Organization, on_delete=models.CASCADE, related_name="saved_cards"
    )
    brand = models.CharField(max_length=32)
    last4 = models.CharField(max_length=4)
    exp_month = models.PositiveSmallIntegerField()
    exp_year = models.PositiveSmallIntegerField()
    is_default = models.BooleanField(default=False)  # automatic top-ups are paid by it
    created_at = models.DateTimeField(auto_now_add=True)
    removed_at = models.DateTimeField(null=True)

    objects = TenantQuerySet.as_manager()

    class Meta:
        db_table = "billing_saved_card"
        ordering: ClassVar = ["-is_default", "-created_at"]
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["organization"],
                condition=Q(is_default=True, removed_at=None),
                name="one_default_card",
            )
        ]

    def __str__(self) -> str:
        return f"{self.brand} …{self.last4}"
