from typing import ClassVar

from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from accounts.models import Organization
from accounts.tenancy import TenantQuerySet


class BillingProfile(models.Model):
    """How an organization pays: its currency, what stands on its invoices, its own limits."""

    organization = models.OneToOneField(
        Organization, on_delete=models.PROTECT, primary_key=True, related_name="billing_profile"
    )
    # ISO 4217; chosen before the first payment and never changed after it.
    currency = models.CharField(_("currency"), max_length=3)
    time_zone = models.CharField(_("time zone"), max_length=64, default="UTC")  # of its months
    # Postpaid: usage may go on without credit, and is owed; else it stops at 0.
    postpaid = models.BooleanField(_("pays later"), default=False)
    # Of who pays later: how much may be owed, in nano-units.
    credit_line_nano = models.BigIntegerField(_("credit line"), default=0)
    legal_name = models.CharField(_("name on invoices"), max_length=200, blank=True)
    address = models.TextField(_("address"), max_length=1000, blank=True)
    country = models.CharField(_("country"), max_length=2, blank=True)  # ISO 3166
    tax_id_kind = models.CharField(max_length=32, blank=True)  # as Stripe calls it: "tw_vat"
    tax_id = models.CharField(_("tax id"), max_length=64, blank=True)
    purchase_order = models.CharField(_("purchase order"), max_length=64, blank=True)
    invoice_email = models.EmailField(_("e-mail for invoices"), blank=True)
    stripe_customer_id = models.CharField(max_length=64, blank=True)
    # Its credit is used up: nothing that costs is let in, and instances on paid GPUs are stopped.
    suspended_at = models.DateTimeField(null=True)
    # Whether what was stopped then starts again by itself once there is credit.
    restarts_instances = models.BooleanField(
        _("start stopped instances again after a top-up"), default=False
    )
    # The operator has stopped it: nothing is let in, whatever its credit is.
    blocked_at = models.DateTimeField(null=True)

    objects = TenantQuerySet.as_manager()

    class Meta:
        db_table = "billing_profile"
        constraints: ClassVar = [
            models.CheckConstraint(
                condition=models.Q(currency__regex="^[A-Z]{3}$"), name="billing_currency_is_iso"
            ),
            models.CheckConstraint(
                condition=models.Q(credit_line_nano__gte=0), name="credit_line_is_not_negative"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.organization}: {self.currency}"

    def block(self) -> None:
        """Let none of its requests in."""
        BillingProfile.objects.filter(pk=self.pk, blocked_at=None).update(blocked_at=timezone.now())
        self.refresh_from_db(fields=["blocked_at"])

    def unblock(self) -> None:
        """Let its requests in again."""
        BillingProfile.objects.filter(pk=self.pk).update(blocked_at=None)
        self.blocked_at = None

    def pay_later(self, postpaid: bool) -> None:
        """Whether usage may go on without credit, and is owed."""
        BillingProfile.objects.filter(pk=self.pk).update(postpaid=postpaid)
        self.postpaid = postpaid
