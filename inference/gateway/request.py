"""What a client may ask for, field by field. PURE.

A body is decoded one level deep into raw slices; each name must be on its endpoint's list, and the
object is built anew from those slices. So the engine reads the very values that were checked:
a field that stood twice stands once, and what is not listed never arrives.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from inference.gateway.errors import Refusal, bad_request

MAX_BODY = 32 * 1024 * 1024  # bytes; images travel inside
MAX_N = 128
MAX_LOGPROBS = 20

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
    {"metadata", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention"}
)
# The switches of chat templates that people use. Anything else could reach into the renderer.
TEMPLATE_SWITCHES = frozenset({"enable_thinking", "thinking"})

_Object = dict[str, msgspec.Raw]
_object = msgspec.json.Decoder(_Object).decode


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


def parse(endpoint: str, body: bytes) -> Parsed:
    """Check a body and build it anew. Raises Refusal."""
    try:
        fields = _object(body)
    except (msgspec.DecodeError, RecursionError):
        raise bad_request("The body is not a JSON object that can be read.") from None
    allowed = FIELDS[endpoint]
    for name in fields:
        if name not in allowed and name not in IGNORED and bytes(fields[name]) != b"null":
            raise Refusal(
                400, f"Unknown parameter: '{name[:64]}'.", param=name[:64], code="unknown_parameter"
            )
    model = _typed(fields, "model", str, "a string")
    if not model:
        raise bad_request("Name the instance to use in 'model'.", "model")
    parsed = Parsed(model, b"")
    if endpoint != "embeddings":
        _check_generation(fields, parsed)
    parsed.body = _encode({name: raw for name, raw in fields.items() if name in allowed})
    return parsed


def _check_generation(fields: _Object, parsed: Parsed) -> None:
    parsed.stream = _typed(fields, "stream", bool, "true or false") or False
    options = _typed(fields, "stream_options", StreamOptions, "an object")
    if options is not None:
        if not parsed.stream:
            raise bad_request("'stream_options' needs 'stream': true.", "stream_options")
        parsed.include_usage = options.include_usage
        parsed.continuous_usage = options.continuous_usage_stats
        # Ours is forced on the engine anyway; options of a newer engine do not slip through.
        del fields["stream_options"]
    _bounded(fields, "n", 1, MAX_N)
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
        return msgspec.json.decode(raw, type=kind | None)
    except msgspec.DecodeError:
        raise bad_request(f"'{name}' must be {word}.", name) from None


def _bounded(fields: _Object, name: str, least: int, most: int) -> None:
    value = _typed(fields, name, int, "a whole number")
    if value is not None and not least <= value <= most:
        raise bad_request(f"'{name}' must be from {least} to {most}.", name)


def _encode(fields: Mapping[str, msgspec.Raw]) -> bytes:
    return msgspec.json.encode(fields)
