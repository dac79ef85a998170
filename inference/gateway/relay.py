"""A stream on its way from the engine to the client: framed, counted, and cut where not asked for.

Server-sent events end with an empty line, wherever the network cut them. What an event says stays
byte for byte, save the usage that the client did not ask for. The closing `[DONE]` is held back,
for the bill must be on disk before the client can think that all is over.
"""

from billing.usage_record import Usage
from inference.gateway import usage

DONE = b"data: [DONE]"
MAX_EVENT = 8 * 1024 * 1024  # bytes; an engine that never ends an event is broken


class BrokenStream(Exception):
    """The engine's stream is no stream of events."""


class Relay:
    """One stream. `feed` returns what the client gets of it now."""

    __slots__ = ("_carry", "_continuous", "_include", "done", "finish", "has_content", "usage")

    def __init__(self, *, include_usage: bool, continuous_usage: bool) -> None:
        self._include = include_usage
        self._continuous = include_usage and continuous_usage
        self._carry = b""
        self.usage: Usage | None = None  # the newest that the engine told
        self.finish = ""
        self.done = False  # the engine has said that it is over
        self.has_content = False  # a chunk with choices has come

    def feed(self, data: bytes) -> bytes:
        """Raises BrokenStream."""
        if self._carry:
            data = self._carry + data
        end = data.rfind(b"\n\n")
        if end < 0:
            if len(data) > MAX_EVENT:
                raise BrokenStream
            self._carry = data
            return b""
        self._carry = data[end + 2 :]
        out = []
        for event in data[:end].split(b"\n\n"):
            if kept := self._event(event):
                out.append(kept)
                out.append(b"\n\n")
        return b"".join(out)

    def _event(self, event: bytes) -> bytes:
        if event.startswith(DONE):
            self.done = True
            return b""
        reason = usage.finish_reason(event)
        if reason:
            self.finish = reason
        place = usage.find(event)
        only_usage = usage.is_usage_only(event)
        if not only_usage:
            self.has_content = True
        if place is None:
            return event
        told = usage.read(event, place)
        if told is not None:
            self.usage = told
        if only_usage:
            return event if self._include else b""
        return event if self._continuous else usage.cut(event, place)
