"""A request's body: read one level deep, checked, and built anew where it must change. PURE.

It is decoded into raw slices and each name must be on its endpoint's list. It goes on as it came
where nothing had to go; otherwise the object is built anew from those slices. So the engine reads
the very values that were checked, and what is not listed never arrives.
"""

import re
import zlib
from typing import Any

import msgspec

from inference.gateway.errors import bad_request
from inference.gateway.fields import FIELDS, IGNORED, USAGE_ON_REQUEST

MAX_BODY = 32 * 1024 * 1024  # bytes; images travel inside
MAX_DEPTH = 64  # of objects and lists within each other
MAX_NAME = 64  # characters of a client's name that an error repeats
AFFINITY_BYTES = 1024  # of a prompt's beginning

_Object = dict[str, msgspec.Raw]
_object = msgspec.json.Decoder(_Object).decode
_list = msgspec.json.Decoder(list[msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode
_comma = re.compile(rb"\s*,?")
_name = re.compile(rb'\s*"((?:[^"\\]|\\.)*)"\s*:\s*')
_not_brackets = bytes(set(range(256)) - set(b'"{}[]'))

_ALL_USAGE = msgspec.Raw(b'{"include_usage":true,"continuous_usage_stats":true}')
_USAGE = msgspec.Raw(b'{"include_usage":true}')
_YES = msgspec.Raw(b"true")


def _unlisted(name: str, raw: msgspec.Raw, parsed: "Parsed") -> None:
    """Stands for the check of what is on no list."""


class _Role(msgspec.Struct):
    role: str = ""


_role = msgspec.json.Decoder(_Role).decode


class Parsed:
    """A request that may be sent on."""

    model = ""
    stream = False
    stream_options = False  # the client gave some
    include_usage = False
    continuous_usage = False
    n = 1
    several_prompts = False
    most_tokens: int | None = None  # that one answer may have
    background = False
    needs_kept = False  # it goes on from an answer that the engine has kept
    prompt_size = 0  # bytes of the prompt as it was written
    conversation: msgspec.Raw | None = None  # the one among them that grows from turn to turn

    def __init__(self, body: bytes, fields: _Object) -> None:
        self._body = body
        self._fields = fields

    @property
    def size(self) -> int:
        """Its bytes."""
        return len(self._body)

    def body_for(self, model: str, *, provider: bool = False, timings: bool = False) -> bytes:
        """The body for whoever knows the model by this name.

        vLLM tells the running usage on each chunk when asked; a provider may not know that option,
        and llama.cpp tells it by `timings`.
        """
        if model == self.model and not ((provider or timings) and self.stream):
            return self._body
        fields = dict(self._fields)
        fields["model"] = msgspec.Raw(_encode(model))
        if provider and fields.get("stream_options") is _ALL_USAGE:
            fields["stream_options"] = _USAGE
        if timings and self.stream:
            fields["timings_per_token"] = _YES
        return _encode(fields)

    def affinity(self) -> int:
        """A number that the requests of one conversation share: made of its beginning."""
        raw = self.conversation
        if raw is None:
            return 0
        if bytes(raw)[:1] != b"[":
            return zlib.crc32(bytes(raw)[:AFFINITY_BYTES])
        number = 0
        for message in _list(raw):
            number = zlib.crc32(message, number)
            if _is_users(message):  # what follows differs from turn to turn
                break
        return number

    def texts(self, *names: str) -> int:
        """How many texts there are in the longest of these lists. Numbers are one text's tokens."""
        most = 1
        for name in names:
            raw = bytes(self._fields.get(name, b""))
            if raw.startswith(b"["):
                entries = _list(raw)
                if entries and not bytes(entries[0])[:1].isdigit():
                    most = max(most, len(entries))
        return most

    def members(self, *names: str) -> dict[str, Any]:
        """These fields in full, as far as they were given."""
        return {
            name: msgspec.json.decode(self._fields[name]) for name in names if name in self._fields
        }


def _is_users(message: msgspec.Raw) -> bool:
    try:
        return _role(message).role not in {"system", "developer"}
    except msgspec.DecodeError:
        return True


def parse(endpoint: str, body: bytes) -> Parsed:
    """Check a body and build it anew where it must change. Raises Refusal."""
    fields = _members(body)
    parsed = Parsed(body, fields)
    table = FIELDS[endpoint]
    left_out: tuple[str, ...] = ()
    for name, raw in fields.items():
        check = table.get(name, _unlisted)
        if check is None:
            continue
        if check is not _unlisted:
            check(name, raw, parsed)
        elif name in IGNORED or bytes(raw) == b"null":
            left_out += (name,)
        else:
            shown = name[:MAX_NAME]
            raise bad_request(f"Unknown parameter: '{shown}'.", shown, "unknown_parameter")
    if not parsed.model:
        raise bad_request("Name the instance to use in 'model'.", "model")
    if parsed.stream_options and not parsed.stream:
        raise bad_request("'stream_options' needs 'stream': true.", "stream_options")
    if parsed.stream and endpoint in USAGE_ON_REQUEST:
        # vLLM sends what we need only when told to; its own flag says so too, for old engines not.
        fields["stream_options"] = _ALL_USAGE
    elif not left_out:
        return parsed
    for name in left_out:
        del fields[name]
    parsed._body = _encode(fields)
    return parsed


def _members(body: bytes) -> _Object:
    """The members of the body's object. Raises Refusal."""
    try:
        if not body.isascii():
            body.decode()  # slices are not looked into, so their text is checked here
        fields = _object(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise bad_request("The body is not a JSON object that can be read.") from None
    if _too_deep(body):
        raise bad_request(f"The body is nested deeper than {MAX_DEPTH} levels.")
    # Written in the shortest way, the members account for every byte, unless one stands there
    # twice. Only where they do not, look closely.
    if len(_encode(fields)) != len(body) and (twice := _named_twice(body, fields)):
        shown = twice[:MAX_NAME]
        raise bad_request(f"'{shown}' is given twice.", shown)
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
