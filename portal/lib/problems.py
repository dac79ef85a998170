"""REST errors as problem details (RFC 9457): one shape for every status.

    {"type": "urn:modelport:problem:validation", "title": "Bad Request", "status": 400,
     "detail": "…", "instance": "/api/v1/…", "request_id": "…",
     "errors": [{"pointer": "#/name", "code": "required", "detail": "…"}]}

`type` is what programs may rely on; `errors` is there for wrong input only. docs/api.md lists the
types. Each answer carries its `request_id` in the header X-Request-Id too.
"""

import logging
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

from django.core import exceptions as django_errors
from django.core.signals import got_request_exception
from django.http import Http404, HttpRequest
from django.utils.translation import gettext as _
from rest_framework import exceptions, status
from rest_framework.response import Response

from portal.lib.errors import Conflict, Refusal, Unavailable
from portal.lib.ids import uuid7

logger = logging.getLogger(__name__)

CONTENT_TYPE = "application/problem+json"
REQUEST_ID_HEADER = "X-Request-Id"
TYPES = {
    400: "validation",
    401: "not-authenticated",
    403: "permission-denied",
    404: "not-found",
    405: "method-not-allowed",
    406: "not-acceptable",
    409: "conflict",
    415: "unsupported-media-type",
    422: "idempotency-key-reused",
    429: "rate-limited",
    500: "internal",
    503: "unavailable",
}
# How DRF and Django name what is wrong with the whole instead of one value.
WHOLE = {"non_field_errors", "__all__", ""}


class IdempotencyKeyReused(exceptions.APIException):
    """The Idempotency-Key came before with another body."""

    status_code = status.HTTP_422_UNPROCESSABLE_ENTITY
    default_code = "idempotency_key_reused"


class InConflict(exceptions.APIException):
    """409 with its sentence."""

    status_code = status.HTTP_409_CONFLICT
    default_code = "conflict"


class Away(exceptions.APIException):
    """503 with its sentence; the caller may try again."""

    status_code = status.HTTP_503_SERVICE_UNAVAILABLE
    default_code = "unavailable"
    wait = 5  # seconds


def request_id(request: HttpRequest) -> str:
    """The identity of this request, made on first use. `request` is Django's, not DRF's."""
    known: str | None = getattr(request, "request_id", None)
    if known is None:
        known = str(uuid7())
        request.request_id = known  # type: ignore[attr-defined]
    return known


def handle(error: Exception, context: dict[str, Any]) -> Response:
    """DRF's exception handler: whatever was raised, as problem details."""
    request = context["request"]._request
    known = _as_api_exception(error)
    if known is None:
        # What Django does for pages: tell whoever listens (error reporters, tests), keep serving.
        got_request_exception.send(sender=None, request=request)
        logger.exception("REST request %s failed", request_id(request))
        known = exceptions.APIException(
            _("Something went wrong on our side. If it stays, tell us the request id.")
        )
    response = Response(
        _document(known, request), status=known.status_code, content_type=CONTENT_TYPE
    )
    if isinstance(known, exceptions.NotAuthenticated | exceptions.AuthenticationFailed):
        response["WWW-Authenticate"] = getattr(known, "auth_header", 'Bearer realm="api"')
    if wait := getattr(known, "wait", None):
        response["Retry-After"] = str(int(wait))
    return response


def _as_api_exception(error: Exception) -> exceptions.APIException | None:
    match error:
        case exceptions.APIException():
            return error
        case Http404():
            return exceptions.NotFound()
        case django_errors.PermissionDenied():
            return exceptions.PermissionDenied(str(error) or None)
        case django_errors.ValidationError():
            return _wrong_input(error)
        case Conflict():
            return InConflict(str(error))
        case Unavailable():
            return Away(str(error))
        case Refusal():
            return exceptions.ValidationError(str(error))
    return None


def _wrong_input(error: django_errors.ValidationError) -> exceptions.ValidationError:
    """Django's error of a verb as DRF's, field by field and with its codes."""
    by_field = error.error_dict if hasattr(error, "error_dict") else {"": error.error_list}
    return exceptions.ValidationError(
        {
            field: [
                exceptions.ErrorDetail(message, part.code or "invalid")
                for part in parts
                for message in part.messages
            ]
            for field, parts in by_field.items()
        }
    )


def _document(error: exceptions.APIException, request: HttpRequest) -> dict[str, Any]:
    code = error.status_code
    document = {
        "type": _type(error),
        "title": HTTPStatus(code).phrase,
        "status": code,
        "detail": _("Some of the values are not valid."),
        "instance": request.path,
        "request_id": request_id(request),
    }
    if isinstance(error, exceptions.ValidationError):
        document["errors"] = list(_field_errors(error.detail))
    else:
        document["detail"] = str(error.detail)
    return document


def _type(error: exceptions.APIException) -> str:
    name = (
        "malformed"
        if isinstance(error, exceptions.ParseError)
        else TYPES.get(error.status_code, "other")
    )
    return f"urn:modelport:problem:{name}"


def _field_errors(detail: Any, pointer: str = "#") -> Iterator[dict[str, str]]:
    """DRF's nested lists and dicts, flat: JSON pointer, code, sentence."""
    if isinstance(detail, dict):
        for field, inner in detail.items():
            at = pointer if field in WHOLE else f"{pointer}/{field}"
            yield from _field_errors(inner, at)
    elif isinstance(detail, list):
        for item in detail:
            yield from _field_errors(item, pointer)
    else:
        yield {"pointer": pointer, "code": detail.code, "detail": str(detail)}
