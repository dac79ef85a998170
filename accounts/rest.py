"""The ground that every REST resource under `/api/v1/organizations/<organization>/` stands on.

A new resource is a serializer, a queryset and a verb:

    class InstanceViewSet(Listed, Retrieved, Created, Removed, TenantViewSet):
        queryset = Instance.objects.alive()
        serializer_class = InstanceSerializer
        filterset_fields = ["state", "engine"]
        may_write = Permission.MANAGE_INSTANCES      # may_read is VIEW unless said otherwise
        permissions = {"logs": Permission.VIEW}      # per action, where it differs

        def verb_create(self, **validated):          # what POST does; returns the object
            return Instance.request(self.organization, by=self.request.user, **validated)

        def verb_remove(self, instance):             # what DELETE does
            instance.request_delete(by=self.request.user)

        @extend_schema(request=None, responses=InstanceSerializer)
        @action(detail=True, methods=["post"])
        def stop(self, request, **address):
            instance = self.get_object()
            instance.request_stop(by=request.user)
            return Response(self.get_serializer(instance).data)

and a line in `portal/api.py`. What it then has: session (with CSRF) or `Authorization: Bearer`
management key; 401 without, 404 for strangers and for a key of another organization, 403 for a role
too low; `self.organization` and `self.membership`; querysets kept to the organization; problem
details for DRF's and Django's ValidationError, PermissionDenied, Http404, Conflict, Unavailable;
keyset pages (override `pagination_class` where the key is not `id`); `Idempotency-Key` on create,
and with `@repeatable` under `@action` on any other POST that creates.

Verbs must do all their work in the database, the rest by `transaction.on_commit`: with an
Idempotency-Key, creation and the record of its answer are one transaction.
"""

import json
from collections.abc import Callable
from functools import wraps
from typing import Any, ClassVar

from django.core.exceptions import PermissionDenied
from django.db import models, transaction
from django.http import Http404
from django.utils.translation import gettext_lazy as _
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import status
from rest_framework.exceptions import ValidationError
from rest_framework.mixins import ListModelMixin, RetrieveModelMixin
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.viewsets import GenericViewSet

from accounts.authentication import caller
from accounts.models import ApiKey, Membership, Organization
from accounts.models.idempotency import Repeatable
from accounts.roles import Permission
from portal.lib.problems import REQUEST_ID_HEADER, IdempotencyKeyReused, InConflict, request_id

IDEMPOTENCY_HEADER = "Idempotency-Key"
LONGEST_IDEMPOTENCY_KEY = 255
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


class IdentifiedMixin:
    """Every answer says which request it is of."""

    def finalize_response(self, request: Request, *args: Any, **kwargs: Any) -> Any:
        response = super().finalize_response(request, *args, **kwargs)  # type: ignore[misc]
        response[REQUEST_ID_HEADER] = request_id(request._request)
        response.setdefault("Cache-Control", "no-store")  # answers are one person's own
        return response


class TenantViewSet(IdentifiedMixin, GenericViewSet[Any]):
    """A resource of one organization. See the top of this file."""

    may_read: ClassVar[Permission] = Permission.VIEW
    may_write: ClassVar[Permission]
    permissions: ClassVar[dict[str, Permission]] = {}
    lookup_value_converter = "uuid"
    lookup_field = "id"
    http_method_names = ["get", "post", "patch", "delete", "head", "options"]

    membership: Membership
    organization: Organization

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)  # 401
        self.membership = membership_of(request, kwargs["organization"])  # 404
        self.organization = self.membership.organization
        if not self.membership.allows(self.needed_permission()):
            raise PermissionDenied

    def needed_permission(self) -> Permission:
        """What the caller's role must allow for this action."""
        if self.action in self.permissions:
            return self.permissions[self.action]
        return self.may_read if self.request.method in SAFE_METHODS else self.may_write

    def get_queryset(self) -> models.QuerySet[Any]:
        queryset: Any = super().get_queryset()
        if getattr(self, "swagger_fake_view", False):  # the schema is made without a caller
            return queryset.none()
        return queryset.for_organization(self.organization)

    def get_serializer_context(self) -> dict[str, Any]:
        context = dict(super().get_serializer_context())
        context["organization"] = getattr(self, "organization", None)  # None in the schema
        return context


