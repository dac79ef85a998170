"""Models over REST: what is on hand, what the hub has, and one model with its fit."""

from collections.abc import Sequence
from typing import Any

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema, extend_schema_field
from rest_framework import serializers
from rest_framework.decorators import action
from rest_framework.exceptions import NotFound
from rest_framework.pagination import BasePagination
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.rest import TenantViewSet
from inference import catalog, hub
from inference.catalog import FolderNotFound, NodeFit
from inference.fit import Verdict
from inference.model_card import ModelCard, Refusal
from inference.models.instance import Instance

LONGEST_QUERY = 200
LONGEST_FILE = 255


class ModelSerializer(serializers.Serializer[ModelCard]):
    """A model as lists show it. Sizes in bytes, lengths in tokens; null: not said."""

    # The field's name is also an attribute of every field, which confuses only the type checker.
    source = serializers.ChoiceField(Instance.Source.choices)  # type: ignore[assignment]
    model_id = serializers.CharField()
    revision = serializers.CharField(help_text="Commit hash, or a hash of the folder.")
    architecture = serializers.CharField()
    parameters = serializers.IntegerField(allow_null=True)
    dtype = serializers.CharField()
    quantization = serializers.CharField()
    context_length = serializers.IntegerField(allow_null=True)
    licence = serializers.CharField()
    gated = serializers.BooleanField()
    pipeline_tag = serializers.CharField()
    chat_template = serializers.BooleanField()
    size_bytes = serializers.IntegerField()
    downloads = serializers.IntegerField(allow_null=True)
    refusal = serializers.ChoiceField(
        [(refusal.value, refusal.value) for refusal in Refusal],
        allow_null=True,
        help_text="Why it cannot run here, whatever the hardware.",
    )


class ModelFileSerializer(serializers.Serializer[Any]):
    path = serializers.CharField()
    size_bytes = serializers.IntegerField()
    fetched = serializers.BooleanField()


class EditionSerializer(serializers.Serializer[Any]):
    """One of the GGUF files of a repository; in parts, the first, and the size of all."""

    path = serializers.CharField()
    size_bytes = serializers.IntegerField()
    quantization = serializers.CharField()


class NodeFitSerializer(serializers.Serializer[NodeFit]):
    """Whether it fits one machine. Sizes in bytes, lengths in tokens."""

    node = serializers.CharField()
    verdict = serializers.ChoiceField(
        [(verdict.value, verdict.value) for verdict in Verdict], source="fit.verdict"
    )
    gpu_count = serializers.IntegerField(source="fit.gpu_count")
    needed_bytes = serializers.IntegerField(source="fit.needed_bytes")
    available_bytes = serializers.IntegerField(source="fit.available_bytes")
    max_context = serializers.IntegerField(source="fit.max_context", allow_null=True)
    sequences = serializers.IntegerField(source="fit.sequences", allow_null=True)
    sentences = serializers.ListField(child=serializers.CharField())


class ModelDetailSerializer(ModelSerializer):
    """A model in full, with its fit on each machine."""

    model_file = serializers.CharField(help_text="The GGUF that was asked for; empty: none.")
    editions = EditionSerializer(many=True, help_text="GGUF files, one of which may be chosen.")
    files = ModelFileSerializer(many=True)
    fits = serializers.SerializerMethodField()
    obstacle = serializers.SerializerMethodField(
        help_text="Why it cannot be deployed here; empty when it can."
    )

    @extend_schema_field(NodeFitSerializer(many=True))
    def get_fits(self, card: ModelCard) -> Any:
        return NodeFitSerializer(self.context["fits"], many=True).data

    def get_obstacle(self, card: ModelCard) -> str:
        return catalog.obstacle(card, self.context["fits"])


class WholeList(BasePagination):
    """All at once, in the shape of pages: these lists are short and have no order to continue."""

    def paginate_queryset(self, queryset: Any, request: Request, view: Any = None) -> list[Any]:
        return list(queryset)

    def get_paginated_response(self, data: Any) -> Response:
        return Response({"next": None, "previous": None, "results": data})

    def get_paginated_response_schema(self, schema: dict[str, Any]) -> dict[str, Any]:
        link = {"type": "string", "format": "uri", "nullable": True}
        return {
            "type": "object",
            "required": ["next", "previous", "results"],
            "properties": {"next": link, "previous": link, "results": schema},
        }


_QUERY = OpenApiParameter("q", OpenApiTypes.STR, description="Words in the model's name.")
_ADDRESS = OpenApiParameter(
    "address",
    OpenApiTypes.STR,
    OpenApiParameter.PATH,
    description="The source and the model's id: `hub/Qwen/Qwen3-8B`, `bundled/modelport/demo`.",
)
_FILE = OpenApiParameter(
    "file", OpenApiTypes.STR, description="Of several GGUF files, the one to describe."
)
_REVISION = OpenApiParameter(
    "revision", OpenApiTypes.STR, description="A commit hash or branch; without it, the newest."
)


class ModelViewSet(TenantViewSet):
    """The catalogue."""

    queryset = None
    serializer_class = ModelSerializer
    pagination_class = WholeList
    filter_backends = ()
    lookup_field = "address"
    lookup_value_converter = "path"

    @extend_schema(parameters=[_QUERY])
    def list(self, request: Request, **address: str) -> Response:
        """Models on this machine: the bundled one and the operator's folders."""
        return self._all(catalog.on_hand(_words(request)))

    @extend_schema(parameters=[_QUERY], responses=ModelSerializer(many=True))
    @action(detail=False)
    def search(self, request: Request, **address: str) -> Response:
        """Models of the hub, the most used first; 503 when the hub cannot be reached."""
        return self._all(catalog.search(self.organization, _words(request)))

    @extend_schema(parameters=[_ADDRESS, _REVISION, _FILE], responses=ModelDetailSerializer)
    def retrieve(self, request: Request, address: str, **kwargs: str) -> Response:
        """One model, pinned to a revision, and whether it fits here."""
        source, _slash, model_id = address.partition("/")
        if source not in Instance.Source.values:
            raise NotFound
        revision = request.query_params.get("revision", "")[:LONGEST_QUERY]
        model_file = request.query_params.get("file", "")[:LONGEST_FILE]
        try:
            card = catalog.describe(self.organization, source, model_id, revision, model_file)
        except (hub.ModelNotFound, FolderNotFound) as error:
            raise NotFound(error.sentence) from error
        context = {"fits": catalog.fits(card)}
        return Response(ModelDetailSerializer(card, context=context).data)

    def _all(self, cards: Sequence[ModelCard]) -> Response:
        page = self.paginate_queryset(cards)
        return self.get_paginated_response(self.get_serializer(page, many=True).data)


def _words(request: Request) -> str:
    return request.query_params.get("q", "").strip()[:LONGEST_QUERY]
