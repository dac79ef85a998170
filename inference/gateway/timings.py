"""llama.cpp's running usage: `"timings":{…}` on the chunks of a stream, where the request asked for
`timings_per_token`. PURE.

A prompt's tokens that stood in the cache are counted apart from those that were computed.
"""

import msgspec

from billing.usage_record import Usage
from inference.gateway import usage

MEMBER = b',"timings":{'
_PREFIX = len(MEMBER) - 1


class _Timings(msgspec.Struct):
    cache_n: int = 0
    prompt_n: int = 0
    predicted_n: int = 0


_timings = msgspec.json.Decoder(_Timings).decode


def with_usage(event: bytes, told: Usage) -> bytes:
    """The event `data: {…}` with the usage that its timings told, as vLLM writes it."""
    return (
        b'%b,"usage":{"prompt_tokens":%d,"total_tokens":%d,"completion_tokens":%d,'
        b'"prompt_tokens_details":{"cached_tokens":%d}}}'
        % (
            event[:-1],
            told.prompt_tokens,
            told.prompt_tokens + told.completion_tokens,
            told.completion_tokens,
            told.cached_tokens,
        )
    )


def cut(event: bytes) -> tuple[bytes, Usage | None]:
    """An event `data: {…}` without its timings, and the usage that they tell, if any."""
    start = event.rfind(MEMBER)
    if start > 0 and event[-2:] == b"}}" and b"}" not in event[start:-2]:
        return event[:start] + b"}", _read(event[start + _PREFIX : -1])
    found = usage.find_slowly(event, "timings") if b'"timings"' in event else None
    return (event, None) if found is None else (found.rest, _read(found.value))


def _read(value: bytes) -> Usage | None:
    try:
        said = _timings(value)
    except usage.UNREADABLE:
        return None
    cached = max(0, said.cache_n)
    return Usage(cached + max(0, said.prompt_n), max(0, said.predicted_n), cached)
