"""REST: instances, their events and their log."""

from typing import Any, ClassVar

from django.core.exceptions import ValidationError
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.rest import Created, Listed, Removed, Retrieved, TenantViewSet
from accounts.roles import Permission
from inference import catalog, reconciler
from inference.models import Instance, InstanceEvent
from inference.provisioners.base import LogChunk
from inference.provisioners.base import Unavailable as PlaceUnavailable
from portal.lib.errors import Unavailable


class ProgressSerializer(serializers.Serializer[Instance]):
    """How far the present stage is; null where it does not say."""

    done = serializers.IntegerField(source="progress_done", allow_null=True)
    total = serializers.IntegerField(source="progress_total", allow_null=True)
    unit = serializers.CharField(source="progress_unit")


class InstanceSerializer(serializers.ModelSerializer[Instance]):
    """`desired` is what people want, `state` what is; `name` is what programs call `model`."""

    # Empty: as the model is now. The answer names the revision that was pinned.
    model_revision = serializers.CharField(required=False, allow_blank=True, max_length=64)
    settings = serializers.DictField(required=False, help_text="Typed settings of the engine.")
    progress = ProgressSerializer(source="*", read_only=True)

    class Meta:
        model = Instance
        fields: ClassVar = [
            "id",
            "name",
            "model_source",
            "model_id",
            "model_revision",
            "engine",
            "settings",
            "gpu_count",
            "queue_size",
            "queue_seconds",
            "desired",
            "state",
            "stage",
            "reason",
            "message",
            "progress",
            "generation",
            "created_at",
            "ready_at",
        ]
        read_only_fields: ClassVar = [
            "desired",
            "state",
            "stage",
            "reason",
            "message",
            "generation",
            "created_at",
            "ready_at",
        ]


class QueueSerializer(serializers.ModelSerializer[Instance]):
    """The line in which requests wait for a turn where the instance is at its limit of requests at
    a time."""

    class Meta:
        model = Instance
        fields: ClassVar = ["queue_size", "queue_seconds"]


class EventSerializer(serializers.ModelSerializer[InstanceEvent]):
    """What happened, newest first."""

    by = serializers.EmailField(source="by.email", default=None, allow_null=True, read_only=True)

    class Meta:
        model = InstanceEvent
        fields: ClassVar = ["id", "at", "generation", "reason", "message", "data", "by"]


class LogSerializer(serializers.Serializer[LogChunk]):
    """A piece of the engine's log; `next_offset` asks for what follows."""

    text = serializers.CharField()
    next_offset = serializers.IntegerField()


class InstanceViewSet(Listed, Retrieved, Created, Removed, TenantViewSet):
    """Dedicated instances of models."""

    queryset = Instance.objects.alive()
    serializer_class = InstanceSerializer
    filterset_fields: ClassVar = ["name", "state", "desired", "model_id"]
    may_write = Permission.MANAGE_INSTANCES

    def verb_create(self, **wanted: Any) -> Instance:
        card = catalog.describe(
            self.organization,
            wanted["model_source"],
            wanted["model_id"],
            wanted.pop("model_revision", ""),
        )
        if obstacle := catalog.obstacle(card, catalog.fits(card)):
            raise ValidationError({"model_id": obstacle})
        return Instance.request(
            self.organization, self.membership.user, model_revision=card.revision, **wanted
        )

    def verb_remove(self, instance: Instance) -> None:
        instance.request_delete(self.membership.user)

    @extend_schema(request=QueueSerializer, responses=InstanceSerializer)
    def partial_update(self, request: Request, **address: Any) -> Response:
        """Change the line in which requests wait."""
        instance = self.get_object()
        wish = QueueSerializer(instance, data=request.data, partial=True)
        wish.is_valid(raise_exception=True)
        instance.set_queue(
            wish.validated_data.get("queue_size", instance.queue_size),
            wish.validated_data.get("queue_seconds", instance.queue_seconds),
        )
        return Response(self.get_serializer(instance).data)

    @extend_schema(request=None, responses=InstanceSerializer)
    @action(detail=True, methods=["post"])
    def start(self, request: Request, **address: Any) -> Response:
        """Run it (again)."""
        return self._after(lambda instance, user: instance.request_start(user))

    @extend_schema(request=None, responses=InstanceSerializer)
    @action(detail=True, methods=["post"])
    def stop(self, request: Request, **address: Any) -> Response:
        """Free what it holds; name and settings stay."""
        return self._after(lambda instance, user: instance.request_stop(user))

    @extend_schema(request=None, responses=InstanceSerializer)
    @action(detail=True, methods=["post"])
    def restart(self, request: Request, **address: Any) -> Response:
        """End its engine and start a fresh one."""
        return self._after(lambda instance, user: instance.request_restart(user))

    @extend_schema(responses=EventSerializer(many=True), filters=False)
    @action(detail=True)
    def events(self, request: Request, **address: Any) -> Response:
        """What happened to it."""
        page = self.paginate_queryset(self.get_object().events.select_related("by"))
        return self.get_paginated_response(EventSerializer(page, many=True).data)

    @extend_schema(
        parameters=[
            OpenApiParameter("offset", OpenApiTypes.INT, description="Without it, the end.")
        ],
        responses=LogSerializer,
    )
    @action(detail=True)
    def logs(self, request: Request, **address: Any) -> Response:
        """The engine's own log."""
        asked = request.query_params.get("offset", "")
        offset = int(asked) if asked.isdecimal() and len(asked) < 16 else None
        replica = self.get_object().replicas.first()
        if replica is None:
            return Response(LogSerializer(LogChunk("", 0)).data)
        try:
            chunk = reconciler.provisioner().logs(reconciler.handle_of(replica), offset=offset)
        except PlaceUnavailable as error:
            raise Unavailable(str(error)) from error
        return Response(LogSerializer(chunk).data)

    def _after(self, verb: Any) -> Response:
        instance = self.get_object()
        verb(instance, self.membership.user)
        return Response(self.get_serializer(instance).data)
