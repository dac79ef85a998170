"""Usage in what an engine sends: read it, and cut it where the client did not ask. PURE.

vLLM writes `"usage":{…}` as a member of each chunk's object when it is told to. In JSON text the
bytes `"usage":` with a bare quote cannot stand inside a string, where quotes are escaped.
"""

import msgspec

from billing.usage_record import Usage

_MEMBER = b'"usage":'


class _Details(msgspec.Struct):
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    prompt_tokens_details: _Details | None = None
    completion_tokens_details: _Details | None = None


class _Choice(msgspec.Struct):
    finish_reason: str | None = None


class _Answer(msgspec.Struct):
    usage: _Usage | None = None
    choices: list[_Choice] = []


_usage = msgspec.json.Decoder(_Usage | None).decode
_answer = msgspec.json.Decoder(_Answer).decode


def of_answer(body: bytes) -> tuple[Usage | None, str]:
    """The usage of a whole answer, None where it has none, and why it ended."""
    try:
        answer = _answer(body)
    except msgspec.DecodeError:
        return None, ""
    reasons = [choice.finish_reason for choice in answer.choices if choice.finish_reason]
    return _counted(answer.usage), reasons[0] if reasons else ""


def _counted(said: _Usage | None) -> Usage | None:
    if said is None or said.prompt_tokens is None:
        return None
    prompt, completion = said.prompt_tokens, said.completion_tokens or 0
    cached = said.prompt_tokens_details.cached_tokens if said.prompt_tokens_details else 0
    details = said.completion_tokens_details
    reasoning = details.reasoning_tokens if details else 0
    # Subsets by definition; an engine that says otherwise is not believed beyond it.
    return Usage(prompt, completion, min(cached or 0, prompt), min(reasoning or 0, completion))


def find(data: bytes) -> tuple[int, int] | None:
    """Where the member `usage` of a chunk's object lies: from its name to behind its value."""
    start = data.rfind(_MEMBER)
    if start < 0:
        return None
    at = start + len(_MEMBER)
    while data[at : at + 1] in (b" ", b"\t"):
        at += 1
    if data[at : at + 4] == b"null":
        return start, at + 4
    if data[at : at + 1] != b"{":
        return None
    depth = 0
    for position in range(at, len(data)):  # numbers and names only: no string holds a brace
        byte = data[position]
        if byte == 0x7B:
            depth += 1
        elif byte == 0x7D:
            depth -= 1
            if not depth:
                return start, position + 1
    return None


def read(data: bytes, place: tuple[int, int]) -> Usage | None:
    """The usage at that place of a chunk."""
    try:
        return _counted(_usage(data[place[0] + len(_MEMBER) : place[1]]))
    except msgspec.DecodeError:
        return None


def cut(data: bytes, place: tuple[int, int]) -> bytes:
    """The chunk without it; every other byte stays."""
    start, end = place
    before = data[:start].rstrip(b" ")
    if before.endswith(b","):
        return before[:-1] + data[end:]
    after = data[end:].lstrip(b" ")
    return before + (after[1:] if after.startswith(b",") else after)


def finish_reason(data: bytes) -> str:
    """Why a stream's chunk says that the answer ended; empty while it goes on."""
    at = data.rfind(b'"finish_reason":"')
    if at < 0:
        return ""
    at += len(b'"finish_reason":"')
    return data[at : data.find(b'"', at)].decode("ascii", "replace")[:24]


def is_usage_only(data: bytes) -> bool:
    """Whether this is the closing chunk that has no choices, only the usage."""
    return b'"choices":[]' in data
