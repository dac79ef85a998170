"""Mounts the REST API: `/api/v1/`, its schema, its browsable documentation.

Resources are made in the apps on the ground of `accounts.rest` and entered here, in one list.
"""

from typing import Any

from csp.constants import SELF, UNSAFE_INLINE
from csp.decorators import csp_replace
from django.urls import URLPattern, URLResolver, include, path, re_path
from django.utils.decorators import method_decorator
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerSplitView
from rest_framework.exceptions import NotFound
from rest_framework.permissions import AllowAny
from rest_framework.request import Request
from rest_framework.routers import SimpleRouter
from rest_framework.views import APIView

from accounts import api as accounts
from accounts.rest import IdentifiedMixin
from billing.api import UsageViewSet
from billing.billing_api import BalanceViewSet, BudgetViewSet, LedgerViewSet
from billing.invoice_api import InvoiceViewSet
from billing.price_api import PriceViewSet
from inference.adapters_api import AdapterViewSet
from inference.api import InstanceViewSet
from inference.catalog_api import ModelViewSet
from inference.limits_api import LimitViewSet
from inference.routes_api import ProviderViewSet, RouteViewSet
from portal.lib.problems import CONTENT_TYPE, TYPES

# Everything that belongs to an organization: path, viewset.
TENANT_RESOURCES: list[tuple[str, Any]] = [
    ("members", accounts.MemberViewSet),
    ("invitations", accounts.InvitationViewSet),
    ("keys", accounts.KeyViewSet),
    ("projects", accounts.ProjectViewSet),
    ("models", ModelViewSet),
    ("instances", InstanceViewSet),
    ("adapters", AdapterViewSet),
    ("routes", RouteViewSet),
    ("providers", ProviderViewSet),
    ("limits", LimitViewSet),
    ("usage", UsageViewSet),
    ("balance", BalanceViewSet),
    ("ledger", LedgerViewSet),
    ("budgets", BudgetViewSet),
    ("invoices", InvoiceViewSet),
    ("prices", PriceViewSet),
]

_tenant = SimpleRouter(use_regex_path=False)
for _name, _viewset in TENANT_RESOURCES:
    _tenant.register(_name, _viewset, basename=f"api-{_name}")

_top = SimpleRouter(use_regex_path=False)
_top.register("organizations", accounts.OrganizationViewSet, basename="api-organizations")


class NoSuchAddress(IdentifiedMixin, APIView):
    """Whatever is not there, as problem details like every other refusal."""

    permission_classes = (AllowAny,)
    schema = None

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        raise NotFound


# Swagger's own script styles its elements one by one; that is let through on this page alone.
_docs_csp = csp_replace(
    {
        "style-src": [SELF, UNSAFE_INLINE],
        "script-src": [SELF],
        "img-src": [SELF, "data:"],
    }
)


@method_decorator(_docs_csp, name="dispatch")
class DocsView(SpectacularSwaggerSplitView):
    """The API to read and to try, in the browser."""

    url_name = "api-schema"


PROBLEM_SCHEMA: dict[str, Any] = {
    "type": "object",
    "description": "Problem details (RFC 9457). `type` is what programs may rely on.",
    "required": ["type", "title", "status", "detail", "instance", "request_id"],
    "properties": {
        "type": {
            "type": "string",
            "format": "uri",
            "enum": [f"urn:modelport:problem:{n}" for n in ("malformed", *TYPES.values(), "other")],
        },
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "instance": {"type": "string"},
        "request_id": {"type": "string", "format": "uuid"},
        "errors": {
            "type": "array",
            "description": "For wrong input: which value, and what is wrong with it.",
            "items": {
                "type": "object",
                "required": ["pointer", "code", "detail"],
                "properties": {
                    "pointer": {"type": "string"},
                    "code": {"type": "string"},
                    "detail": {"type": "string"},
                },
            },
        },
    },
}


def with_problems(result: dict[str, Any], **_: Any) -> dict[str, Any]:
    """drf-spectacular's hook: every operation may answer with problem details."""
    result["components"].setdefault("schemas", {})["Problem"] = PROBLEM_SCHEMA
    content = {CONTENT_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    for operations in result["paths"].values():
        for operation in operations.values():
            operation["responses"]["default"] = {"description": "Refused", "content": content}
    return result


urlpatterns: list[URLPattern | URLResolver] = [
    path("me/", accounts.MeView.as_view(), name="api-me"),
    path("", include(_top.urls)),
    path("organizations/<slug:organization>/", include(_tenant.urls)),
    path("schema/", SpectacularAPIView.as_view(), name="api-schema"),
    path("docs/", DocsView.as_view(), name="api-docs"),
    re_path("", NoSuchAddress.as_view()),
]
