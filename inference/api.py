"""REST: instances, their events and their log."""

from typing import Any, ClassVar

from django.core.exceptions import ValidationError
from django.db import transaction
from django.utils.translation import gettext as _
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.models import Organization
from accounts.rest import Created, Listed, Removed, Retrieved, TenantViewSet
from accounts.roles import Permission
from inference import catalog, doctor, drafts, engine_log, fit_answers
from inference.engines import loaders
from inference.fit import Wish
from inference.fit_answers import House
from inference.model_card import ModelCard
from inference.models import Instance, InstanceEvent, InstanceRevision
from inference.provisioners.base import LogChunk
from inference.provisioners.base import Unavailable as PlaceUnavailable
from portal.lib.errors import Unavailable


class SentenceField(serializers.CharField):
    """A place's sentence, without where things lie on the machine."""

    def to_representation(self, value: str) -> str:
        return doctor.without_paths(value)


class ProgressSerializer(serializers.Serializer[Instance]):
    """How far the present stage is; null where it does not say."""

    done = serializers.IntegerField(source="progress_done", allow_null=True)
    total = serializers.IntegerField(source="progress_total", allow_null=True)
    unit = serializers.CharField(source="progress_unit")
    seconds_left = serializers.IntegerField(source="progress_seconds_left", allow_null=True)


class InstanceSerializer(serializers.ModelSerializer[Instance]):
    """`desired` is what people want, `state` what is; `name` is what programs call `model`."""

    # Empty: as the model is now. The answer names the revision that was pinned.
    model_revision = serializers.CharField(required=False, allow_blank=True, max_length=64)
    draft_id = serializers.CharField(
        required=False,
        allow_blank=True,
        max_length=512,
        help_text="The second model of speculative decoding, which guesses; empty: none.",
    )
    settings = serializers.DictField(required=False, help_text="Typed settings of the engine.")
    message = SentenceField(read_only=True)
    rollout_message = SentenceField(read_only=True)
    progress = ProgressSerializer(source="*", read_only=True)

    class Meta:
        model = Instance
        fields: ClassVar = [
            "id",
            "name",
            "model_source",
            "model_id",
            "model_revision",
            "model_file",
            "draft_source",
            "draft_id",
            "draft_revision",
            "engine",
            "settings",
            "gpu_count",
            "queue_size",
            "queue_seconds",
            "replica_count",
            "sleep_after_minutes",
            "desired",
            "state",
            "stage",
            "reason",
            "message",
            "progress",
            "approval",
            "generation",
            "revision",
            "rollout_reason",
            "rollout_message",
            "typical_start_seconds",
            "created_at",
            "ready_at",
        ]
        read_only_fields: ClassVar = [
            "desired",
            "state",
            "stage",
            "reason",
            "message",
            "approval",
            "generation",
            "revision",
            "rollout_reason",
            "rollout_message",
            "typical_start_seconds",
            "created_at",
            "ready_at",
        ]


class RunningSerializer(serializers.ModelSerializer[Instance]):
    """What holds at once and starts nothing anew: how many replicas, when they sleep, and the line
    in which requests wait where the instance is at its limit of requests at a time."""

    class Meta:
        model = Instance
        fields: ClassVar = ["queue_size", "queue_seconds", "replica_count", "sleep_after_minutes"]


class RevisionSerializer(serializers.ModelSerializer[InstanceRevision]):
    """One version of what an instance is started with. It never changes."""

    failed_message = SentenceField(read_only=True)

    class Meta:
        model = InstanceRevision
        fields: ClassVar = [
            "number",
            "model_source",
            "model_id",
            "model_revision",
            "model_file",
            "draft_source",
            "draft_id",
            "draft_revision",
            "engine",
            "settings",
            "gpu_count",
            "restores",
            "created_at",
            "first_ready_at",
            "failed_at",
            "failed_reason",
            "failed_message",
        ]


class ChangeSerializer(serializers.Serializer[Instance]):
    """What is to be otherwise; what is left out stays. `at_once` ends what serves first, where
    there is no room for both."""

    settings = serializers.DictField(required=False, help_text="All of them, not the difference.")
    model_revision = serializers.CharField(required=False, max_length=64)
    model_file = serializers.CharField(required=False, max_length=255, allow_blank=True)
    draft_source = serializers.ChoiceField(
        Instance.Source.choices, required=False, allow_blank=True
    )
    draft_id = serializers.CharField(
        required=False, max_length=512, allow_blank=True, help_text="Empty: none any more."
    )
    draft_revision = serializers.CharField(
        required=False, max_length=64, allow_blank=True, help_text="Empty: as it is now."
    )
    gpu_count = serializers.IntegerField(required=False, min_value=0, max_value=64)
    engine = serializers.CharField(required=False, max_length=32)
    at_once = serializers.BooleanField(default=False)


class RestoreSerializer(serializers.Serializer[Instance]):
    """Which revision is wanted again."""

    number = serializers.IntegerField(min_value=1)
    at_once = serializers.BooleanField(default=False)


