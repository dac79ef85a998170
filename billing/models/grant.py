from typing import ClassVar

from django.db import models
from django.utils.translation import gettext_lazy as _

from accounts.models import Organization, User
from accounts.tenancy import TenantQuerySet
from billing.models.ledger import LedgerAccount
from portal.lib.ids import uuid7


class Grant(models.Model):
    """Promotional credit: used before what was paid, the one that expires first before others."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    organization = models.ForeignKey(
        Organization, on_delete=models.PROTECT, related_name="credit_grants"
    )
    account = models.OneToOneField(LedgerAccount, on_delete=models.PROTECT, related_name="grant")
    nano = models.BigIntegerField()  # as it was given
    reason = models.CharField(_("reason"), max_length=200)
    expires_at = models.DateTimeField(_("expires"), null=True)
    expired_at = models.DateTimeField(null=True)  # what was left has been taken back
    created_by = models.ForeignKey(User, on_delete=models.SET_NULL, null=True, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)

    objects = TenantQuerySet.as_manager()

    class Meta:
        db_table = "billing_grant"
        ordering: ClassVar = ["-id"]
        constraints: ClassVar = [
            models.CheckConstraint(condition=models.Q(nano__gt=0), name="grant_is_something")
        ]

    def __str__(self) -> str:
        return f"{self.nano} to {self.organization}"
