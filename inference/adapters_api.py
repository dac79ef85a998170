"""REST: LoRA adapters of instances."""

from typing import Any, ClassVar

from django_filters import rest_framework as filters
from rest_framework import serializers

from accounts.rest import Created, Listed, Removed, Retrieved, TenantViewSet
from accounts.roles import Permission
from inference import adapters
from inference.models import Adapter, Instance
from inference.routes_api import OwnRelatedField


class AdapterSerializer(serializers.ModelSerializer[Adapter]):
    """A LoRA adapter: `name` is what programs call `model`, `message` says what is wrong."""

    instance = OwnRelatedField(  # type: ignore[assignment]  # a field; DRF keeps the two apart
        queryset=Instance.objects.alive(),
        pk_field=serializers.UUIDField(),
        help_text="The id of the instance whose engine loads it.",
    )
    # Empty: as it is now. The answer names the revision that was pinned.
    model_revision = serializers.CharField(required=False, allow_blank=True, max_length=64)

    class Meta:
        model = Adapter
        fields: ClassVar = [
            "id",
            "instance",
            "name",
            "source",
            "model_id",
            "model_revision",
            "rank",
            "base_model",
            "state",
            "message",
            "created_at",
            "ready_at",
        ]
        read_only_fields: ClassVar = [
            *("rank", "base_model", "state", "message", "created_at", "ready_at")
        ]


class AdapterFilter(filters.FilterSet):
    """`instance` is the id of the one that they belong to."""

    instance = filters.UUIDFilter(field_name="instance_id", label="Of this instance")

    class Meta:
        model = Adapter
        fields: ClassVar = ["name", "state"]


class AdapterViewSet(Listed, Retrieved, Created, Removed, TenantViewSet):
    """LoRA adapters, which come and go while their instance runs."""

    queryset = Adapter.objects.alive()
    serializer_class = AdapterSerializer
    filterset_class = AdapterFilter
    may_write = Permission.MANAGE_INSTANCES

    def verb_create(self, **wanted: Any) -> Adapter:
        return adapters.add(wanted.pop("instance"), self.membership.user, **wanted)

    def verb_remove(self, adapter: Adapter) -> None:
        adapter.remove(self.membership.user)
