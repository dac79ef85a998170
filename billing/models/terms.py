from datetime import datetime
from decimal import Decimal
from typing import ClassVar

from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.utils import timezone
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from accounts.models import Organization, User
from accounts.tenancy import TenantQuerySet
from portal.lib.ids import uuid7

MOST = 10**15


class Terms(models.Model):
    """What an organization gets off the prices, from a moment on. A row never changes; the newest
    that has begun holds."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    organization = models.ForeignKey(
        Organization, on_delete=models.PROTECT, related_name="price_terms"
    )
    effective_at = models.DateTimeField()
    # Basis points off everything: 1,500 are 15 %.
    discount = models.PositiveIntegerField(default=0, validators=[MaxValueValidator(10_000)])
    # In each month of the organization's time zone; what is left does not go over into the next.
    free_tokens = models.BigIntegerField(
        default=0, validators=[MinValueValidator(0), MaxValueValidator(MOST)]
    )
    free_nano = models.BigIntegerField(
        default=0, validators=[MinValueValidator(0), MaxValueValidator(10**18)]
    )
    created_by = models.ForeignKey(User, on_delete=models.SET_NULL, null=True, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)

    objects = TenantQuerySet.as_manager()

    class Meta:
        db_table = "billing_terms"
        ordering: ClassVar = ["-effective_at", "-id"]
        constraints: ClassVar = [
            models.CheckConstraint(
                condition=models.Q(discount__lte=10_000, free_tokens__gte=0, free_nano__gte=0),
                name="terms_are_possible",
            )
        ]

    def __str__(self) -> str:
        return f"{self.organization}, {self.effective_at:%Y-%m-%d}"

    @property
    def discount_percent(self) -> Decimal:
        percent = Decimal(self.discount) / 100
        return percent.normalize() if percent % 10 else percent.quantize(Decimal(1))

    @classmethod
    def agree(
        cls,
        organization: Organization,
        by: User,
        *,
        discount: int = 0,
        free_tokens: int = 0,
        free_nano: int = 0,
        effective_at: datetime | None = None,
    ) -> "Terms":
        """What holds from then on, or from now. Raises ValidationError."""
        now = timezone.now()
        if effective_at is not None and effective_at < now:
            message = gettext("Prices cannot change for what has been used already.")
            raise ValidationError({"effective_at": message})
        terms = cls(
            organization=organization,
            effective_at=effective_at or now,
            discount=discount,
            free_tokens=free_tokens,
            free_nano=free_nano,
            created_by=by,
        )
        terms.full_clean()
        terms.save()
        return terms


class Allowance(models.Model):
    """How much of what is free in a month an organization has used."""

    pk = models.CompositePrimaryKey("organization_id", "month")
    organization = models.ForeignKey(Organization, on_delete=models.PROTECT, related_name="+")
    month = models.DateField(_("month"))  # its first day, in the organization's time zone
    tokens = models.BigIntegerField(default=0)
    nano = models.BigIntegerField(default=0)

    objects = TenantQuerySet.as_manager()

    class Meta:
        db_table = "billing_allowance"

    def __str__(self) -> str:
        return f"{self.organization_id} {self.month:%Y-%m}"
