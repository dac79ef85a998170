from datetime import timedelta
from typing import Any

from django.db.models import QuerySet
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from accounts.models import ApiKey, Invitation, Membership, Organization, Project, User
from accounts.models.membership import ROLE_LABELS

LONGEST_OVERLAP = int(timedelta(days=30).total_seconds())


class OrganizationSerializer(serializers.ModelSerializer[Organization]):
    role = serializers.SerializerMethodField(help_text="Your role in it.")

    class Meta:
        model = Organization
        fields = ["id", "slug", "name", "role", "created_at"]
        read_only_fields = ["id", "slug", "created_at"]

    @extend_schema_field(serializers.ChoiceField(choices=ROLE_LABELS))
    def get_role(self, organization: Organization) -> str:
        membership: Membership = organization.mine[0]  # type: ignore[attr-defined]  # prefetched
        return membership.role


class UserSerializer(serializers.ModelSerializer[User]):
    class Meta:
        model = User
        fields = ["id", "email"]


class MembershipSerializer(serializers.ModelSerializer[Membership]):
    user = UserSerializer(read_only=True)

    class Meta:
        model = Membership
        fields = ["id", "user", "role", "created_at"]
        read_only_fields = ["id", "created_at"]


class ProjectSerializer(serializers.ModelSerializer[Project]):
    class Meta:
        model = Project
        fields = ["id", "name", "created_at", "archived_at"]
        read_only_fields = ["id", "created_at", "archived_at"]


class InvitationSerializer(serializers.ModelSerializer[Invitation]):
    invited_by = UserSerializer(read_only=True, allow_null=True)

    class Meta:
        model = Invitation
        fields = ["id", "email", "role", "invited_by", "created_at", "expires_at", "accepted_at"]
        read_only_fields = ["id", "created_at", "expires_at", "accepted_at"]


class ProjectField(serializers.PrimaryKeyRelatedField[Project]):
    """One of the organization's own that is not archived, by its id."""

    queryset = Project.objects.all()

    def get_queryset(self) -> QuerySet[Project]:
        """Who asks for a stranger's hears what they hear of one that is not there."""
        organization = self.context.get("organization")  # None in the schema
        return Project.objects.open().filter(organization=organization)


class ApiKeySerializer(serializers.ModelSerializer[ApiKey]):
    kind = serializers.ChoiceField(
        choices=[(k.value, k.label) for k in (ApiKey.Kind.API, ApiKey.Kind.MANAGEMENT)],
        default=ApiKey.Kind.API,
        help_text="`api` calls /v1, `management` calls this API with your own role.",
    )
    models_allowed = serializers.ListField(
        child=serializers.CharField(max_length=63),
        default=list,
        help_text="Names of instances and routes. Empty: all of the organization.",
    )
    origins = serializers.ListField(
        child=serializers.CharField(max_length=256),
        default=list,
        help_text="Of an API key: the websites whose programs may call with it from a browser, "
        "like `https://app.example`; `*` is any.",
    )
    project = ProjectField(
        allow_null=True,
        default=None,
        help_text="Of the project that its usage is counted for.",
    )
    created_by = UserSerializer(read_only=True, allow_null=True)

    class Meta:
        model = ApiKey
        fields = [
            "id",
            "kind",
            "name",
            "prefix",
            "last4",
            "models_allowed",
            "origins",
            "project",
            "created_by",
            "created_at",
            "expires_at",
            "revoked_at",
            "last_used_at",
        ]
        read_only_fields = ["id", "prefix", "last4", "created_at", "revoked_at", "last_used_at"]


class NewApiKeySerializer(ApiKeySerializer):
    """A key at its birth: the only time that the key itself is told."""

    key = serializers.CharField(read_only=True, help_text="The key itself, shown this once.")

    class Meta(ApiKeySerializer.Meta):
        fields = [*ApiKeySerializer.Meta.fields, "key"]


class OriginsSerializer(serializers.Serializer[ApiKey]):
    """What of a key can be changed."""

    origins = serializers.ListField(child=serializers.CharField(max_length=256))


class RotationSerializer(serializers.Serializer[Any]):
    overlap_seconds = serializers.IntegerField(
        min_value=0,
        max_value=LONGEST_OVERLAP,
        default=0,
        help_text="For how long the old key goes on working.",
    )


class MeSerializer(serializers.Serializer[Any]):
    """Who is asking, and where they may."""

    user = UserSerializer()
    organizations = OrganizationSerializer(many=True)
    management_key = ApiKeySerializer(
        allow_null=True, help_text="The key you authenticated with, or null for a session."
    )
