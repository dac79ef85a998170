"""REST: the balance, the ledger, the budgets. To read; what changes them is done by people."""

from typing import Any, ClassVar

from django.db.models import Prefetch, QuerySet
from drf_spectacular.helpers import forced_singular_serializer
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.rest import Listed, Retrieved, TenantViewSet
from accounts.roles import Permission
from billing import book, budgets, wallet
from billing.models import Budget, Entry, Grant, LedgerTransaction

NANO_HELP = "Nano-units (1e-9) of the currency."


class GrantSerializer(serializers.ModelSerializer[Grant]):
    left_nano = serializers.IntegerField(source="account.balance.nano", help_text=NANO_HELP)

    class Meta:
        model = Grant
        fields: ClassVar = ["id", "reason", "nano", "left_nano", "expires_at", "created_at"]


class BalanceSerializer(serializers.Serializer[dict[str, Any]]):
    """Nano-units (1e-9) of the currency."""

    currency = serializers.CharField(help_text="ISO 4217.")
    available_nano = serializers.IntegerField(help_text="Prepaid and promotional credit.")
    prepaid_nano = serializers.IntegerField()
    promotional_nano = serializers.IntegerField()
    owed_nano = serializers.IntegerField()
    month_nano = serializers.IntegerField(
        help_text="Charged in this month of the organization's time zone."
    )
    runway_days = serializers.FloatField(
        allow_null=True,
        help_text="For how long the credit lasts at the rate of the last seven days, at most 999; "
        "null where nothing was charged in them.",
    )
    grants = GrantSerializer(many=True, help_text="With something left, in the order of use.")


class EntrySerializer(serializers.ModelSerializer[Entry]):
    account = serializers.CharField(source="account.kind", help_text="wallet, grant or receivable.")
    grant = serializers.UUIDField(source="account.grant.id", default=None, allow_null=True)

    class Meta:
        model = Entry
        fields: ClassVar = ["account", "grant", "nano"]


class LedgerTransactionSerializer(serializers.ModelSerializer[LedgerTransaction]):
    """What has changed the credit. Its entries on the organization's own accounts are signed:
    positive is credit. Nothing of it ever changes."""

    entries = EntrySerializer(many=True, source="own_entries")

    class Meta:
        model = LedgerTransaction
        fields: ClassVar = [
            "id",
            "created_at",
            "kind",
            "currency",
            "description",
            "refers_to",
            "reverses",
            "entries",
        ]


class BudgetSerializer(serializers.ModelSerializer[Budget]):
    """A budget, and what is spent of it in the period that is under way."""

    currency = serializers.CharField()
    period_start = serializers.DateTimeField(source="start")
    period_end = serializers.DateTimeField(source="end")
    spent_nano = serializers.IntegerField(source="spent", help_text=NANO_HELP)

    class Meta:
        model = Budget
        fields: ClassVar = [
            "id",
            "membership",
            "api_key",
            "project",
            "period",
            "first_month",
            "nano",
            "levels",
            "hard_stop",
            "stopped_until",
            "currency",
            "period_start",
            "period_end",
            "spent_nano",
        ]

    def to_representation(self, budget: Budget) -> dict[str, Any]:
        found = budgets.standing(budget)
        for name in ("currency", "start", "end", "spent"):
            setattr(budget, name, getattr(found, name))
        return super().to_representation(budget)


class BalanceViewSet(TenantViewSet):
    """What the organization has to spend."""

    queryset = Grant.objects.all()
    serializer_class = BalanceSerializer
    may_read = may_write = Permission.VIEW_BILLING
    pagination_class = None

    @extend_schema(responses=forced_singular_serializer(BalanceSerializer))
    def list(self, request: Request, **address: Any) -> Response:
        """The balance, the grants in it, and how long it lasts."""
        funds = wallet.funds(self.organization)
        month = book.month_of(self.organization)
        balance = {
            "currency": funds.currency,
            "available_nano": funds.available,
            "prepaid_nano": funds.wallet,
            "promotional_nano": funds.grants,
            "owed_nano": funds.owed,
            "month_nano": book.spent(self.organization, funds.currency, month),
            "runway_days": book.runway(self.organization, funds),
            "grants": book.grants(self.organization),
        }
        return Response(BalanceSerializer(balance).data)


class LedgerViewSet(Listed, Retrieved, TenantViewSet):
    """Whatever has changed the credit, newest first."""

    queryset = LedgerTransaction.objects.all()
    serializer_class = LedgerTransactionSerializer
    filterset_fields: ClassVar = ["kind"]
    may_read = may_write = Permission.VIEW_BILLING

    def get_queryset(self) -> QuerySet[LedgerTransaction]:
        rows = super().get_queryset()
        if getattr(self, "swagger_fake_view", False):
            return rows
        own = book.entries(self.organization).order_by("id")
        return rows.prefetch_related(Prefetch("entries", own, to_attr="own_entries"))


class BudgetViewSet(Listed, Retrieved, TenantViewSet):
    """How much is meant to be spent, and how much is."""

    queryset = Budget.objects.select_related("organization", "membership", "api_key", "project")
    serializer_class = BudgetSerializer
    may_read = may_write = Permission.VIEW_BILLING
