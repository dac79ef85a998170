"""Usage in what an engine sends: read it, and find it where it must be cut. PURE.

vLLM (with --enable-force-include-usage) makes `"usage":{…}` a member of each chunk's object: the
running usage of that chunk's own choice, and of that choice's own prompt. Its last chunk has no
choices and the usage of all. In JSON text the bytes `"usage":` with bare quotes cannot stand
inside a string, where quotes are escaped.
"""

import re

import msgspec

from billing.usage_record import Usage

MEMBER = b',"usage":{'
_PREFIX = len(MEMBER) - 1
NO_CHOICES = b'"choices":[]'
FINISH = b'"finish_reason":"'
_NAME = re.compile(rb'\s*("(?:[^"\\]|\\.)*")\s*:\s*')
_COMMA = re.compile(rb"\s*,")


class _Details(msgspec.Struct):
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _Details | None = None
    completion_tokens_details: _Details | None = None
    # responses and messages name them otherwise
    input_tokens: int | None = None
    output_tokens: int | None = None
    input_tokens_details: _Details | None = None
    output_tokens_details: _Details | None = None
    # messages leave these out of their input_tokens
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None


class _Choice(msgspec.Struct):
    index: int = 0
    finish_reason: str | None = None


class _Answer(msgspec.Struct):
    usage: _Usage | None = None
    choices: list[_Choice] = []
    status: str | None = None  # of a response
    stop_reason: str | None = None  # of a message


UNREADABLE = (msgspec.DecodeError, RecursionError)  # the latter by JSON that is nested too deep
_usage = msgspec.json.Decoder(_Usage).decode
_answer = msgspec.json.Decoder(_Answer).decode
_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class Found(msgspec.Struct):
    """The member `usage` of a chunk: its value, and the chunk without it."""

    value: bytes
    rest: bytes
    closing: bool  # the chunk has no choices: it is there for the usage of all alone


def of_answer(body: bytes) -> tuple[Usage | None, str]:
    """The usage of a whole answer, None where it has none, and why it ended."""
    try:
        answer = _answer(body)
    except UNREADABLE:
        return None, ""
    for choice in answer.choices:
        if choice.finish_reason:
            return _counted(answer.usage), choice.finish_reason[:24]
    return _counted(answer.usage), (answer.stop_reason or answer.status or "")[:24]


def read(value: bytes) -> Usage | None:
    """The usage in such a member's value; None if it says nothing."""
    try:
        return _counted(_usage(value))
    except UNREADABLE:
        return None


def choice(event: bytes) -> int:
    """The index of the choice that a chunk belongs to."""
    try:
        choices = _answer(event.removeprefix(b"data: ")).choices
    except UNREADABLE:
        return 0
    return choices[0].index if choices else 0


def _counted(said: _Usage | None) -> Usage | None:
    if said is None:
        return None
    if said.prompt_tokens is None:
        return _counted_otherwise(said)
    prompt, completion = max(0, said.prompt_tokens), max(0, said.completion_tokens or 0)
    inside, of = said.prompt_tokens_details, said.completion_tokens_details
    if inside is None and of is None:
        return Usage(prompt, completion)
    cached = (inside.cached_tokens if inside else 0) or 0
    reasoning = (of.reasoning_tokens if of else 0) or 0
    # Subsets by definition; an engine that says otherwise is not believed beyond it.
    return Usage(
        prompt, completion, min(max(0, cached), prompt), min(max(0, reasoning), completion)
    )


def _counted_otherwise(said: _Usage) -> Usage | None:
    if said.input_tokens is None:
        return None
    read, made = said.cache_read_input_tokens or 0, said.cache_creation_input_tokens or 0
    cached = (said.input_tokens_details.cached_tokens if said.input_tokens_details else 0) or read
    of = said.output_tokens_details
    return _counted(
        _Usage(
            said.input_tokens + max(0, read) + max(0, made),
            said.output_tokens,
            _Details(cached_tokens=cached),
            _Details(reasoning_tokens=of.reasoning_tokens if of else 0),
        )
    )


def counted(said: object) -> Usage | None:
    """The usage in a member that was decoded already; None if it says nothing."""
    try:
        return _counted(msgspec.convert(said, _Usage | None))
    except msgspec.ValidationError:
        return None


def find(event: bytes) -> Found | None:
    """The usage of a stream's event `data: {…}`, if it has one."""
    start = event.rfind(MEMBER)
    if start > 0:
        value = event[start + _PREFIX : -1]
        # One whole object, and the brace that is left closes the one whose own member it is.
        if value.endswith(b"}") and b"}," not in value and value.count(b"{") == value.count(b"}"):
            closing = NO_CHOICES in event
            return Found(value, event[:start] + b"}", closing)
    return find_slowly(event, "usage") if b'"usage"' in event else None


def find_slowly(event: bytes, wanted: str) -> Found | None:
    """Any member, wherever it stands and however it is written."""
    if not event.startswith(b"data:"):
        return None
    try:
        members = _members(event[5:])
    except UNREADABLE:
        return None
    if wanted not in members:
        return None
    closing = bytes(members.get("choices", b"")) == b"[]"
    position = event.index(b"{") + 1
    while match := _NAME.match(event, position):
        name = msgspec.json.decode(match[1], type=str)
        end = match.end() + len(memoryview(members[name]))
        behind = _COMMA.match(event, end)
        if name == wanted:
            before = event[:position]
            if behind:
                return Found(event[match.end() : end], before + event[behind.end() :], closing)
            # It was the last: the comma to lose stands before it.
            before = before.rstrip().removesuffix(b",")
            return Found(event[match.end() : end], before + event[end:], closing)
        position = behind.end() if behind else len(event)
    return None


def finish_reason(event: bytes) -> str:
    """Why a stream's chunk says that the answer ended; empty while it goes on."""
    at = event.find(FINISH)
    if at < 0:
        return ""
    at += len(FINISH)
    return event[at : event.find(b'"', at)].decode("ascii", "replace")[:24]
