from collections.abc import Mapping
from datetime import datetime
from typing import ClassVar

from django.core.exceptions import ValidationError
from django.db import models, transaction
from django.db.models import Q
from django.utils import timezone
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from accounts.models import Organization
from portal.lib.ids import uuid7

# The price of everything until an operator sets one.
FREE_BOOK = "00000000-0000-7000-8000-000000000001"
FREE_VERSION = "00000000-0000-7000-8000-000000000002"
NANO = 10**9  # of them make one unit of a currency


class PriceBook(models.Model):
    """Prices in one currency: the house's own, or one organization's."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    name = models.CharField(_("name"), max_length=80)
    currency = models.CharField(_("currency"), max_length=3)  # ISO 4217
    organization = models.OneToOneField(
        Organization, on_delete=models.PROTECT, null=True, blank=True, related_name="price_book"
    )
    created_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return self.name

    @classmethod
    def of(cls, organization: Organization) -> "PriceBook":
        """The book that its usage is priced by: its own, or the house's newest."""
        own_first = models.F("organization").asc(nulls_last=True)
        books = cls.objects.filter(Q(organization=organization) | Q(organization=None))
        return books.order_by(own_first, "-created_at")[0]

    @classmethod
    def of_house(cls) -> "PriceBook":
        """The house's newest."""
        return cls.objects.filter(organization=None).order_by("-created_at")[0]

    @transaction.atomic
    def set_rates(
        self, rates: Mapping[str, int], effective_at: datetime | None = None
    ) -> "PriceVersion":
        """What holds from then on, or from now: nano-units by `Rate.Meter`. Raises ValidationError.

        What was used until then keeps its price.
        """
        now = timezone.now()
        if effective_at is not None and effective_at < now:
            message = gettext("Prices cannot change for what has been used already.")
            raise ValidationError({"effective_at": message})
        version = self.versions.create(effective_at=effective_at or now)
        Rate.objects.bulk_create(
            Rate(version=version, meter=meter, nano=rates[meter]) for meter in Rate.Meter
        )
        return version


class PriceVersion(models.Model):
    """What holds from a moment on. It never changes: usage rows name the one they fell under."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    book = models.ForeignKey(PriceBook, on_delete=models.PROTECT, related_name="versions")
    model = models.CharField(max_length=512, blank=True)  # model id; empty: every model
    effective_at = models.DateTimeField()
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering: ClassVar = ["-effective_at"]

    def __str__(self) -> str:
        return f"{self.book}, {self.effective_at:%Y-%m-%d}"


class Rate(models.Model):
    """Nano-units of the currency for a million tokens of one kind, or for one request."""

    class Meter(models.TextChoices):
        PROMPT = "prompt", _("Input tokens")
        CACHED = "cached", _("Cached input tokens")
        COMPLETION = "completion", _("Output tokens")
        REASONING = "reasoning", _("Reasoning tokens")
        REQUEST = "request", _("Requests")

    version = models.ForeignKey(PriceVersion, on_delete=models.PROTECT, related_name="rates")
    meter = models.CharField(max_length=16, choices=Meter)
    nano = models.BigIntegerField()

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["version", "meter"], name="one_rate_per_meter"),
            models.CheckConstraint(condition=Q(nano__gte=0), name="rate_is_not_negative"),
        ]

    def __str__(self) -> str:
        return f"{self.meter}: {self.nano}"
