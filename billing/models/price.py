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

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["currency"], condition=Q(organization=None), name="one_house_book"
            ),
            models.CheckConstraint(
                condition=Q(currency__regex="^[A-Z]{3}$"), name="price_currency_is_iso"
            ),
        ]

    def __str__(self) -> str:
        return self.name

    @classmethod
    def of_house(cls, currency: str) -> "PriceBook":
        """The house's in this currency, opened empty where it is new."""
        book, _new = cls.objects.get_or_create(
            currency=currency, organization=None, defaults={"name": currency}
        )
        return book

    @classmethod
    def of_organization(cls, organization: Organization, currency: str) -> "PriceBook":
        """Its own, opened empty where it is new. Raises ValidationError where it has one already
        in another currency."""
        book, _new = cls.objects.get_or_create(
            organization=organization,
            defaults={"name": organization.name[:80], "currency": currency},
        )
        if book.currency != currency:
            message = gettext("It has prices of its own in %(currency)s already.")
            raise ValidationError(message % {"currency": book.currency})
        return book

    @transaction.atomic
    def set_rates(
        self,
        rates: Mapping[str, int],
        effective_at: datetime | None = None,
        *,
        model: str = "",
        engine: str = "",
        gpu_type: str = "",
        ends: bool = False,
    ) -> "PriceVersion":
        """What holds from then on, or from now: nano-units by `Rate.Meter`, all of those for tokens
        and requests or none. Empty names: for every one. `ends`: no longer any price for just that.

        What was used until then keeps its price. Raises ValidationError.
        """
        now = timezone.now()
        if effective_at is not None and effective_at < now:
            message = gettext("Prices cannot change for what has been used already.")
            raise ValidationError({"effective_at": message})
        self.check_rates(rates, model=model, engine=engine, gpu_type=gpu_type, ends=ends)
        version = self.versions.create(
            effective_at=effective_at or now,
            model=model,
            engine=engine,
            gpu_type=gpu_type,
            ends=ends,
        )
        Rate.objects.bulk_create(
            Rate(version=version, meter=meter, nano=nano) for meter, nano in rates.items()
        )
        return version

    def check_rates(
        self, rates: Mapping[str, int], *, model: str, engine: str, gpu_type: str, ends: bool
    ) -> None:
        """Whether this could be a version. Raises ValidationError."""
        said = PER_REQUEST & rates.keys()
        whole = not (model or engine or gpu_type or self.organization_id)
        if ends and rates:
            raise ValidationError(gettext("What ends has no rates."))
        if ends and whole:
            raise ValidationError(gettext("The price for everything cannot end; set another one."))
        if not ends and not rates:
            raise ValidationError(gettext("Enter at least one rate."))
        if said and said != PER_REQUEST:
            message = gettext("Enter all rates for tokens and requests, or none of them.")
            raise ValidationError(message)


class PriceVersion(models.Model):
    """What holds from a moment on, for what it names. It never changes: usage rows name the one
    they fell under. Which of several holds, `billing.price_choice` says."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    book = models.ForeignKey(PriceBook, on_delete=models.PROTECT, related_name="versions")
    # Each empty where it is for every one.
    model = models.CharField(_("model"), max_length=512, blank=True)
    engine = models.CharField(_("engine"), max_length=32, blank=True, default="")
    gpu_type = models.CharField(_("GPU type"), max_length=120, blank=True, default="")
    ends = models.BooleanField(default=False)  # from then on there is none for just that
    effective_at = models.DateTimeField()
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering: ClassVar = ["-effective_at", "-id"]

    def __str__(self) -> str:
        return f"{self.book}, {self.effective_at:%Y-%m-%d}"

    @property
    def own(self) -> bool:
        """Whether it is of an organization's own book."""
        return self.book.organization_id is not None

    @property
    def nano(self) -> dict[str, int]:
        """Nano-units by meter."""
        return {rate.meter: rate.nano for rate in self.rates.all()}


class Rate(models.Model):
    """Nano-units of the currency: for a million tokens of one kind, for one request, for an hour
    (3,600 seconds) of one GPU, or of one replica that computes on processors alone."""

    class Meter(models.TextChoices):
        PROMPT = "prompt", _("Input tokens")
        CACHED = "cached", _("Cached input tokens")
        COMPLETION = "completion", _("Output tokens")
        REASONING = "reasoning", _("Reasoning tokens")
        REQUEST = "request", _("Requests")
        GPU_SECOND = "gpu_second", _("GPU time")
        CPU_SECOND = "cpu_second", _("Time on processors")

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


M = Rate.Meter
PER_REQUEST = frozenset(
    {M.PROMPT.value, M.CACHED.value, M.COMPLETION.value, M.REASONING.value, M.REQUEST.value}
)
