"""A stream on its way from the engine to the client: framed, counted, and cut where not asked for.
PURE.

Server-sent events end with an empty line, wherever the network cut them. What an event says stays
byte for byte, save the usage that the client did not ask for. The closing usage and `[DONE]` are
held back, for the bill must be on disk before the client can think that all is over.
"""

from billing.usage_record import Usage
from inference.gateway import errors, timings, usage

DONE = b"data: [DONE]"
ERROR = b'data: {"error"'
NO_CONTENT = (b'"role":"assistant","content":""', b'"role":"assistant","content":null}')
MAX_EVENT = 8 * 1024 * 1024  # bytes; an engine that never ends an event is broken


class BrokenStream(Exception):
    """The engine's stream is no stream of events."""


class Splitter:
    """Gives out whole events; what has come of the next one is kept for the next time."""

    __slots__ = (
        "_carry",
        "_half",
        "carried",
    )

    def __init__(self) -> None:
        self._carry: list[bytes] = []
        self._half = False  # the newest byte was the first of a line's end of two
        self.carried = 0  # bytes

    def feed(self, data: bytes) -> bytes:
        """The events that are whole by now. Raises BrokenStream."""
        if not self.carried and data[-2:] == b"\n\n":
            return data
        if self._half or b"\r" in data:  # as many servers end their lines; JSON has none in it
            data, self._half = (b"\r" if self._half else b"") + data, data[-1:] == b"\r"
            data = (data[:-1] if self._half else data).replace(b"\r\n", b"\n")
        # The empty line itself may have been cut in two.
        before = self._carry[-1][-1:] if self._carry else b""
        end = (before + data).rfind(b"\n\n")
        if end < 0:
            self.carried += len(data) + self._half
            if self.carried > MAX_EVENT:
                raise BrokenStream
            if data:
                self._carry.append(data)
            return b""
        end += 2 - len(before)
        whole = b"".join(self._carry) + data[:end]
        self._carry = [data[end:]] if end < len(data) else []
        self.carried = len(data) - end + self._half
        return whole


class Relay:
    """One stream. `feed` returns what the client gets of it now.

    A request for `n` answers to each of several prompts has a running usage per choice; choices
    are numbered prompt by prompt.
    """

    __slots__ = (
        "_by_choice",
        "_continuous",
        "_finish",
        "_include",
        "_n",
        "_newest",
        "_plain",
        "_said",
        "_splitter",
        "_total",
        "content",
        "delivered",
        "done",
        "events",
        "failed",
        "tail",
    )

    def __init__(
        self, *, include_usage: bool, continuous_usage: bool, n: int = 1, several: bool = False
    ) -> None:
        self._include = include_usage
        self._continuous = include_usage and continuous_usage
        self._n = n
        self._splitter = Splitter()
        self._newest = b""  # the usage told last, as it was told
        self._by_choice: dict[int, bytes] | None = {} if several or n > 1 else None
        self._total = b""  # the usage of all, told at the end
        self.tail = b""  # held back until the bill is on disk
        self.delivered: list[str] = []  # text whose tokens nobody tells: here they are told
        self._finish = ""
        self._said = b""  # the newest event of the usual kind; it may tell why the answer ended
        self.done = False  # the engine has said that it is over
        self.failed = False  # the engine has told of an error of its own
        self.events = 0  # that were passed on
        self.content = False  # an event with content was passed on
        self._plain = False  # and what is to come has one usage at its end

    @property
    def told(self) -> bool:
        """Whether the engine has told any usage yet."""
        return bool(self._newest or self._total)

    @property
    def finish(self) -> str:
        """Why the answer ended, as far as that was told."""
        return usage.finish_reason(self._said) or self._finish

    def usage(self) -> Usage | None:
        """What the engine has told so far, over all choices."""
        if self._total:
            return usage.read(self._total)
        if self._by_choice is None:
            return usage.read(_object(self._newest))
        told = {index: usage.read(raw) for index, raw in self._by_choice.items()}
        known = {index: u for index, u in told.items() if u is not None}
        if not known:
            return None
        prompts = {index // self._n: u for index, u in known.items()}
        return Usage(
            sum(u.prompt_tokens for u in prompts.values()),
            sum(u.completion_tokens for u in known.values()),
            sum(u.cached_tokens for u in prompts.values()),
            sum(u.reasoning_tokens for u in known.values()),
        )

    def feed(self, data: bytes) -> bytes:
        """Raises BrokenStream."""
        if not self._splitter.carried and data[-2:] == b"\n\n":
            if self._plain:
                # The usual: one event with a piece of the text, the running usage at its end.
                said, member, value = data.rpartition(usage.MEMBER)
                if (
                    value[-4:] == b"}}\n\n"
                    and b"}" not in value[:-4]
                    and said[-2:] == b"}]"  # a choice; the closing usage comes with none
                    and b"\n" not in said
                    and said[:7] == b"data: {"
                ):
                    self._newest = value  # without its first brace; whoever asks puts it there
                    self._said = said
                    self.events += 1
                    return data if self._continuous else said + b"}\n\n"
        else:
            data = self._splitter.feed(data)
            if not data:
                return b""
        kept = [self._event(event.lstrip(b"\n")) for event in data.split(b"\n\n")]
        return b"\n\n".join(filter(None, kept)) + b"\n\n" if any(kept) else b""

    def _event(self, event: bytes) -> bytes:
        if event == DONE:
            self.done = True
            self.tail += DONE + b"\n\n"
            return b""
        if event.startswith(ERROR):
            self.failed = True
            return b"data: " + errors.of_engine(500, event[6:])
        found = usage.find(event)
        if found is not None and found.value == b"null":  # told at the end only, as OpenAI does
            event = event if self._include else found.rest
        elif found is not None:
            if found.closing:
                self._total = found.value
                # Held back as well: whoever is told a sum must find it in the books.
                self.tail = event + b"\n\n" if self._include else b""
                return b""
            self._newest = found.value
            if self._by_choice is not None:
                self._by_choice[usage.choice(event)] = found.value
            if not self._continuous:
                event = found.rest
        if event:
            self._finish = usage.finish_reason(event) or self.finish
            self._said = b""
            self.events += 1
            if not self.content:
                # The first chunk of a chat only says that the assistant speaks.
                self.content = not any(words in event for words in NO_CONTENT)
                self._plain = self.content and self._by_choice is None
        return event


class TimedRelay(Relay):
    """Of an engine that tells its running usage as `timings`; of one choice alone."""

    def _event(self, event: bytes) -> bytes:
        rest, running = timings.cut(event)
        final = usage.find(rest)
        if final is None:
            return super()._event(rest if running is None else timings.with_usage(rest, running))
        if final.closing:
            return super()._event(rest)
        # Completions tell the usage of all with their last piece, which has no text.
        passed = super()._event(final.rest)
        self._total = final.value
        if not self._include:
            return passed
        self.tail = rest + b"\n\n"
        return b""


def _object(told: bytes) -> bytes:
    """The usage that an event told last."""
    return told if told[:1] == b"{" else b"{" + told[:-3]