class EventSerializer(serializers.ModelSerializer[InstanceEvent]):
    """What happened, newest first."""

    message = SentenceField(read_only=True)
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
            wanted.get("model_file", ""),
        )
        draft = _draft(self.organization, wanted)
        drafts.check(card, draft, wanted.get("settings", {}))
        engine = wanted.setdefault("engine", loaders(card.weights_format)[0].name)
        count = wanted.get("gpu_count", 0)
        settings = Instance.checked(engine, wanted.get("settings", {}), count)
        house = House.of(self.organization)
        answers = house.answers(card, Wish.of(settings, count), engine, draft)
        if obstacle := fit_answers.obstacle(card, answers):
            raise ValidationError({"model_id": obstacle})
        wanted |= drafts.fields(draft)
        return Instance.request(
            self.organization, self.membership.user, model_revision=card.revision, **wanted
        )

    def verb_remove(self, instance: Instance) -> None:
        instance.request_delete(self.membership.user)

    @extend_schema(request=RunningSerializer, responses=InstanceSerializer)
    def partial_update(self, request: Request, **address: Any) -> Response:
        """Change how many replicas run, when they sleep, and the line in which requests wait."""
        instance = self.get_object()
        wish = RunningSerializer(instance, data=request.data, partial=True)
        wish.is_valid(raise_exception=True)
        said, by = wish.validated_data, self.membership.user
        with transaction.atomic():
            if {"queue_size", "queue_seconds"} & said.keys():
                instance.set_queue(
                    said.get("queue_size", instance.queue_size),
                    said.get("queue_seconds", instance.queue_seconds),
                )
            if "replica_count" in said:
                instance.set_replicas(by, said["replica_count"])
            if "sleep_after_minutes" in said:
                instance.set_sleep(by, said["sleep_after_minutes"])
        return Response(self.get_serializer(instance).data)

    @extend_schema(
        methods=["GET"], request=None, responses=RevisionSerializer(many=True), filters=False
    )
    @extend_schema(methods=["POST"], request=ChangeSerializer, responses={201: RevisionSerializer})
    @action(detail=True, methods=["get", "post"])
    def revisions(self, request: Request, **address: Any) -> Response:
        """The versions of it, newest first; a new one is what is wanted from then on."""
        instance = self.get_object()
        if request.method == "GET":
            page = self.paginate_queryset(instance.revisions.all())
            return self.get_paginated_response(RevisionSerializer(page, many=True).data)
        wish = ChangeSerializer(data=request.data)
        wish.is_valid(raise_exception=True)
        wanted = wish.validated_data
        if wanted.keys() & {"draft_source", "draft_id", "draft_revision"}:
            draft = _draft(self.organization, wanted, instance)
            drafts.check_for(instance, draft, wanted.get("settings", instance.settings))
            wanted |= drafts.fields(draft)
        revision = instance.change(self.membership.user, **wanted)
        return Response(RevisionSerializer(revision).data, status=201)

    @extend_schema(request=RestoreSerializer, responses={201: RevisionSerializer})
    @action(detail=True, methods=["post"])
    def restore(self, request: Request, **address: Any) -> Response:
        """Want an earlier revision again."""
        wish = RestoreSerializer(data=request.data)
        wish.is_valid(raise_exception=True)
        instance = self.get_object()
        number = wish.validated_data["number"]
        if not instance.revisions.filter(number=number).exists():
            raise ValidationError({"number": _("There is no such revision.")})
        at_once = wish.validated_data["at_once"]
        revision = instance.roll_back(self.membership.user, number, at_once=at_once)
        return Response(RevisionSerializer(revision).data, status=201)

    @extend_schema(request=None, responses=InstanceSerializer)
    @action(detail=True, methods=["post"])
    def sleep(self, request: Request, **address: Any) -> Response:
        """Free what it holds until the next request wakes it."""
        return self._after(lambda instance, user: instance.request_sleep(user))

    @extend_schema(request=None, responses=InstanceSerializer)
    @action(detail=True, methods=["post"])
    def wake(self, request: Request, **address: Any) -> Response:
        """Run it again after its sleep."""
        return self._after(lambda instance, user: instance.request_wake(user))

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
        replica = self.get_object().replicas.first()
        if replica is None:
            return Response(LogSerializer(LogChunk("", 0)).data)
        try:
            if asked.isdecimal() and len(asked) < 16:
                chunk = engine_log.after(replica, int(asked))
            else:
                chunk = engine_log.end(replica)
        except PlaceUnavailable as error:
            raise Unavailable(doctor.without_paths(str(error))) from error
        return Response(LogSerializer(chunk).data)

    def _after(self, verb: Any) -> Response:
        instance = self.get_object()
        verb(instance, self.membership.user)
        return Response(self.get_serializer(instance).data)


def _draft(
    organization: Organization, wanted: dict[str, Any], instance: Instance | None = None
) -> ModelCard | None:
    """The draft model that is asked for; what is left out stays as the instance has it. Raises
    ValidationError, HubError."""
    name = wanted.get("draft_id", instance.draft_id if instance else "")
    usual = instance.draft_source if instance and name else ""
    source = wanted.get("draft_source", usual)
    return drafts.find(organization, source, name, wanted.get("draft_revision", ""))
