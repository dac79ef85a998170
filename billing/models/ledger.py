from typing import ClassVar

from django.db import models
from django.db.models import Func, Q
from django.utils.translation import gettext_lazy as _

from accounts.models import Organization
from accounts.tenancy import TenantQuerySet
from portal.lib.ids import uuid7

# What the column says where nothing else does. The day that counts is set by a trigger.
TODAY = Func(template="CURRENT_DATE", output_field=models.DateField())


class LedgerAccount(models.Model):
    """One side of the books, in one currency: an organization's, or the house's own.

    Amounts are credits: positive is what we owe or have earned, negative what we hold or are owed.
    """

    class Kind(models.TextChoices):
        WALLET = "wallet", _("Prepaid credit")
        GRANT = "grant", _("Promotional credit")  # one for each grant
        RECEIVABLE = "receivable", _("Owed by the customer")
        CASH = "cash", _("Payments")
        REVENUE = "revenue", _("Revenue")
        PROMOTION = "promotion", _("Promotions")
        TAX = "tax", _("Tax")
        ROUNDING = "rounding", _("Rounding")

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    organization = models.ForeignKey(
        Organization, on_delete=models.PROTECT, null=True, related_name="ledger_accounts"
    )
    kind = models.CharField(max_length=16, choices=Kind)
    currency = models.CharField(max_length=3)  # ISO 4217
    reference = models.CharField(max_length=64, blank=True, default="")  # which, of several
    created_at = models.DateTimeField(auto_now_add=True)

    objects = TenantQuerySet.as_manager()

    class Meta:
        db_table = "billing_ledger_account"
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["organization", "kind", "currency", "reference"],
                nulls_distinct=False,
                name="one_ledger_account_of_a_kind",
            )
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.reference or self.organization_id or 'house'} {self.currency}"


class Balance(models.Model):
    """The sum of an account's entries, kept by `billing.ledger` in the same transaction."""

    account = models.OneToOneField(
        LedgerAccount, on_delete=models.PROTECT, primary_key=True, related_name="balance"
    )
    nano = models.BigIntegerField(default=0)

    class Meta:
        db_table = "billing_ledger_balance"

    def __str__(self) -> str:
        return f"{self.account}: {self.nano}"


class LedgerTransaction(models.Model):
    """Entries that belong together; their sum is 0 (a deferred constraint of the database)."""

    class Kind(models.TextChoices):
        USAGE = "usage", _("Usage")
        GPU = "gpu", _("GPU time")
        STORAGE = "storage", _("Storage")
        TOPUP = "topup", _("Top-up")
        CREDIT = "credit", _("Credit by the operator")
        GRANT = "grant", _("Promotional credit")
        EXPIRY = "expiry", _("Expired credit")
        REFUND = "refund", _("Refund")
        DISPUTE = "dispute", _("Dispute")
        INVOICE = "invoice", _("Invoice")
        REVERSAL = "reversal", _("Correction")

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    kind = models.CharField(max_length=16, choices=Kind)
    # Whoever posts the same again, posts nothing.
    key = models.CharField(max_length=128, unique=True)
    organization = models.ForeignKey(
        Organization, on_delete=models.PROTECT, null=True, related_name="ledger_transactions"
    )
    currency = models.CharField(max_length=3)
    description = models.CharField(max_length=200, blank=True, default="")
    # What it is about, for people and programs: {"checkout_session": "cs_…"}, {"interval": "…"}
    refers_to = models.JSONField(default=dict)
    reverses = models.OneToOneField(
        "self", on_delete=models.PROTECT, null=True, related_name="reversed_by"
    )
    created_at = models.DateTimeField(auto_now_add=True)
    # Of UTC, set by the database when it is posted: the day that it is sealed with.
    day = models.DateField(db_default=TODAY, editable=False)

    objects = TenantQuerySet.as_manager()

    class Meta:
        db_table = "billing_ledger_transaction"
        ordering: ClassVar = ["-id"]
        indexes: ClassVar = [
            models.Index(fields=["organization", "-id"], name="ledger_by_organization"),
            models.Index(fields=["day", "id"], name="ledger_by_day"),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.key}"


class Entry(models.Model):
    """One amount on one account. Inserted once by `billing.ledger`; never changed, never deleted
    (a trigger of the database)."""

    id = models.BigAutoField(primary_key=True)
    transaction = models.ForeignKey(
        LedgerTransaction, on_delete=models.PROTECT, related_name="entries"
    )
    account = models.ForeignKey(
        LedgerAccount, on_delete=models.PROTECT, related_name="entries", db_index=False
    )
    nano = models.BigIntegerField()
    day = models.DateField(db_default=TODAY, editable=False)  # its transaction's, by a trigger

    class Meta:
        db_table = "billing_ledger_entry"
        ordering: ClassVar = ["id"]
        indexes: ClassVar = [
            models.Index(fields=["day", "transaction", "id"], name="ledger_entries_in_order"),
            models.Index(fields=["account", "-id"], name="ledger_entries_by_account"),
        ]
        constraints: ClassVar = [
            models.CheckConstraint(condition=~Q(nano=0), name="ledger_entry_is_not_nothing")
        ]

    def __str__(self) -> str:
        return f"{self.nano} on {self.account_id}"
