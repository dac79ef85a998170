"""REST: limits."""

from typing import Any, ClassVar
from uuid import UUID

from django.core.exceptions import ObjectDoesNotExist, ValidationError
from django.db.models import Q, QuerySet
from django.utils.translation import gettext as _
from django_filters import rest_framework as filters
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.rest import Created, Listed, Removed, Retrieved, TenantViewSet
from accounts.roles import Permission
from inference.gateway.tables import Meter, Window
from inference.models import Limit
from inference.models.limit import KINDS, MAX_AMOUNT, METERS, of_scope


class LimitSerializer(serializers.ModelSerializer[Limit]):
    """How much one organization, member, key or instance may use in a window of time."""

    subject = serializers.UUIDField(
        help_text="The id of the organization, member, key or instance, as `scope` says."
    )
    meter = serializers.ChoiceField(
        choices=[(meter.value, meter.value) for meter in METERS],
        help_text="`tokens` are input and output; `concurrent` are requests at a time.",
    )
    window = serializers.ChoiceField(
        choices=[(window.value, window.value) for window in Window],
        help_text="In UTC: `minute` and `day` for requests and tokens, `now` for concurrent, "
        "`month` for spend.",
    )
    amount = serializers.IntegerField(
        min_value=0,
        max_value=MAX_AMOUNT,
        help_text="Requests or tokens; for `spend`, billionths of the organization's currency.",
    )

    class Meta:
        model = Limit
        fields: ClassVar = ["id", "scope", "subject", "meter", "window", "amount"]

    def validate(self, wanted: dict[str, Any]) -> dict[str, Any]:
        """Of a new one: whether there is such a limit, and such a subject."""
        if self.instance is None and (wanted["meter"], wanted["window"]) not in KINDS:
            problem = _("%(meter)s are not limited by that window.") % {"meter": wanted["meter"]}
            raise serializers.ValidationError({"window": problem})
        return wanted


class AmountSerializer(serializers.Serializer[Limit]):
    """What of a limit can be changed."""

    amount = LimitSerializer().fields["amount"]


class LimitFilter(filters.FilterSet):
    """`subject` is the id of an organization, member, key or instance."""

    subject = filters.UUIDFilter(method="of_subject", label="Whose limits")

    class Meta:
        model = Limit
        fields: ClassVar = ["scope", "meter", "window"]

    def of_subject(self, limits: QuerySet[Limit], name: str, id_: UUID) -> QuerySet[Limit]:
        organizations = Q(scope=Limit.Scope.ORGANIZATION, organization=id_)
        return limits.filter(organizations | Q(membership=id_) | Q(api_key=id_) | Q(instance=id_))


class LimitViewSet(Listed, Retrieved, Created, Removed, TenantViewSet):
    """What may be used. All limits that apply to a request hold together; without one there is no
    bound. Members see those of the organization, of instances, and their own."""

    queryset = Limit.objects.all()
    serializer_class = LimitSerializer
    filterset_class = LimitFilter
    may_write = Permission.MANAGE_INSTANCES  # the verb knows who may set which

    def get_queryset(self) -> QuerySet[Limit]:
        if getattr(self, "swagger_fake_view", False):
            return Limit.objects.none()
        return Limit.objects.visible_to(self.membership)

    @extend_schema(description="Set a limit. One that is there already gets the new amount.")
    def create(self, request: Request, **address: Any) -> Response:
        return super().create(request, **address)

    def verb_create(self, scope: str, subject: UUID, meter: str, window: str, amount: int) -> Limit:
        try:
            whose = of_scope(scope, subject, self.organization)
        except ObjectDoesNotExist as error:
            problem = ValidationError(_("There is nothing with this id."), code="does_not_exist")
            raise ValidationError({"subject": problem}) from error
        Limit.set_for(whose, {(Meter(meter), Window(window)): amount}, by=self.membership)
        limit: Limit = Limit.objects.of(whose).get(meter=meter, window=window)
        return limit

    @extend_schema(request=AmountSerializer, responses=LimitSerializer)
    def partial_update(self, request: Request, **address: Any) -> Response:
        """Change its amount."""
        limit = self.get_object()
        wish = AmountSerializer(data=request.data)
        wish.is_valid(raise_exception=True)
        self._set(limit, wish.validated_data["amount"])
        limit.refresh_from_db()
        return Response(self.get_serializer(limit).data)

    def verb_remove(self, limit: Limit) -> None:
        self._set(limit, None)

    def _set(self, limit: Limit, amount: int | None) -> None:
        kind = (Meter(limit.meter), Window(limit.window))
        Limit.set_for(limit.whose, {kind: amount}, by=self.membership)
