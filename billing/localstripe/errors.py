"""Errors in Stripe's shape."""

from typing import Any


class ApiError(Exception):
    """What is answered instead of an object.

    `keeps`: what was done until then stays done, as a declined payment does.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        type: str = "invalid_request_error",
        code: str | None = None,
        param: str | None = None,
        keeps: bool = False,
        **more: Any,
    ) -> None:
        super().__init__(message)
        self.status, self.keeps = status, keeps
        fields = {"message": message, "type": type, "code": code, "param": param} | more
        self.body = {"error": {name: value for name, value in fields.items() if value is not None}}


def missing(kind: str, id: str, param: str = "id") -> ApiError:
    """No such object: 404 where the address names it, 400 where a parameter does."""
    name = kind.rsplit(".", 1)[-1].replace("_", " ")
    status = 404 if param == "id" else 400
    return ApiError(f"No such {name}: '{id}'", status=status, code="resource_missing", param=param)
