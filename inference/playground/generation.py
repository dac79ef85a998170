"""One answer in the playground: a plain streaming call to the gateway, told as small events.

The playground is a client like any other: same door, same key check, same limits, same meter.
"""

import re
import time
from collections.abc import AsyncGenerator
from typing import Annotated, Any, Literal

import httpx2
import msgspec
from django.utils.translation import gettext as _

from inference.gateway import waking
from inference.words import STAGES

Temperature = Annotated[float, msgspec.Meta(ge=0, le=2)]
Share = Annotated[float, msgspec.Meta(gt=0, le=1)]
Tokens = Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
Text = Annotated[str, msgspec.Meta(max_length=400_000)]

_SECONDS_LEFT = re.compile(r"about (\d+) s left")
TIMEOUT = httpx2.Timeout(10, read=300)  # seconds; a cold engine may think long before it speaks


class Message(msgspec.Struct, forbid_unknown_fields=True):
    role: Literal["user", "assistant"]
    content: Text


class Params(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """What the page lets people set; what they leave alone is left to the engine."""

    temperature: Temperature | None = None
    top_p: Share | None = None
    max_tokens: Tokens | None = None
    seed: int | None = None


class Start(msgspec.Struct, forbid_unknown_fields=True, tag="start", tag_field="t"):
    """Ask `model` for an answer. `slot` is the page's own name for where it goes."""

    slot: Annotated[str, msgspec.Meta(max_length=64)]
    model: Annotated[str, msgspec.Meta(max_length=63)]
    messages: Annotated[list[Message], msgspec.Meta(min_length=1, max_length=500)]
    system: Text = ""
    params: Params = msgspec.field(default_factory=Params)


class Stop(msgspec.Struct, forbid_unknown_fields=True, tag="stop", tag_field="t"):
    """End a generation; what the engine made until then is shown and metered."""

    id: Annotated[str, msgspec.Meta(max_length=64)]


def body(start: Start) -> bytes:
    """The request as the gateway wants it."""
    messages: list[Any] = list(start.messages)
    if start.system.strip():
        messages.insert(0, {"role": "system", "content": start.system})
    return msgspec.json.encode(
        {
            "model": start.model,
            "messages": messages,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        | msgspec.to_builtins(start.params)
    )


async def events(
    client: httpx2.AsyncClient, key: str, start: Start
) -> AsyncGenerator[dict[str, Any], None]:
    """The answer as events: `wait` while its instance wakes, `d` (text or reasoning), then one
    `end` or `err`.

    Closing this iterator closes the connection, upon which the gateway stops the engine.
    """
    began = time.monotonic()
    first: float | None = None
    summary: dict[str, Any] = {}
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    try:
        async with client.stream(
            "POST", "/v1/chat/completions", content=body(start), headers=headers, timeout=TIMEOUT
        ) as response:
            request_id = response.headers.get("x-request-id", "")
            if response.status_code != 200:
                yield failure(await response.aread(), response.status_code, request_id)
                return
            async for line in _lines(response):
                if line.startswith(": waking"):
                    began = time.monotonic()  # the wait is no part of what the model takes
                    yield waiting(line)
                if not line.startswith("data:"):
                    continue
                data = line.removeprefix("data:").strip()
                if data == "[DONE]":
                    break
                chunk = msgspec.json.decode(data)
                if "error" in chunk:
                    yield failure(data.encode(), 502, request_id)
                    return
                summary |= chunk.get("usage") or {}
                for choice in chunk.get("choices", ()):
                    delta = choice.get("delta", {})
                    text = delta.get("content") or ""
                    reasoning = delta.get("reasoning") or delta.get("reasoning_content") or ""
                    if text or reasoning:
                        first = first or time.monotonic()
                        yield {"t": "d", "s": text} | ({"r": reasoning} if reasoning else {})
                    summary["finish"] = choice.get("finish_reason") or summary.get("finish", "")
    except httpx2.HTTPError as error:
        yield unreachable(error)
        return
    now = time.monotonic()
    yield {
        "t": "end",
        "finish": summary.get("finish", ""),
        "prompt_tokens": summary.get("prompt_tokens"),
        "completion_tokens": summary.get("completion_tokens"),
        "ttft_ms": round((first - began) * 1000) if first else None,
        "duration_ms": round((now - began) * 1000),
        "request_id": request_id,
    }


async def _lines(response: httpx2.Response) -> AsyncGenerator[str, None]:
    """The lines of an event stream; an answer may hold characters that others end lines with."""
    rest = ""
    async for text in response.aiter_text():
        *lines, rest = (rest + text).split("\n")
        for line in lines:
            yield line


def waiting(comment: str) -> dict[str, Any]:
    """What the gateway says while a request waits for its instance, in the reader's language."""
    stage = next((name for name, doing in waking.STAGES.items() if doing in comment), "starting")
    message = _("It wakes up: %(stage)s") % {"stage": STAGES[stage]}
    found = _SECONDS_LEFT.search(comment)
    seconds = int(found[1]) if found else None
    if seconds is not None:
        message += " · " + _("about %(seconds)s s left") % {"seconds": seconds}
    return {"t": "wait", "message": message, "seconds_left": seconds}


def failure(raw: bytes, status: int, request_id: str) -> dict[str, Any]:
    """The gateway's own sentence; its error body is OpenAI's."""
    try:
        error = msgspec.json.decode(raw)["error"]
        message, code = str(error["message"]), str(error.get("code") or "")
    except (msgspec.DecodeError, KeyError, TypeError):
        message, code = _("The answer broke off. Please try again."), ""
    return {
        "t": "err",
        "message": message,
        "code": code,
        "status": status,
        "request_id": request_id,
    }


def unreachable(error: httpx2.HTTPError) -> dict[str, Any]:
    """A sentence for a gateway that does not answer or breaks off."""
    message = (
        _("The model took too long to answer. Please try again.")
        if isinstance(error, httpx2.TimeoutException)
        else _("The gateway cannot be reached right now. Please try again in a moment.")
    )
    return {"t": "err", "message": message, "code": "unreachable", "status": 503, "request_id": ""}
