"""How REST knows who asks: a session, or a management key."""

from typing import Any

from django.utils.translation import gettext_lazy as _
from drf_spectacular.extensions import OpenApiAuthenticationExtension
from rest_framework.authentication import BaseAuthentication
from rest_framework.exceptions import AuthenticationFailed, NotAuthenticated
from rest_framework.request import Request

from accounts.models import ApiKey, User


class ManagementKeyAuthentication(BaseAuthentication):
    """`Authorization: Bearer mp-…`: acts as the key's maker, in the key's organization only.

    It holds the role that its maker has at this moment; a maker who was removed or may no longer
    have such keys takes the key with them.
    """

    def authenticate(self, request: Request) -> tuple[User, ApiKey] | None:
        scheme, _space, plain = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            return None
        key = ApiKey.authenticate(plain.strip(), ApiKey.Kind.MANAGEMENT)
        if key is None or key.created_by is None:
            raise AuthenticationFailed(_("This is not a management key that works."))
        return key.created_by, key

    def authenticate_header(self, request: Request) -> str:
        return 'Bearer realm="api"'


class ManagementKeyScheme(OpenApiAuthenticationExtension):
    """How the schema names it."""

    target_class = ManagementKeyAuthentication
    name = "managementKey"

    def get_security_definition(self, auto_schema: Any) -> dict[str, str]:
        return {"type": "http", "scheme": "bearer", "bearerFormat": "mp-…"}


def caller(request: Request) -> User:
    """The person who asks, themselves or by a key of theirs. Raises NotAuthenticated."""
    if not isinstance(request.user, User):
        raise NotAuthenticated
    return request.user
