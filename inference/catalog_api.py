"""Models over REST: what is on hand, what the hub has, and one model with its fit."""

from collections.abc import Sequence
from typing import Any, ClassVar

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema, extend_schema_field
from rest_framework import serializers
from rest_framework.decorators import action
from rest_framework.exceptions import NotFound
from rest_framework.pagination import BasePagination
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.rest import TenantViewSet
from accounts.roles import Permission
from inference import catalog, fit_answers, hub
from inference.catalog import FolderNotFound
from inference.engines import loaders
from inference.fit import Users, Verdict, Wish
from inference.fit_answers import Answer, House
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


class UsersSerializer(serializers.Serializer[Users]):
    """So many at the same time, each with a conversation of `context` tokens."""

    # The field's name is also an attribute of every field, which confuses only the type checker.
    context = serializers.IntegerField()  # type: ignore[assignment]
    count = serializers.IntegerField()


class FitSerializer(serializers.Serializer[Answer]):
    """Whether it fits one kind of hardware. Sizes in bytes over all GPUs used, lengths in tokens,
    prices in units of the currency; null: not known."""

    nodes = serializers.ListField(
        source="place.nodes", child=serializers.CharField(), help_text="The machines that have it."
    )
    gpu_type = serializers.CharField(source="place.gpu_type", help_text="Empty: main memory.")
    verdict = serializers.ChoiceField(
        [(verdict.value, verdict.value) for verdict in Verdict], source="fit.verdict"
    )
    gpu_count = serializers.IntegerField(source="fit.gpu_count")
    needed_bytes = serializers.IntegerField(source="fit.needed_bytes")
    available_bytes = serializers.IntegerField(source="fit.available_bytes")
    weight_bytes = serializers.IntegerField(source="fit.weight_bytes")
    overhead_bytes = serializers.IntegerField(source="fit.overhead_bytes")
    kv_cache_bytes = serializers.IntegerField(source="fit.kv_room_bytes")
    spare_bytes = serializers.IntegerField(source="fit.spare_bytes")
    kv_bytes_per_token = serializers.IntegerField(source="fit.kv_bytes_per_token", allow_null=True)
    context = serializers.IntegerField(  # type: ignore[assignment]
        source="fit.context", allow_null=True
    )
    max_context = serializers.IntegerField(source="fit.max_context", allow_null=True)
    sequences = serializers.IntegerField(
        source="fit.sequences",
        allow_null=True,
        help_text="Requests of the whole context at the same time.",
    )
    users = UsersSerializer(source="fit.users", many=True)
    starts = serializers.IntegerField(
        source="fit.starts", help_text="Measured starts of this kind that have corrected it."
    )
    currency = serializers.CharField(source="hour.currency", allow_null=True, default=None)
    price_per_hour = serializers.DecimalField(
        source="per_hour", max_digits=None, decimal_places=None, allow_null=True
    )
    price_per_million_tokens = serializers.DecimalField(
        source="per_million",
        max_digits=None,
        decimal_places=None,
        allow_null=True,
        help_text="Of output, at full load, at the least.",
    )
    sentences = serializers.SerializerMethodField(help_text="The same in words.")

    def get_sentences(self, answer: Answer) -> list[str]:
        return [*answer.sentences, *answer.price_sentences]


class FitWishSerializer(serializers.Serializer[Any]):
    """A model and how it would be run."""

    # The field's name is also an attribute of every field, which confuses only the type checker.
    source = serializers.ChoiceField(Instance.Source.choices)  # type: ignore[assignment]
    model_id = serializers.CharField(max_length=512)
    revision = serializers.CharField(required=False, allow_blank=True, max_length=LONGEST_QUERY)
    model_file = serializers.CharField(required=False, allow_blank=True, max_length=LONGEST_FILE)
    engine = serializers.CharField(
        required=False, max_length=32, help_text="Without it, the first that loads such weights."
    )
    settings = serializers.DictField(required=False, help_text="Typed settings of the engine.")
    gpu_count = serializers.IntegerField(
        required=False,
        allow_null=True,
        min_value=0,
        max_value=64,
        help_text="Without it, as few as will do; 0: main memory.",
    )


class FitAnswerSerializer(serializers.Serializer[Any]):
    """The answers, the best first."""

    model_id = serializers.CharField()
    revision = serializers.CharField()
    fits = FitSerializer(many=True)
    obstacle = serializers.CharField(help_text="Why it cannot be deployed so; empty when it can.")


class ModelDetailSerializer(ModelSerializer):
    """A model in full, with its fit on each kind of hardware here."""

    model_file = serializers.CharField(help_text="The GGUF that was asked for; empty: none.")
    editions = EditionSerializer(many=True, help_text="GGUF files, one of which may be chosen.")
    files = ModelFileSerializer(many=True)
    fits = serializers.SerializerMethodField()
    obstacle = serializers.SerializerMethodField(
        help_text="Why it cannot be deployed here; empty when it can."
    )

    @extend_schema_field(FitSerializer(many=True))
    def get_fits(self, card: ModelCard) -> Any:
        return FitSerializer(self.context["fits"], many=True).data

    def get_obstacle(self, card: ModelCard) -> str:
        return fit_answers.obstacle(card, self.context["fits"])


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
    permissions: ClassVar = {"fit": Permission.VIEW}  # a question, though it comes by POST
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
        card = self._card(source, model_id, revision, model_file)
        context = {"fits": House.of(self.organization).answers(card)}
        return Response(ModelDetailSerializer(card, context=context).data)

    @extend_schema(request=FitWishSerializer, responses=FitAnswerSerializer)
    @action(detail=False, methods=["post"])
    def fit(self, request: Request, **address: str) -> Response:
        """Whether a model fits here with these settings, for how many users, and for how much."""
        asked = FitWishSerializer(data=request.data)
        asked.is_valid(raise_exception=True)
        said = asked.validated_data
        facts = (said.get("revision", ""), said.get("model_file", ""))
        card = self._card(said["source"], said["model_id"], *facts)
        engine = said.get("engine") or loaders(card.weights_format)[0].name
        count = said.get("gpu_count")
        settings = Instance.checked(engine, said.get("settings", {}), count)
        answers = House.of(self.organization).answers(card, Wish.of(settings, count), engine)
        body = {
            "model_id": card.model_id,
            "revision": card.revision,
            "fits": answers,
            "obstacle": fit_answers.obstacle(card, answers),
        }
        return Response(FitAnswerSerializer(body).data)

    def _card(self, source: str, model_id: str, revision: str, model_file: str) -> ModelCard:
        """Raises NotFound."""
        try:
            return catalog.describe(self.organization, source, model_id, revision, model_file)
        except (hub.ModelNotFound, FolderNotFound) as error:
            raise NotFound(error.sentence) from error

    def _all(self, cards: Sequence[ModelCard]) -> Response:
        page = self.paginate_queryset(cards)
        return self.get_paginated_response(self.get_serializer(page, many=True).data)


def _words(request: Request) -> str:
    return request.query_params.get("q", "").strip()[:LONGEST_QUERY]
