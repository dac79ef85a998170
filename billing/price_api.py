"""REST: the prices of an organization's requests and GPU time, and what it gets off them."""

from datetime import datetime
from typing import Any, ClassVar

from django.db.models import QuerySet
from django.utils import timezone
from drf_spectacular.utils import extend_schema, extend_schema_field
from rest_framework import serializers
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.rest import Listed, Retrieved, TenantViewSet
from billing import price_list
from billing.models import PriceVersion, Rate, Terms


class RatesSerializer(serializers.Serializer[dict[str, int]]):
    """Nano-units (billionths of the currency). Null: not priced here."""

    prompt = serializers.IntegerField(allow_null=True, help_text="For a million input tokens.")
    cached = serializers.IntegerField(
        allow_null=True, help_text="For a million input tokens out of the cache."
    )
    completion = serializers.IntegerField(allow_null=True, help_text="For a million output tokens.")
    reasoning = serializers.IntegerField(
        allow_null=True, help_text="For a million output tokens of reasoning."
    )
    request = serializers.IntegerField(allow_null=True, help_text="For a request.")
    gpu_second = serializers.IntegerField(
        allow_null=True, help_text="For 3,600 GPU seconds, an hour of one GPU."
    )
    cpu_second = serializers.IntegerField(
        allow_null=True, help_text="For an hour of one replica without a GPU."
    )


class PriceSerializer(serializers.ModelSerializer[PriceVersion]):
    """A price version. It never changes; usage rows name it as `price_version_id`."""

    currency = serializers.CharField(source="book.currency")
    own = serializers.BooleanField(help_text="Of the organization's own price list.")
    holds = serializers.SerializerMethodField(
        help_text="Now, for something: nothing more specific or newer always comes before it."
    )
    rates = serializers.SerializerMethodField()

    class Meta:
        model = PriceVersion
        fields: ClassVar = [
            "id",
            "currency",
            "own",
            "model",
            "engine",
            "gpu_type",
            "ends",
            "effective_at",
            "holds",
            "rates",
        ]

    def get_holds(self, version: PriceVersion) -> bool:
        return version.id in self.context["held"]

    @extend_schema_field(RatesSerializer)
    def get_rates(self, version: PriceVersion) -> dict[str, int | None]:
        return {meter.value: version.nano.get(meter.value) for meter in Rate.Meter}


class TermsSerializer(serializers.Serializer[Terms]):
    """What the organization gets off the prices now. A month is one of its time zone."""

    effective_at = serializers.DateTimeField(allow_null=True)
    discount = serializers.IntegerField(help_text="Basis points off everything: 1500 are 15 %.")
    free_tokens = serializers.IntegerField(help_text="In each month.")
    free_nano = serializers.IntegerField(
        help_text="Billionths of the currency that are free in each month."
    )


class PriceViewSet(Listed, Retrieved, TenantViewSet):
    """The price versions that are, were or will be for the organization: its own and the house's,
    in its currency. The most specific one that holds is the price."""

    queryset = PriceVersion.objects.all()
    serializer_class = PriceSerializer
    filterset_fields: ClassVar = ["model", "engine", "gpu_type"]

    def get_queryset(self) -> QuerySet[PriceVersion]:
        if getattr(self, "swagger_fake_view", False):  # the schema is made without a caller
            return PriceVersion.objects.none()
        return price_list.of_organization(self.organization)

    def get_serializer_context(self) -> dict[str, Any]:
        context = super().get_serializer_context()
        if not getattr(self, "swagger_fake_view", False):
            versions = price_list.of_organization(self.organization)
            context["held"] = price_list.held(versions, timezone.now())
        return context

    @extend_schema(responses=TermsSerializer)
    @action(detail=False, pagination_class=None, filter_backends=())
    def terms(self, request: Request, **address: Any) -> Response:
        """The discount, and what is free in a month."""
        now: datetime = timezone.now()
        terms = price_list.terms_of(self.organization, now) or Terms()
        return Response(TermsSerializer(terms).data)
