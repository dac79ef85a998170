"""REST: routes and the external providers that they may lead to."""

from collections.abc import Sequence
from typing import Any, ClassVar

from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.rest import Created, Listed, Removed, Retrieved, TenantViewSet
from accounts.roles import Permission
from inference.models import Instance, Provider, Route, RouteTarget
from inference.models.route import MOST_TARGETS, Way


class OwnRelatedField(serializers.PrimaryKeyRelatedField[Any]):
    """The id of something of this organization; of another's it says that there is none."""

    def get_queryset(self) -> Any:
        """Nothing while the schema is made, which is without an organization."""
        organization = self.context.get("organization")
        queryset: Any = super().get_queryset()
        return queryset.for_organization(organization) if organization else queryset.none()


class TargetSerializer(serializers.ModelSerializer[RouteTarget]):
    """One way of a route: an instance, or a provider with the name of its model there."""

    instance = OwnRelatedField(  # type: ignore[assignment]  # a field; DRF keeps the two apart
        queryset=Instance.objects.alive(),
        allow_null=True,
        default=None,
        pk_field=serializers.UUIDField(),
        help_text="The id of an instance of the organization.",
    )
    provider = OwnRelatedField(
        queryset=Provider.objects.all(),
        allow_null=True,
        default=None,
        pk_field=serializers.UUIDField(),
        help_text="The id of a provider of the organization.",
    )
    provider_model = serializers.CharField(
        max_length=200,
        allow_blank=True,
        default="",
        help_text="What the provider calls the model.",
    )
    tier = serializers.IntegerField(
        min_value=0,
        max_value=1000,
        default=0,
        help_text="0 is tried first, the next only when all of it cannot answer. Gaps are closed.",
    )
    weight = serializers.IntegerField(
        min_value=1,
        max_value=1000,
        default=1,
        help_text="Its share of the traffic among targets of the same tier.",
    )

    class Meta:
        model = RouteTarget
        fields: ClassVar = ["instance", "provider", "provider_model", "tier", "weight"]
        validators: ClassVar[list[Any]] = []  # the verb says it in our words


class RouteSerializer(serializers.ModelSerializer[Route]):
    """A name for `model=` that leads elsewhere."""

    targets = TargetSerializer(many=True, min_length=1, max_length=MOST_TARGETS)  # type: ignore[call-arg]

    class Meta:
        model = Route
        fields: ClassVar = ["id", "name", "data_may_leave", "targets", "created_at", "changed_at"]
        read_only_fields: ClassVar = ["created_at", "changed_at"]


class RouteChangeSerializer(RouteSerializer):
    """What of a route can be changed: all but its name."""

    class Meta(RouteSerializer.Meta):
        fields: ClassVar = ["data_may_leave", "targets"]


class RouteViewSet(Listed, Retrieved, Created, Removed, TenantViewSet):
    """Names that lead to instances and providers: aliases, fallbacks, shares of traffic."""

    queryset = Route.objects.prefetch_related("targets")
    serializer_class = RouteSerializer
    filterset_fields: ClassVar = ["name"]
    may_write = Permission.MANAGE_INSTANCES

    def verb_create(self, targets: Sequence[dict[str, Any]], **wanted: Any) -> Route:
        return Route.make(self.organization, self.membership.user, ways=_ways(targets), **wanted)

    @extend_schema(request=RouteChangeSerializer, responses=RouteSerializer)
    def partial_update(self, request: Request, **address: Any) -> Response:
        """Change where it leads; `targets` replaces all of the former ones."""
        route = self.get_object()
        context = self.get_serializer_context()
        wish = RouteChangeSerializer(data=request.data, partial=True, context=context)
        wish.is_valid(raise_exception=True)
        targets = wish.validated_data.get("targets")
        route.change(
            ways=None if targets is None else _ways(targets),
            data_may_leave=wish.validated_data.get("data_may_leave"),
        )
        return Response(self.get_serializer(self.get_object()).data)

    def verb_remove(self, route: Route) -> None:
        route.delete()


def _ways(targets: Sequence[dict[str, Any]]) -> list[Way]:
    return [Way(**target) for target in targets]


class ProviderSerializer(serializers.ModelSerializer[Provider]):
    """A service elsewhere. Its secret is never told."""

    secret = serializers.CharField(
        write_only=True,
        max_length=1024,
        help_text="The API key by which we call it. Kept encrypted.",
    )
    base_url = serializers.CharField(
        max_length=512, help_text="https only, up to `/v1`, for example https://api.openai.com/v1."
    )
    set_by = serializers.EmailField(source="set_by.email", default=None, read_only=True)

    class Meta:
        model = Provider
        fields: ClassVar = ["id", "name", "base_url", "secret", "set_by", "set_at", "created_at"]
        read_only_fields: ClassVar = ["set_at", "created_at"]


class SecretSerializer(serializers.Serializer[Provider]):
    """Another secret in the place of the present one."""

    secret = serializers.CharField(write_only=True, max_length=1024)


class ProviderViewSet(Listed, Retrieved, Created, Removed, TenantViewSet):
    """OpenAI-compatible services elsewhere that routes may lead to. One that a route leads to
    cannot be deleted."""

    queryset = Provider.objects.select_related("set_by")
    serializer_class = ProviderSerializer
    filterset_fields: ClassVar = ["name"]
    may_write = Permission.MANAGE_ORGANIZATION

    def verb_create(self, **wanted: Any) -> Provider:
        return Provider.add(self.organization, self.membership.user, **wanted)

    def verb_remove(self, provider: Provider) -> None:
        provider.remove()

    @extend_schema(request=SecretSerializer, responses=ProviderSerializer)
    @action(detail=True, methods=["post"])
    def rotate(self, request: Request, **address: Any) -> Response:
        """Replace its secret."""
        provider = self.get_object()
        wish = SecretSerializer(data=request.data)
        wish.is_valid(raise_exception=True)
        provider.rotate(self.membership.user, wish.validated_data["secret"])
        return Response(self.get_serializer(provider).data)
