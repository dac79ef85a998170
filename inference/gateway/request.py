"""What a client may ask for, field by field. PURE.

A body is decoded one level deep into raw slices and each name must be on its endpoint's list. It
goes on as it came where nothing had to go; otherwise the object is built anew from those slices. So
the engine reads the very values that were checked, and what is not listed never arrives.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import msgspec

from inference.gateway.errors import Refusal, bad_request

MAX_BODY = 32 * 1024 * 1024  # bytes; images travel inside
MAX_N = 128
MAX_LOGPROBS = 20
MAX_DEPTH = 64  # of objects and lists within each other

_SAMPLING = {
    "model",
    "stream",
    "stream_options",
    "max_tokens",
    "temperature",
    "top_p",
    "n",
    "stop",
    "seed",
    "presence_penalty",
    "frequency_penalty",
    "logit_bias",
    "logprobs",
    "user",
    # vLLM's own sampling, which its users know from `extra_body`
    "top_k",
    "min_p",
    "min_tokens",
    "repetition_penalty",
    "length_penalty",
    "stop_token_ids",
    "include_stop_str_in_output",
    "ignore_eos",
    "skip_special_tokens",
    "spaces_between_special_tokens",
    "bad_words",
    "structured_outputs",
    "response_format",
}
FIELDS: dict[str, frozenset[str]] = {
    "chat/completions": frozenset(
        _SAMPLING
        | {
            "messages",
            "max_completion_tokens",
            "top_logprobs",
            "tools",
            "tool_choice",
            "parallel_tool_calls",
            "reasoning_effort",
            "include_reasoning",
            "chat_template_kwargs",
            "add_generation_prompt",
            "continue_final_message",
        }
    ),
    "completions": frozenset(_SAMPLING | {"prompt", "echo", "suffix"}),
    "embeddings": frozenset({"model", "input", "encoding_format", "dimensions", "user"}),
}
# OpenAI's bookkeeping: harmless, and without meaning for an engine. Accepted and left out.
IGNORED = frozenset(
    {
        "metadata",
        "service_tier",
        "store",
        "safety_identifier",
        "prompt_cache_key",
        "prompt_cache_retention",
    }
)
# The switches of chat templates that people use. Anything else could reach into the renderer.
TEMPLATE_SWITCHES = frozenset({"enable_thinking", "thinking"})

# Parts of a message that an engine would fetch from elsewhere, or unpickle.
_FETCHED = re.compile(rb"_url|_embeds|_pil|\\u00")

_Object = dict[str, msgspec.Raw]
_object = msgspec.json.Decoder(_Object).decode
_comma = re.compile(rb"\s*,?")
_name = re.compile(rb'\s*"((?:[^"\\]|\\.)*)"\s*:\s*')
_not_brackets = bytes(set(range(256)) - set(b'"{}[]'))


class StreamOptions(msgspec.Struct):
    include_usage: bool = False
    continuous_usage_stats: bool = False


@dataclass(slots=True)
class Parsed:
    """A request that may be sent on."""

    model: str
    body: bytes
    stream: bool = False
    include_usage: bool = False
    continuous_usage: bool = False
    n: int = 1
    several_prompts: bool = False


def parse(endpoint: str, body: bytes) -> Parsed:
    """Check a body and build it anew where it must change. Raises Refusal."""
    fields = _fields(body)
    allowed = FIELDS[endpoint]
    for name in fields.keys() - allowed - IGNORED:
        if bytes(fields[name]) != b"null":
            raise Refusal(
                400, f"Unknown parameter: '{name[:64]}'.", param=name[:64], code="unknown_parameter"
            )
    model = _typed(fields, "model", str, "a string")
    if not model:
        raise bad_request("Name the instance to use in 'model'.", "model")
    parsed = Parsed(model, body)
    if "messages" in fields:
        _check_messages(bytes(fields["messages"]))
    if endpoint != "embeddings":
        _check_generation(fields, parsed)
    passed = {name: raw for name, raw in fields.items() if name in allowed}
    if parsed.stream:
        # vLLM sends what we need only when told to; its own flag says so too, for old engines not.
        passed["stream_options"] = _ALL_USAGE
    if passed.keys() != fields.keys() or parsed.stream:
        parsed.body = msgspec.json.encode(passed)
    return parsed


_ALL_USAGE = msgspec.Raw(b'{"include_usage":true,"continuous_usage_stats":true}')


def _fields(body: bytes) -> _Object:
    """The members of the body's object. Raises Refusal."""
    try:
        if not body.isascii():
            body.decode()  # slices are not looked into, so their text is checked here
        fields = _object(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise bad_request("The body is not a JSON object that can be read.") from None
    if _too_deep(body):
        raise bad_request(f"The body is nested deeper than {MAX_DEPTH} levels.")
    # In compact JSON the members account for every byte. Only where they do not, look closely.
    counted = 1 + sum(len(name) + len(memoryview(raw)) + 4 for name, raw in fields.items())
    if counted != len(body) and (twice := _named_twice(body, fields)):
        raise bad_request(f"'{twice[:64]}' is given twice.", twice[:64])
    return fields


def _named_twice(body: bytes, fields: _Object) -> str:
    """A name that stands twice in the object, if any. The body is known to be sound JSON."""
    seen: set[str] = set()
    position = body.index(b"{") + 1
    while match := _name.match(body, position):
        name = msgspec.json.decode(b'"' + match[1] + b'"', type=str)
        value = bytes(fields[name])
        if name in seen or not body.startswith(value, match.end()):
            return name
        seen.add(name)
        behind = _comma.match(body, match.end() + len(value))
        position = behind.end() if behind else len(body)
    return ""


def _too_deep(body: bytes) -> bool:
    if body.count(b"{") + body.count(b"[") <= MAX_DEPTH:
        return False
    # What is left of sound JSON without its strings is brackets; each round takes the innermost.
    bare = body.replace(b"\\\\", b"").replace(b'\\"', b"").translate(None, _not_brackets)
    bare = b"".join(bare.split(b'"')[::2])
    for _ in range(MAX_DEPTH):
        bare = bare.replace(b"{}", b"").replace(b"[]", b"")
    return bool(bare)


def _check_messages(raw: bytes) -> None:
    """Pictures and sounds come inside the request; an engine fetches nothing for a tenant."""
    if _FETCHED.search(raw) and (name := _fetched(msgspec.json.decode(raw))):
        raise bad_request(f"'{name[:64]}' must hold the data itself, as a data: URL.", "messages")


def _fetched(value: Any) -> str:
    """The name of a member that names something to fetch or to unpickle; empty if there is none."""
    if isinstance(value, list):
        return next(filter(None, map(_fetched, value)), "")
    if not isinstance(value, dict):
        return ""
    for name, inner in value.items():
        if name.endswith(("_embeds", "_pil")):
            return str(name)
        if name.endswith("_url"):
            url = inner.get("url") if isinstance(inner, dict) else inner
            if url is not None and not (isinstance(url, str) and url.startswith("data:")):
                return str(name)
    return next(filter(None, map(_fetched, value.values())), "")


def _check_generation(fields: _Object, parsed: Parsed) -> None:
    parsed.stream = _typed(fields, "stream", bool, "true or false") or False
    options = _typed(fields, "stream_options", StreamOptions, "an object")
    if options is not None:
        if not parsed.stream:
            raise bad_request("'stream_options' needs 'stream': true.", "stream_options")
        parsed.include_usage = options.include_usage
        parsed.continuous_usage = options.continuous_usage_stats
    parsed.n = _bounded(fields, "n", 1, MAX_N) or 1
    parsed.several_prompts = bytes(fields.get("prompt", b"")).startswith(b"[")
    _bounded(fields, "top_logprobs", 0, MAX_LOGPROBS)
    if not (raw := bytes(fields.get("logprobs", b""))).startswith((b"t", b"f")) and raw:
        _bounded(fields, "logprobs", 0, MAX_LOGPROBS)
    for name in ("max_tokens", "max_completion_tokens", "min_tokens"):
        _bounded(fields, name, 0, 10_000_000)
    switches = _typed(
        fields, "chat_template_kwargs", dict[str, bool], "switches that are on or off"
    )
    if switches and not switches.keys() <= TEMPLATE_SWITCHES:
        raise bad_request(
            f"'chat_template_kwargs' may hold {', '.join(sorted(TEMPLATE_SWITCHES))} only.",
            "chat_template_kwargs",
        )


def _typed(fields: _Object, name: str, kind: Any, word: str) -> Any:
    raw = fields.get(name)
    if raw is None:
        return None
    try:
        return _decoder(kind)(raw)
    except msgspec.DecodeError:
        raise bad_request(f"'{name}' must be {word}.", name) from None


@cache
def _decoder(kind: Any) -> Callable[[msgspec.Raw], Any]:
    return msgspec.json.Decoder(kind | None).decode


def _bounded(fields: _Object, name: str, least: int, most: int) -> int | None:
    value: int | None = _typed(fields, name, int, "a whole number")
    if value is not None and not least <= value <= most:
        raise bad_request(f"'{name}' must be from {least} to {most}.", name)
    return value
