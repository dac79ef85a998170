"""REST: organizations, members, invitations, keys, me."""

from datetime import timedelta
from typing import Any, ClassVar

from django.db.models import Prefetch, QuerySet
from drf_spectacular.utils import extend_schema
from rest_framework import status
from rest_framework.decorators import action
from rest_framework.mixins import ListModelMixin, RetrieveModelMixin
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView
from rest_framework.viewsets import GenericViewSet

from accounts.authentication import caller
from accounts.models import ApiKey, Invitation, Membership, Organization, Project
from accounts.rest import (
    Created,
    IdentifiedMixin,
    Listed,
    Removed,
    Retrieved,
    TenantViewSet,
    repeatable,
)
from accounts.roles import Permission, Role
from accounts.serializers import (
    ApiKeySerializer,
    InvitationSerializer,
    MembershipSerializer,
    MeSerializer,
    NewApiKeySerializer,
    OrganizationSerializer,
    OriginsSerializer,
    ProjectSerializer,
    RotationSerializer,
)


def organizations_of(request: Request) -> QuerySet[Organization]:
    """Where the caller is a member, with `mine`; a management key knows its own only."""
    mine = Membership.objects.filter(user=caller(request))
    found = Organization.objects.of(caller(request)).prefetch_related(
        Prefetch("memberships", mine, to_attr="mine")
    )
    if isinstance(request.auth, ApiKey):
        found = found.filter(id=request.auth.organization_id)
    return found.order_by("id")


class MeView(IdentifiedMixin, APIView):
    """Who is asking."""

    @extend_schema(responses=MeSerializer, operation_id="me")
    def get(self, request: Request) -> Response:
        """The caller, their organizations and roles, and the management key they came with."""
        key = request.auth if isinstance(request.auth, ApiKey) else None
        me = {
            "user": request.user,
            "organizations": organizations_of(request),
            "management_key": key,
        }
        return Response(MeSerializer(me).data)


class OrganizationViewSet(
    IdentifiedMixin, ListModelMixin, RetrieveModelMixin, GenericViewSet[Organization]
):
    """The organizations you are a member of."""

    queryset = Organization.objects.all()
    serializer_class = OrganizationSerializer
    lookup_field = "slug"
    lookup_value_converter = "slug"

    def get_queryset(self) -> QuerySet[Organization]:
        if getattr(self, "swagger_fake_view", False):
            return Organization.objects.none()
        return organizations_of(self.request)


class MemberViewSet(Listed, Retrieved, Removed, TenantViewSet):
    """The people of an organization. Anyone may remove themselves: that is leaving."""

    queryset = Membership.objects.select_related("user", "organization")
    serializer_class = MembershipSerializer
    filterset_fields: ClassVar = ["role"]
    may_write = Permission.MANAGE_MEMBERS
    permissions: ClassVar = {"destroy": Permission.VIEW}  # the verb knows whom one may remove

    def partial_update(self, request: Request, **address: Any) -> Response:
        """Change a member's role."""
        member = self.get_object()
        serializer = self.get_serializer(member, data=request.data, partial=True)
        serializer.is_valid(raise_exception=True)
        role = serializer.validated_data.get("role", member.role)
        member.change_role(Role(role), by=self.membership)
        return Response(self.get_serializer(member).data)

    def verb_remove(self, member: Membership) -> None:
        member.remove(by=self.membership)


class ProjectViewSet(Listed, Retrieved, Created, Removed, TenantViewSet):
    """What keys are for. DELETE archives: its keys and what is counted for it go on."""

    queryset = Project.objects.all()
    serializer_class = ProjectSerializer
    may_write = Permission.MANAGE_ORGANIZATION

    def verb_create(self, name: str) -> Project:
        return Project.begin(self.organization, self.membership.user, name)

    def verb_remove(self, project: Project) -> None:
        project.archive()


class InvitationViewSet(Listed, Retrieved, Created, Removed, TenantViewSet):
    """Open invitations. Creating one mails a link that is good for seven days."""

    queryset = Invitation.objects.unanswered().select_related("invited_by")
    serializer_class = InvitationSerializer
    may_read = may_write = Permission.MANAGE_MEMBERS

    def verb_create(self, email: str, role: str) -> Invitation:
        return Invitation.send(self.membership, email, role)

    def verb_remove(self, invitation: Invitation) -> None:
        invitation.revoke(by=self.membership)

    @extend_schema(request=None, responses=InvitationSerializer)
    @action(detail=True, methods=["post"])
    def resend(self, request: Request, **address: Any) -> Response:
        """Mail a new link; the former one ends."""
        invitation = self.get_object()
        invitation.resend(by=self.membership)
        return Response(self.get_serializer(invitation).data)


class KeyViewSet(Listed, Retrieved, Created, Removed, TenantViewSet):
    """API keys and management keys: your own, or everyone's if your role manages keys."""

    queryset = ApiKey.objects.select_related("created_by")
    serializer_class = ApiKeySerializer
    filterset_fields: ClassVar = ["kind"]
    may_read = may_write = Permission.USE

    def get_queryset(self) -> QuerySet[ApiKey]:
        if getattr(self, "swagger_fake_view", False):
            return ApiKey.objects.none()
        return ApiKey.objects.visible_to(self.membership).select_related("created_by")

    @extend_schema(responses={201: NewApiKeySerializer})
    def create(self, request: Request, **address: Any) -> Response:
        """Make a key. `key` in the answer is the only time that it is told."""
        return super().create(request, **address)

    def verb_create(self, **wanted: Any) -> ApiKey:
        return _with_plain(*ApiKey.issue(self.organization, self.membership.user, **wanted))

    def answer_created(self, made: ApiKey) -> Any:
        return NewApiKeySerializer(made).data

    def verb_remove(self, key: ApiKey) -> None:
        key.revoke(by=self.membership.user)

    @extend_schema(request=OriginsSerializer, responses=ApiKeySerializer)
    def partial_update(self, request: Request, **address: Any) -> Response:
        """Change the websites whose programs may call with it."""
        key = self.get_object()
        wish = OriginsSerializer(data=request.data)
        wish.is_valid(raise_exception=True)
        key.allow_origins(wish.validated_data["origins"])
        return Response(self.get_serializer(key).data)

    @extend_schema(request=RotationSerializer, responses={201: NewApiKeySerializer})
    @action(detail=True, methods=["post"])
    @repeatable
    def rotate(self, request: Request, **address: Any) -> Response:
        """Make the key's successor; the old one ends after `overlap_seconds`."""
        key = self.get_object()
        wish = RotationSerializer(data=request.data)
        wish.is_valid(raise_exception=True)
        overlap = timedelta(seconds=wish.validated_data["overlap_seconds"])
        made = _with_plain(*key.rotate(self.membership.user, overlap))
        return Response(NewApiKeySerializer(made).data, status=status.HTTP_201_CREATED)


def _with_plain(key: ApiKey, plain: str) -> ApiKey:
    key.key = plain  # type: ignore[attr-defined]  # for this one answer; no field of the model
    return key
