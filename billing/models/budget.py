from typing import ClassVar

from django.contrib.postgres.fields import ArrayField
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from accounts.models import ApiKey, Membership, Organization, Project, User
from accounts.tenancy import TenantQuerySet
from billing.periods import PeriodKind
from portal.lib.ids import uuid7

LEVELS = (50, 75, 90, 100)  # per cent of the amount


def all_levels() -> list[int]:
    return list(LEVELS)


class BudgetQuerySet(TenantQuerySet):
    def of(
        self,
        *,
        membership: Membership | None = None,
        api_key: ApiKey | None = None,
        project: Project | None = None,
    ) -> "BudgetQuerySet":
        """Those of this member, key or project; with none of them, of the organization itself."""
        return self.filter(membership=membership, api_key=api_key, project=project)


class Budget(models.Model):
    """How much an organization, or one member, key or project of it, means to spend in a period.

    Its people are told when parts of it are spent; with `hard_stop` the gateways refuse requests
    once all of it is, from `stopped_until` being set to that moment: they read it as they read
    limits (inference/gateway/snapshot.py).
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="budgets")
    membership = models.ForeignKey(
        Membership, on_delete=models.CASCADE, null=True, blank=True, related_name="budgets"
    )
    api_key = models.ForeignKey(
        ApiKey, on_delete=models.CASCADE, null=True, blank=True, related_name="budgets"
    )
    project = models.ForeignKey(
        Project, on_delete=models.CASCADE, null=True, blank=True, related_name="budgets"
    )
    period = models.CharField(
        _("period"),
        max_length=16,
        choices=[
            (PeriodKind.MONTH.value, _("Month")),
            (PeriodKind.FISCAL_YEAR.value, _("Fiscal year")),
        ],
        default=PeriodKind.MONTH.value,
    )
    first_month = models.PositiveSmallIntegerField(
        _("first month of the fiscal year"),
        default=1,
        validators=[MinValueValidator(1), MaxValueValidator(12)],
    )
    nano = models.BigIntegerField()  # nano-units of the organization's currency
    levels = ArrayField(models.PositiveSmallIntegerField(), default=all_levels, blank=True)
    hard_stop = models.BooleanField(_("stop when it is spent"), default=False)
    stopped_until = models.DateTimeField(null=True, blank=True)
    created_by = models.ForeignKey(
        User, on_delete=models.SET_NULL, null=True, blank=True, related_name="+"
    )
    created_at = models.DateTimeField(auto_now_add=True)

    objects = BudgetQuerySet.as_manager()

    class Meta:
        db_table = "billing_budget"
        ordering: ClassVar = ["-id"]
        constraints: ClassVar = [
            models.CheckConstraint(condition=Q(nano__gt=0), name="budget_is_something"),
            models.CheckConstraint(
                condition=Q(first_month__gte=1, first_month__lte=12), name="budget_month_is_one"
            ),
            models.CheckConstraint(
                condition=Q(membership=None, api_key=None)
                | Q(membership=None, project=None)
                | Q(api_key=None, project=None),
                name="budget_is_of_one_subject",
            ),
            models.UniqueConstraint(
                fields=["organization", "membership", "api_key", "project", "period"],
                nulls_distinct=False,
                name="one_budget_of_a_subject_and_period",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.nano} a {self.period} for {self.whose}"

    @property
    def whose(self) -> Organization | Membership | ApiKey | Project:
        """Whose budget it is."""
        return self.membership or self.api_key or self.project or self.organization


class BudgetAlert(models.Model):
    """In this period this part of the budget was spent: told once."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    budget = models.ForeignKey(Budget, on_delete=models.CASCADE, related_name="alerts")
    period_start = models.DateTimeField()
    level = models.PositiveSmallIntegerField()  # per cent
    spent_nano = models.BigIntegerField()  # when it was seen
    budget_nano = models.BigIntegerField()  # as it was then
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        db_table = "billing_budget_alert"
        ordering: ClassVar = ["-id"]
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["budget", "period_start", "level"], name="one_alert_of_a_level_and_period"
            )
        ]

    def __str__(self) -> str:
        return f"{self.level} % of {self.budget}"
