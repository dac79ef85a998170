from typing import ClassVar

from django.db import connection, models
from django.db.models import Q
from django.urls import reverse
from django.utils.translation import gettext_lazy as _

from accounts.models import Organization, User
from accounts.tenancy import TenantQuerySet
from billing.models.ledger import LedgerTransaction
from portal.lib.ids import uuid7


class InvoiceNumbers(models.Model):
    """The last number that was given in a series and year. Who takes the next holds the row until
    the invoice is committed, so that no number is ever missing and none is given twice."""

    pk = models.CompositePrimaryKey("series", "year")
    series = models.CharField(max_length=8)
    year = models.PositiveSmallIntegerField()
    last = models.PositiveIntegerField(default=0)

    class Meta:
        db_table = "billing_invoice_numbers"

    def __str__(self) -> str:
        return f"{self.series} {self.year}: {self.last}"

    @classmethod
    def take(cls, series: str, year: int) -> str:
        """The next number, as "INV-2026-000001". Within a transaction, and late in it."""
        with connection.cursor() as cursor:
            cursor.execute(
                "INSERT INTO billing_invoice_numbers AS n (series, year, last) VALUES (%s, %s, 1) "
                "ON CONFLICT (series, year) DO UPDATE SET last = n.last + 1 RETURNING last",
                [series, year],
            )
            return f"{series}-{year}-{cursor.fetchone()[0]:06d}"


class Invoice(models.Model):
    """What an organization was charged in a month, or, as a credit note, what it is given back.

    Once it is final nothing in it changes (a trigger of the database), save that it may become
    void. Whose it is and who issued it are written into it: both may move.
    """

    class Kind(models.TextChoices):
        INVOICE = "invoice", _("Invoice")
        CREDIT_NOTE = "credit_note", _("Credit note")

    class Status(models.TextChoices):
        DRAFT = "draft", _("Draft")
        FINAL = "final", _("Final")
        VOID = "void", _("Void")

    SERIES: ClassVar = {Kind.INVOICE: "INV", Kind.CREDIT_NOTE: "CN"}

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    organization = models.ForeignKey(
        Organization, on_delete=models.PROTECT, related_name="invoices"
    )
    kind = models.CharField(max_length=16, choices=Kind, default=Kind.INVOICE)
    status = models.CharField(_("state"), max_length=8, choices=Status, default=Status.DRAFT)
    number = models.CharField(_("number"), max_length=32, unique=True, null=True)  # noqa: DJ001
    corrects = models.ForeignKey(
        "self", on_delete=models.PROTECT, null=True, related_name="credit_notes"
    )
    currency = models.CharField(_("currency"), max_length=3)
    time_zone = models.CharField(max_length=64)  # in which its month is counted
    period_start = models.DateTimeField()
    period_end = models.DateTimeField()  # not within it
    issued_at = models.DateTimeField(null=True)  # what was booked until then is in it
    # Nano-units: what the ledger has charged for the lines. Minor units: what is to be paid.
    nano = models.BigIntegerField(default=0)
    subtotal = models.BigIntegerField(default=0)
    tax_name = models.CharField(max_length=32, blank=True)
    tax_rate = models.DecimalField(max_digits=6, decimal_places=3, default=0)  # per cent
    tax = models.BigIntegerField(default=0)
    total = models.BigIntegerField(_("total"), default=0)
    transaction = models.ForeignKey(
        LedgerTransaction, on_delete=models.PROTECT, null=True, related_name="+"
    )
    issuer_name = models.CharField(max_length=200)
    issuer_address = models.TextField(blank=True)
    issuer_tax_id = models.CharField(max_length=64, blank=True)
    legal_name = models.CharField(max_length=200)
    address = models.TextField(blank=True)
    country = models.CharField(max_length=2, blank=True)
    tax_id_kind = models.CharField(max_length=32, blank=True)
    tax_id = models.CharField(max_length=64, blank=True)
    purchase_order = models.CharField(max_length=64, blank=True)
    reason = models.CharField(max_length=200, blank=True)  # of a credit note, or why it is void
    decided_by = models.ForeignKey(User, on_delete=models.SET_NULL, null=True, related_name="+")
    voided_at = models.DateTimeField(null=True)
    created_at = models.DateTimeField(auto_now_add=True)

    objects = TenantQuerySet.as_manager()

    class Meta:
        db_table = "billing_invoice"
        ordering: ClassVar = ["-id"]
        indexes: ClassVar = [
            models.Index(fields=["organization", "-id"], name="invoices_by_organization")
        ]
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["organization", "currency", "period_start"],
                condition=Q(kind="invoice") & ~Q(status="void"),
                name="one_invoice_of_a_period",
            ),
            models.CheckConstraint(
                condition=Q(status="draft") | Q(number__isnull=False, issued_at__isnull=False),
                name="an_issued_invoice_has_a_number",
            ),
            models.CheckConstraint(
                condition=Q(kind="invoice", corrects=None)
                | Q(kind="credit_note", corrects__isnull=False),
                name="a_credit_note_corrects_an_invoice",
            ),
            models.CheckConstraint(
                condition=Q(total=models.F("subtotal") + models.F("tax")),
                name="an_invoice_adds_up",
            ),
        ]

    def __str__(self) -> str:
        return self.number or "draft"

    def get_absolute_url(self) -> str:
        return reverse(
            "invoice",
            kwargs={"org": self.organization.slug, "number": self.number or "current"},
        )

    @property
    def tax_title(self) -> str:
        """As "VAT 7.7 %"."""
        return f"{self.tax_name} {self.tax_rate.normalize():f} %"

    @property
    def is_credit_note(self) -> bool:
        return self.kind == self.Kind.CREDIT_NOTE


