"""Tenant isolation: whose page this is, who may see it, and the one way to fetch what it shows.

The fetch is the permission check. A view under `/o/<org>/` gets `request.organization` and
`request.membership`; it asks querysets `.for_organization(request.organization)`. A stranger's
organization, like a missing one, is a 404.
"""

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any, Self

from django.apps import apps
from django.contrib.auth.views import redirect_to_login
from django.core.exceptions import PermissionDenied
from django.db import models
from django.http import Http404, HttpRequest, HttpResponseBase

from accounts.roles import Permission

if TYPE_CHECKING:
    from accounts.models import Membership, Organization, User


class TenantQuerySet(models.QuerySet[Any]):
    """The queryset of every model that has an organization."""

    def for_organization(self, organization: "Organization") -> Self:
        """Only what belongs to this organization."""
        return self.filter(organization=organization)


class TenantRequest(HttpRequest):
    """What a view under `/o/<org>/` receives."""

    user: "User"
    organization: "Organization"
    membership: "Membership"


class TenancyMiddleware:
    """Resolves the `org` of the address to a membership of the person who asks."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        return self.get_response(request)

    def process_view(
        self, request: Any, view: object, args: object, kwargs: dict[str, Any]
    ) -> HttpResponseBase | None:
        slug = kwargs.get("org")
        if slug is None:
            return None
        if not request.user.is_authenticated:
            return redirect_to_login(request.get_full_path())
        membership = (
            apps.get_model("accounts", "Membership")
            .objects.select_related("organization")
            .filter(organization__slug=slug, user=request.user)
            .first()
        )
        if membership is None:
            raise Http404
        request.membership = membership
        request.organization = membership.organization
        request.session["organization"] = slug  # where "home" leads next time
        return None


def requires(permission: Permission) -> Callable[..., Callable[..., HttpResponseBase]]:
    """A view for members whose role has this permission; others get 403."""

    def decorate(view: Callable[..., HttpResponseBase]) -> Callable[..., HttpResponseBase]:
        @wraps(view)
        def guarded(
            request: TenantRequest, org: str, *args: object, **kwargs: object
        ) -> HttpResponseBase:
            if not request.membership.allows(permission):
                raise PermissionDenied
            return view(request, *args, **kwargs)

        return guarded

    return decorate
