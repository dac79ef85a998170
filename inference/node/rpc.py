"""The wire between the controller and a node: one JSON object per line, over a private socket."""

from typing import Any

import msgspec

from inference.provisioners.base import (
    ProvisionerError,
    Reason,
    Rejected,
    Retryable,
    Unavailable,
)

LINE_LIMIT = 4 * 1024 * 1024  # bytes


class Request(msgspec.Struct, frozen=True):
    method: str
    params: dict[str, Any] = {}


class Fault(msgspec.Struct, frozen=True):
    kind: str  # "retryable" | "rejected" | "unavailable"
    message: str
    reason: Reason | None = None


class Response(msgspec.Struct, frozen=True, omit_defaults=True):
    result: Any = None
    fault: Fault | None = None


def fault_of(error: ProvisionerError) -> Fault:
    if isinstance(error, Rejected):
        return Fault("rejected", error.message, error.reason)
    kind = "unavailable" if isinstance(error, Unavailable) else "retryable"
    return Fault(kind, str(error))


def error_of(fault: Fault) -> ProvisionerError:
    if fault.kind == "rejected" and fault.reason is not None:
        return Rejected(fault.reason, fault.message)
    if fault.kind == "unavailable":
        return Unavailable(fault.message)
    return Retryable(fault.message)
