"""Counts by the engine's own tokenizer, for what was delivered before the engine told any usage.

Off the usual path: only where a stream of responses or messages breaks off. The row says that the
tokenizer counted (`UsageSource.TOKENIZER`).
"""

from typing import Any

import msgspec

from billing.usage_record import Usage
from inference.engines.base import Wire
from inference.gateway.request import Parsed
from inference.gateway.upstream import Pool, ask

TIMEOUT = 10.0  # seconds
_encode = msgspec.json.encode


class _Count(msgspec.Struct):
    count: int


class _Tokens(msgspec.Struct):
    tokens: list[msgspec.Raw]


_count = msgspec.json.Decoder(_Count).decode
_tokens = msgspec.json.Decoder(_Tokens).decode


async def count(
    pool: Pool, wire: Wire, model: str, parsed: Parsed, told: Usage | None, text: str
) -> Usage:
    """The prompt, unless it was told, and the delivered text. Raises OSError, TimeoutError,
    ValueError where the engine cannot count."""
    if wire.lists_tokens:
        if told is None:
            raise ValueError("the engine did not tell the prompt's tokens")
        content = {"content": text, "add_special": False, "parse_special": False}
        listed = len(_tokens(await _ask(pool, content)).tokens)
        return Usage(told.prompt_tokens, listed, told.cached_tokens)
    if told is None:
        conversation = {"model": model, "messages": _messages(parsed)}
        told = Usage(_count(await _ask(pool, conversation)).count)
    delivered = {"model": model, "prompt": text, "add_special_tokens": False}
    counted = _count(await _ask(pool, delivered)).count
    return Usage(told.prompt_tokens, counted, told.cached_tokens)


async def _ask(pool: Pool, asked: dict[str, Any]) -> bytes:
    body = _encode(asked)
    status, answer = await ask(
        pool,
        b"POST /tokenize HTTP/1.1\r\nHost: engine\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n%b" % (len(body), body),
        TIMEOUT,
    )
    if status != 200:
        raise ValueError(f"the engine's tokenizer answered {status}")
    return answer


def _messages(parsed: Parsed) -> list[dict[str, Any]]:
    """A response's input as the messages that vLLM makes of it. Raises ValueError."""
    members = parsed.members("instructions", "input")
    said = members.get("input")
    first = members.get("instructions")
    messages: list[dict[str, Any]] = []
    if isinstance(first, str):
        messages.append({"role": "system", "content": first})
    if isinstance(said, str):
        return [*messages, {"role": "user", "content": said}]
    if not isinstance(said, list):
        raise ValueError("the input is of no known form")
    for item in said:
        if not isinstance(item, dict) or item.get("type", "message") != "message":
            raise ValueError("the input holds more than messages")
        content = item.get("content")
        if isinstance(content, list):
            content = "".join(part.get("text") or "" for part in content if isinstance(part, dict))
        messages.append({"role": item.get("role"), "content": content})
    return messages
