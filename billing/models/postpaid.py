from typing import ClassVar

from django.db import models
from django.utils.translation import gettext_lazy as _

from accounts.models import Organization
from accounts.tenancy import TenantQuerySet
from portal.lib.ids import uuid7


class Subscription(models.Model):
    """An organization that pays later: Stripe bills every month what we have told its meter."""

    organization = models.OneToOneField(
        Organization, on_delete=models.PROTECT, primary_key=True, related_name="subscription"
    )
    stripe_id = models.CharField(max_length=255, unique=True)
    status = models.CharField(max_length=32)  # as Stripe calls it
    since = models.DateTimeField()  # what is owed from this hour on is told
    updated_at = models.DateTimeField(auto_now=True)

    objects = TenantQuerySet.as_manager()

    class Meta:
        db_table = "billing_subscription"

    def __str__(self) -> str:
        return f"{self.organization}: {self.status}"


class MeterReport(models.Model):
    """What an organization came to owe in an hour, as it was last told to Stripe's meter: the whole
    of the hour, so that telling it again changes nothing."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    organization = models.ForeignKey(
        Organization, on_delete=models.PROTECT, related_name="meter_reports"
    )
    hour = models.DateTimeField()  # its beginning
    amount = models.BigIntegerField(_("amount"))  # in minor units
    currency = models.CharField(max_length=3)
    told_at = models.DateTimeField(auto_now=True)

    objects = TenantQuerySet.as_manager()

    class Meta:
        db_table = "billing_meter_report"
        ordering: ClassVar = ["-hour"]
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["organization", "hour"], name="one_meter_report_an_hour"
            ),
            models.CheckConstraint(
                condition=models.Q(amount__gte=0), name="meter_report_is_not_negative"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.organization} {self.hour:%Y-%m-%d %H}: {self.amount}"