def membership_of(request: Request, slug: str) -> Membership:
    """The caller's membership in the organization of the address. Raises Http404."""
    memberships = Membership.objects.select_related("organization", "user")
    found = memberships.filter(organization__slug=slug, user=caller(request)).first()
    key = request.auth
    if found is None or (isinstance(key, ApiKey) and key.organization_id != found.organization_id):
        raise Http404
    return found


def repeatable(handler: Callable[..., Response]) -> Callable[..., Response]:
    """Makes a creating action safe to repeat: one Idempotency-Key, one effect, one answer.

    The same key and body get the first answer again for a day; with another body 422; while the
    first is still at work 409. Only successes are remembered: what failed has changed nothing.
    """

    @wraps(handler)
    def once(self: TenantViewSet, request: Request, **address: Any) -> Response:
        key = request.headers.get(IDEMPOTENCY_HEADER)
        if key is None:
            with transaction.atomic():
                return handler(self, request, **address)
        with transaction.atomic():
            work = _repeatable_of(self, request, key)
            if not work.claim():
                raise InConflict(_("The first request with this Idempotency-Key is still at work."))
            former = work.former()
            if former is None:
                response = handler(self, request, **address)
                answer = JSONRenderer().render(response.data).decode()
                work.keep(response.status_code, answer, response.get("Location", ""))
                return response
            if not work.same_request(former):
                raise IdempotencyKeyReused(
                    _("This Idempotency-Key came before with another request.")
                )
            return _again(former.status, work.read(former), former.location)

    header = OpenApiParameter(
        IDEMPOTENCY_HEADER,
        str,
        OpenApiParameter.HEADER,
        description="Up to 255 characters. The same key with the same body is done once.",
    )
    return extend_schema(parameters=[header])(once)


def _repeatable_of(view: TenantViewSet, request: Request, key: str) -> Repeatable:
    if not (0 < len(key) <= LONGEST_IDEMPOTENCY_KEY and key.isprintable()):
        raise ValidationError(
            {IDEMPOTENCY_HEADER: [_("Write 1 to 255 printable characters.")]},
        )
    # Two people of one organization who happen on the same key must not see each other's answer.
    key_or_person = request.auth if isinstance(request.auth, ApiKey) else caller(request)
    body = json.dumps(request.data, sort_keys=True).encode()
    return Repeatable(
        view.organization, key_or_person.id, request.method or "", request.path, key.strip(), body
    )


def _again(status_code: int, answer: str, location: str) -> Response:
    headers = {"Idempotency-Replayed": "true"} | ({"Location": location} if location else {})
    return Response(json.loads(answer), status=status_code, headers=headers)


class Listed(ListModelMixin):
    """GET of the collection, in keyset pages."""


class Retrieved(RetrieveModelMixin):
    """GET of one."""


class Created:
    """POST to the collection, by `verb_create`."""

    @repeatable
    def create(self: Any, request: Request, **address: Any) -> Response:
        serializer = self.get_serializer(data=request.data)
        serializer.is_valid(raise_exception=True)
        made = self.verb_create(**serializer.validated_data)
        return Response(self.answer_created(made), status=status.HTTP_201_CREATED)

    def answer_created(self: Any, made: Any) -> Any:
        """The body of the answer to a creation."""
        return self.get_serializer(made).data


class Removed:
    """DELETE of one, by `verb_remove`."""

    def destroy(self: Any, request: Request, **address: Any) -> Response:
        self.verb_remove(self.get_object())
        return Response(status=status.HTTP_204_NO_CONTENT)
