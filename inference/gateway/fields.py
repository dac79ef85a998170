"""What a client may ask for, field by field: a table per endpoint. PURE.

A field that is in its endpoint's table goes on to the engine, once its check has passed; what is
in `IGNORED` is left out; all else is refused. Sources: OpenAI's and Anthropic's API references,
Jina's rerank API, and vLLM's own sampling, which its users know from `extra_body`.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from inference.gateway.errors import Refusal, bad_request

if TYPE_CHECKING:
    from inference.gateway.request import Parsed

MAX_N = 128
MAX_LOGPROBS = 20
MAX_TOKENS = 10_000_000
MAX_STOPS = 64
# The switches of chat templates that people use. Anything else could reach into the renderer.
TEMPLATE_SWITCHES = frozenset({"enable_thinking", "thinking"})
TOOLS = frozenset({"function", "custom"})  # an engine calls nobody; the client does

_T = TypeVar("_T")
Check = Callable[[str, msgspec.Raw, "Parsed"], None]


class StreamOptions(msgspec.Struct):
    include_usage: bool = False
    continuous_usage_stats: bool = False


class _Tool(msgspec.Struct):
    type: str = "function"


_string = msgspec.json.Decoder(str | None).decode
_switch = msgspec.json.Decoder(bool | None).decode
_number = msgspec.json.Decoder(int | None).decode
_options = msgspec.json.Decoder(StreamOptions | None).decode
_strings = msgspec.json.Decoder(str | list[str] | None).decode
_named_switches = msgspec.json.Decoder(dict[str, bool] | None).decode
_tool_list = msgspec.json.Decoder(list[_Tool] | None).decode


def typed(name: str, raw: msgspec.Raw, decode: Callable[[msgspec.Raw], _T], word: str) -> _T:
    """The value, or None for null. Raises Refusal."""
    try:
        return decode(raw)
    except msgspec.DecodeError:
        raise bad_request(f"'{name}' must be {word}.", name) from None


def _bounded(name: str, raw: msgspec.Raw, least: int, most: int) -> int | None:
    value: int | None = typed(name, raw, _number, "a whole number")
    if value is not None and not least <= value <= most:
        raise bad_request(f"'{name}' must be from {least} to {most}.", name)
    return value


def _model(name: str, raw: msgspec.Raw, parsed: "Parsed") -> None:
    parsed.model = typed(name, raw, _string, "a string") or ""


def _stream(name: str, raw: msgspec.Raw, parsed: "Parsed") -> None:
    parsed.stream = typed(name, raw, _switch, "true or false") or False


def _stream_options(name: str, raw: msgspec.Raw, parsed: "Parsed") -> None:
    options = typed(name, raw, _options, "an object")
    if options is not None:
        parsed.stream_options = True
        parsed.include_usage = options.include_usage
        parsed.continuous_usage = options.continuous_usage_stats


def _n(name: str, raw: msgspec.Raw, parsed: "Parsed") -> None:
    parsed.n = _bounded(name, raw, 1, MAX_N) or 1


def _most_tokens(name: str, raw: msgspec.Raw, parsed: "Parsed") -> None:
    value = _bounded(name, raw, 0, MAX_TOKENS)
    if value is not None:  # two names for it may be given, and which one counts, engines decide
        parsed.most_tokens = max(value, parsed.most_tokens or 0)


def _tokens(name: str, raw: msgspec.Raw, parsed: "Parsed") -> None:
    _bounded(name, raw, 0, MAX_TOKENS)


def _top_logprobs(name: str, raw: msgspec.Raw, parsed: "Parsed") -> None:
    _bounded(name, raw, 0, MAX_LOGPROBS)


def _logprobs(name: str, raw: msgspec.Raw, parsed: "Parsed") -> None:
    if bytes(raw) not in {b"true", b"false"}:  # chat's is a switch, completions' a number
        _bounded(name, raw, 0, MAX_LOGPROBS)


def _stops(name: str, raw: msgspec.Raw, parsed: "Parsed") -> None:
    stops = typed(name, raw, _strings, "a string or a list of strings")
    if isinstance(stops, list) and len(stops) > MAX_STOPS:
        raise bad_request(f"'{name}' may hold {MAX_STOPS} strings.", name)


def _switches(name: str, raw: msgspec.Raw, parsed: "Parsed") -> None:
    switches = typed(name, raw, _named_switches, "switches that are on or off")
    if switches and not switches.keys() <= TEMPLATE_SWITCHES:
        known = ", ".join(sorted(TEMPLATE_SWITCHES))
        raise bad_request(f"'{name}' may hold {known} only.", name)


def _prompt(name: str, raw: msgspec.Raw, parsed: "Parsed") -> None:
    text = bytes(raw)
    parsed.prompt_size += len(text)
    parsed.conversation = raw
    parsed.several_prompts = text.startswith(b"[")


def _said(name: str, raw: msgspec.Raw, parsed: "Parsed") -> None:
    """What people say comes inside the request; an engine fetches nothing for a tenant."""
    text = bytes(raw)
    parsed.prompt_size += len(text)
    # A single byte is found many times as fast as several.
    if (
        (b"_" in text and (b"_url" in text or b"_embeds" in text or b"_pil" in text))
        or (b"\\" in text and b"\\u00" in text)
        or b'"url"' in text
    ) and (found := _fetched(msgspec.json.decode(raw))):
        raise bad_request(f"'{found[:64]}' must hold the data itself, as a data: URL.", name)


def _conversation(name: str, raw: msgspec.Raw, parsed: "Parsed") -> None:
    parsed.conversation = raw
    _said(name, raw, parsed)


def _fetched(value: Any) -> str:
    """The name of a member that names something to fetch or to unpickle; empty if there is none."""
    if isinstance(value, list):
        return next(filter(None, map(_fetched, value)), "")
    if not isinstance(value, dict):
        return ""
    for name, inner in value.items():
        if name.endswith(("_embeds", "_pil")):
            return str(name)
        if name.endswith("_url") or (name == "url" and value.get("type") == "url"):
            url = inner.get("url") if isinstance(inner, dict) else inner
            if url is not None and not (isinstance(url, str) and url.startswith("data:")):
                return str(name)
    return next(filter(None, map(_fetched, value.values())), "")


def _tools(name: str, raw: msgspec.Raw, parsed: "Parsed") -> None:
    parsed.prompt_size += len(bytes(raw))
    tools = typed(name, raw, _tool_list, "a list of tools")
    for tool in tools or ():
        if tool.type not in TOOLS:
            raise Refusal(
                400,
                f"Tools of the type '{tool.type[:32]}' are not offered; your program calls its own "
                "functions.",
                param=name,
                code="unsupported_tool",
            )


def _background(name: str, raw: msgspec.Raw, parsed: "Parsed") -> None:
    parsed.background = typed(name, raw, _switch, "true or false") or False


def _kept(name: str, raw: msgspec.Raw, parsed: "Parsed") -> None:
    parsed.needs_kept = typed(name, raw, _string, "a string") is not None or parsed.needs_kept


_SAMPLING: dict[str, Check | None] = {
    "model": _model,
    "stream": _stream,
    "stream_options": _stream_options,
    "max_tokens": _most_tokens,
    "temperature": None,
    "top_p": None,
    "n": _n,
    "stop": _stops,
    "seed": None,
    "presence_penalty": None,
    "frequency_penalty": None,
    "logit_bias": None,
    "logprobs": _logprobs,
    "user": None,
    # vLLM's own
    "top_k": None,
    "min_p": None,
    "min_tokens": _tokens,
    "repetition_penalty": None,
    "length_penalty": None,
    "stop_token_ids": None,
    "include_stop_str_in_output": None,
    "ignore_eos": None,
    "skip_special_tokens": None,
    "spaces_between_special_tokens": None,
    "bad_words": None,
    "structured_outputs": None,
    "response_format": None,
}
_POOLED: dict[str, Check | None] = {
    "model": _model,
    "user": None,
    "truncate_prompt_tokens": _tokens,
}
_COUNTED: dict[str, Check | None] = {
    "model": _model,
    "messages": _conversation,
    "system": _said,
    "tools": _said,
    "tool_choice": None,
    "thinking": None,
}
FIELDS: dict[str, dict[str, Check | None]] = {
    "chat/completions": _SAMPLING
    | {
        "messages": _conversation,
        "max_completion_tokens": _most_tokens,
        "top_logprobs": _top_logprobs,
        "tools": _said,
        "tool_choice": None,
        "parallel_tool_calls": None,
        "reasoning_effort": None,
        "include_reasoning": None,
        "chat_template_kwargs": _switches,
        "add_generation_prompt": None,
        "continue_final_message": None,
    },
    "completions": _SAMPLING | {"prompt": _prompt, "echo": None, "suffix": None},
    "embeddings": _POOLED | {"input": _said, "encoding_format": None, "dimensions": None},
    "responses": {
        "model": _model,
        "input": _conversation,
        "instructions": _said,
        "stream": _stream,
        "background": _background,
        "store": None,
        "previous_response_id": _kept,
        "max_output_tokens": _most_tokens,
        "max_tool_calls": None,
        "parallel_tool_calls": None,
        "tools": _tools,
        "tool_choice": None,
        "text": None,
        "reasoning": None,
        "include_reasoning": None,
        "include": None,
        "temperature": None,
        "top_p": None,
        "top_k": None,
        "min_p": None,
        "top_logprobs": _top_logprobs,
        "presence_penalty": None,
        "frequency_penalty": None,
        "logit_bias": None,
        "skip_special_tokens": None,
        "include_stop_str_in_output": None,
        "truncation": None,
        "user": None,
        "metadata": None,
    },
    "messages": _COUNTED
    | {
        "stream": _stream,
        "max_tokens": _most_tokens,
        "stop_sequences": _stops,
        "temperature": None,
        "top_k": None,
        "top_p": None,
        "output_config": None,
        "tools": _tools,
    },
    "messages/count_tokens": _COUNTED,
    "rerank": _POOLED | {"query": _said, "documents": _said, "top_n": _tokens},
    "score": _POOLED
    | {
        "text_1": _said,
        "text_2": _said,
        "queries": _said,
        "documents": _said,
        "items": _said,
        "data_1": _said,
        "data_2": _said,
    },
}
# Bookkeeping of others: harmless, and without meaning for an engine. Accepted and left out.
IGNORED = frozenset(
    {
        "metadata",
        "service_tier",
        "store",
        "safety_identifier",
        "prompt_cache_key",
        "prompt_cache_retention",
        "return_documents",  # vLLM always returns them
    }
)
# Where the usage that we need comes with a stream only if asked for.
USAGE_ON_REQUEST = frozenset({"chat/completions", "completions"})