class InvoiceLine(models.Model):
    """What was used of one thing by one key, or one sum more or less.

    It names keys, members and projects by bare ids and by what they were called when it was drawn:
    a bill outlives them.
    """

    class Kind(models.TextChoices):
        MODEL = "model", _("Model")
        GPU = "gpu", _("GPU time")
        OTHER = "other", _("Other")  # one transaction of the ledger, or a credit

    class Unit(models.TextChoices):
        TOKENS = "tokens", _("tokens")
        GPU_SECONDS = "gpu_seconds", _("GPU seconds")
        SECONDS = "seconds", _("seconds")
        NONE = "", ""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    invoice = models.ForeignKey(Invoice, on_delete=models.PROTECT, related_name="lines")
    position = models.PositiveIntegerField()  # 1 is the first
    kind = models.CharField(max_length=8, choices=Kind)
    what = models.CharField(_("what"), max_length=512)  # a model's name, a GPU type, a reason
    # Of the usage. Before the invoice's own period where it was booked after that one's invoice.
    period_start = models.DateTimeField()
    period_end = models.DateTimeField()
    key_id = models.UUIDField(null=True)
    key_name = models.CharField(max_length=80, blank=True)
    membership_id = models.UUIDField(null=True)
    member = models.CharField(max_length=254, blank=True)
    project_id = models.UUIDField(null=True)
    project = models.CharField(max_length=80, blank=True)  # empty where it has no name here
    instance_id = models.UUIDField(null=True)  # of GPU time
    transaction_id = models.UUIDField(null=True)  # of what is neither a model nor GPU time
    requests = models.BigIntegerField(default=0)
    prompt_tokens = models.BigIntegerField(default=0)
    cached_tokens = models.BigIntegerField(default=0)
    completion_tokens = models.BigIntegerField(default=0)
    reasoning_tokens = models.BigIntegerField(default=0)
    quantity = models.BigIntegerField(default=0)
    unit = models.CharField(max_length=12, choices=Unit, blank=True)
    # Units of the currency. Of a model for a million tokens: input, cached, output, reasoning, and
    # for a request. Of GPU time for an hour. Empty: several prices held in the period.
    unit_price = models.CharField(max_length=120, blank=True)
    nano = models.BigIntegerField()
    minor = models.BigIntegerField()  # `nano`, rounded half to even

    class Meta:
        db_table = "billing_invoice_line"
        ordering: ClassVar = ["position"]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["invoice", "position"], name="one_line_in_a_place")
        ]

    def __str__(self) -> str:
        return f"{self.position}. {self.what}"
