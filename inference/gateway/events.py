"""Streams of named events: OpenAI's responses, Anthropic's messages. PURE.

Their usage is told at the end only (messages tell the prompt's at the beginning), so the text that
was delivered is kept until then: if the stream breaks off, the engine's own tokenizer counts it.
The last event is held back, for the bill must be on disk before the client can think that all is
over. https://platform.openai.com/docs/api-reference/responses-streaming
https://docs.anthropic.com/en/docs/build-with-claude/streaming
"""

from typing import Any

import msgspec

from billing.usage_record import Usage
from inference.gateway import errors, timings
from inference.gateway.relay import BrokenStream, Splitter
from inference.gateway.usage import UNREADABLE, counted

MAX_DELIVERED = 8 * 1024 * 1024  # bytes of text that are kept


class _Inner(msgspec.Struct):
    """What the events say of a response or message."""

    usage: Any = None
    status: str = ""
    incomplete_details: dict[str, Any] | None = None


class _Event(msgspec.Struct):
    delta: Any = None
    response: _Inner | None = None
    message: _Inner | None = None
    usage: Any = None


_event = msgspec.json.Decoder(_Event).decode


class EventRelay:
    """One stream. `feed` returns what the client gets of it now; see `relay.Relay`."""

    def __init__(self, *, timed: bool = False) -> None:
        """`timed`: the engine tells its running usage as `timings`."""
        self._timed = timed
        self._splitter = Splitter()
        self._usage: Usage | None = None
        self._kept = 0
        self.delivered: list[str] = []  # text whose tokens nobody has told yet
        self.finish = ""
        self.done = False
        self.failed = False
        self.events = 0
        self.content = False
        self.told = False
        self.tail = b""

    def usage(self) -> Usage | None:
        return self._usage

    def feed(self, data: bytes) -> bytes:
        """Raises BrokenStream."""
        whole = self._splitter.feed(data)
        if not whole:
            return b""
        events = (event.lstrip(b"\n") for event in whole.split(b"\n\n"))
        kept = [self._pass(event) for event in events if event]
        return b"".join(kept)

    def _pass(self, event: bytes) -> bytes:
        name, _, rest = event.partition(b"\n")
        if not name.startswith(b"event: ") or not rest.startswith(b"data: "):
            return event + b"\n\n"  # a comment, or nothing that we know
        self.events += 1
        told = None
        if self._timed:
            rest, told = timings.cut(rest)
            event = name + b"\n" + rest
        passed = self._named(name[7:].strip(), rest[6:], event + b"\n\n")
        if told is not None and not self.done:
            self._usage, self.told = told, True
            self.delivered.clear()  # its tokens are counted with that
        return passed

    def _named(self, name: bytes, data: bytes, event: bytes) -> bytes:
        raise NotImplementedError

    def _deliver(self, text: str) -> None:
        self.content = True
        self._kept += len(text)
        if self._kept > MAX_DELIVERED:
            raise BrokenStream
        if text:
            self.delivered.append(text)

    def _tell(self, said: Any) -> None:
        before = self._usage
        self._usage = counted(said) or before
        if before is not None and self._usage is before and isinstance(said, dict):
            # The prompt was told at the beginning, and now the answer alone.
            whole = before.prompt_tokens - before.cached_tokens
            first = {"input_tokens": whole, "cache_read_input_tokens": before.cached_tokens}
            self._usage = counted(first | said) or before
        self.told = self._usage is not None


class ResponsesRelay(EventRelay):
    def _named(self, name: bytes, data: bytes, event: bytes) -> bytes:
        if name.endswith(b".delta"):
            said = _read(data).delta
            self._deliver(said if isinstance(said, str) else "")
        elif name in {b"response.completed", b"response.failed", b"response.incomplete"}:
            inner = _read(data).response or _Inner()
            self._tell(inner.usage)
            if self._usage is not None:
                self.delivered.clear()
            why = (inner.incomplete_details or {}).get("reason")
            self.finish = str(why or inner.status)[:24]
            self.failed = name == b"response.failed"
            self.done, self.tail = True, event
            return b""
        elif name == b"error":
            self.failed = self.done = True
        return event


class MessagesRelay(EventRelay):
    def _named(self, name: bytes, data: bytes, event: bytes) -> bytes:
        if name == b"content_block_delta":
            said = _read(data).delta
            if isinstance(said, dict):
                pieces = (said.get("text"), said.get("thinking"), said.get("partial_json"))
                self._deliver("".join(piece for piece in pieces if isinstance(piece, str)))
        elif name == b"message_start":
            self._tell((_read(data).message or _Inner()).usage)
        elif name == b"message_delta":
            read = _read(data)
            self._tell(read.usage)
            self.delivered.clear()
            if isinstance(read.delta, dict):
                self.finish = str(read.delta.get("stop_reason") or "")[:24]
        elif name == b"message_stop":
            self.done, self.tail = True, event
            return b""
        elif name == b"error":
            self.failed = self.done = True
            text = errors.of_engine(500, data, "anthropic")
            return b"event: error\ndata: " + text + b"\n\n"
        return event


def _read(data: bytes) -> _Event:
    try:
        return _event(data)
    except UNREADABLE:
        return _Event()


def of(endpoint: str, *, timed: bool = False) -> EventRelay | None:
    """The relay of an endpoint whose streams are made of named events."""
    if endpoint == "responses":
        return ResponsesRelay(timed=timed)
    return MessagesRelay(timed=timed) if endpoint == "messages" else None
