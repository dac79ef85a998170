"""REST: usage, request by request and added up."""

from datetime import UTC, date, datetime
from typing import Any, ClassVar

from django.core.exceptions import ValidationError
from django.db.models import QuerySet
from django.utils.translation import gettext as _
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.rest import Listed, Retrieved, TenantViewSet
from accounts.roles import Permission
from billing import analytics
from billing.analytics import Period
from billing.models import UsageEvent
from portal.lib.pagination import KeysetPagination

DEFAULT_DAYS = 30
LONGEST_PERIOD = 400  # days


class UsageSerializer(serializers.ModelSerializer[UsageEvent]):
    """One request. Tokens are counts, durations microseconds; cached is part of prompt."""

    class Meta:
        model = UsageEvent
        exclude: ClassVar = ["organization"]


class TotalsSerializer(serializers.Serializer[dict[str, Any]]):
    """Sums over the period."""

    requests = serializers.IntegerField()
    failed = serializers.IntegerField()
    prompt_tokens = serializers.IntegerField()
    cached_tokens = serializers.IntegerField()
    completion_tokens = serializers.IntegerField()
    reasoning_tokens = serializers.IntegerField()


class ModelTotalsSerializer(TotalsSerializer):
    model = serializers.CharField()


class SummarySerializer(serializers.Serializer[dict[str, Any]]):
    """The period in numbers."""

    first = serializers.DateField()
    last = serializers.DateField()
    totals = TotalsSerializer()
    models = ModelTotalsSerializer(many=True)


class UsagePagination(KeysetPagination):
    """Newest first by request id, which is ordered by time."""

    ordering = "-request_id"


_PERIOD = [
    OpenApiParameter("first", OpenApiTypes.DATE, description="First day, UTC; 29 days ago."),
    OpenApiParameter("last", OpenApiTypes.DATE, description="Last day, UTC; today."),
]


@extend_schema(parameters=_PERIOD)
class UsageViewSet(Listed, Retrieved, TenantViewSet):
    """What was used: one row per request to the gateway."""

    queryset = UsageEvent.objects.all()
    serializer_class = UsageSerializer
    pagination_class = UsagePagination
    filterset_fields: ClassVar = ["model", "key_id", "instance_id", "status", "outcome"]
    may_read = may_write = Permission.VIEW_USAGE
    lookup_field = "request_id"

    def get_queryset(self) -> QuerySet[UsageEvent]:
        rows = super().get_queryset()
        if self.action == "retrieve" or getattr(self, "swagger_fake_view", False):
            return rows
        return rows & analytics.within(self.organization, self._period())

    @extend_schema(responses=SummarySerializer)
    @action(detail=False, pagination_class=None)
    def summary(self, request: Request, **address: Any) -> Response:
        """Totals of the period, and of each model in it."""
        period = self._period()
        rows = self.filter_queryset(self.get_queryset())
        summary = {
            "first": period.first,
            "last": period.last,
            "totals": analytics.totals(rows),
            "models": analytics.by_model(rows),
        }
        return Response(SummarySerializer(summary).data)

    def _period(self) -> Period:
        default = Period.of_days(DEFAULT_DAYS, datetime.now(UTC).date())
        period = Period(self._day("first", default.first), self._day("last", default.last))
        if not 0 <= (period.last - period.first).days < LONGEST_PERIOD:
            raise ValidationError({"first": _("The period must be 1 to 400 days long.")})
        return period

    def _day(self, name: str, default: date) -> date:
        asked = self.request.query_params.get(name, "")
        if not asked:
            return default
        try:
            return date.fromisoformat(asked)
        except ValueError:
            raise ValidationError({name: _("Write a day as YYYY-MM-DD.")}) from None
