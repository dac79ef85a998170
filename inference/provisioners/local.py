"""This machine: a client of the supervisor's private socket. It holds no state."""

import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from inference.node.rpc import Request, Response, error_of
from inference.provisioners.base import (
    AdapterSpec,
    Event,
    Handle,
    Health,
    LogChunk,
    Observed,
    Offer,
    Sight,
    Spec,
    Unavailable,
)

PATIENCE = 10.0  # seconds; the supervisor answers at once or is not there

T = TypeVar("T")


class LocalProvisioner:
    name = "local"

    def __init__(self, node_socket: Path) -> None:
        self.node_socket = node_socket

    def check(self) -> Health:
        return self._call("check", Health)

    def offers(self, spec: Spec) -> list[Offer]:
        return self._call("offers", list[Offer], spec=spec)

    def ensure(self, spec: Spec, handle: Handle | None = None) -> Handle:
        return self._call("ensure", Handle, spec=spec)

    def observe(self, handle: Handle) -> Observed:
        return self._call("observe", Observed, replica_id=handle.replica_id)

    def observe_all(self) -> list[Sight]:
        return self._call("observe_all", list[Sight])

    def adapters(self, handle: Handle, wanted: Sequence[AdapterSpec]) -> None:
        self._call("adapters", None, replica_id=handle.replica_id, wanted=wanted)

    def stop(self, handle: Handle, grace: float = 30.0) -> None:
        self._call("stop", None, replica_id=handle.replica_id, grace=grace)

    def sleep(self, handle: Handle) -> bool:
        return self._call("sleep", bool, replica_id=handle.replica_id)

    def wake(self, handle: Handle) -> None:
        self._call("wake", None, replica_id=handle.replica_id)

    def delete(self, handle: Handle) -> None:
        self._call("delete", None, replica_id=handle.replica_id)

    def logs(self, handle: Handle, *, offset: int | None = None, limit: int = 65536) -> LogChunk:
        return self._call(
            "logs", LogChunk, replica_id=handle.replica_id, offset=offset, limit=limit
        )

    def events(self, handle: Handle) -> list[Event]:
        return self._call("events", list[Event], replica_id=handle.replica_id)

    # Last, because the name hides the built-in type for the annotations below it.
    def list(self) -> list[Handle]:
        return self._call("list", list[Handle])

    def _call(self, method: str, answer: type[T] | None, **params: object) -> T:
        request = msgspec.json.encode(Request(method, params))
        line = self._exchange(request + b"\n")
        try:
            response = msgspec.json.decode(line, type=Response)
        except msgspec.DecodeError as error:
            raise Unavailable("The node's answer makes no sense; is it of this version?") from error
        if response.fault is not None:
            raise error_of(response.fault)
        return msgspec.convert(response.result, type=answer)

    def _exchange(self, request: bytes) -> bytes:
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                connection.settimeout(PATIENCE)
                connection.connect(str(self.node_socket))
                connection.sendall(request)
                with connection.makefile("rb") as answer:
                    line: Any = answer.readline()
        except OSError as error:
            raise Unavailable(f"The node at {self.node_socket} does not answer.") from error
        if not line.endswith(b"\n"):
            raise Unavailable("The node went away in the middle of an answer.")
        return bytes(line)
