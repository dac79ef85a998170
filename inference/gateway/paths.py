"""Which paths there are, and what each asks for. PURE.

Only whole paths of the list; nothing is decoded, joined or normalised, so no other spelling of a
path can reach an engine.
"""

import re
from dataclasses import dataclass
from typing import Literal

from inference.gateway.errors import Refusal, Shape

Kind = Literal["generate", "count", "models", "stored"]

# What an engine works on, by the path after /v1/. "count" is work that is not billed.
POSTED: dict[bytes, tuple[Kind, str]] = {
    b"chat/completions": ("generate", "chat/completions"),
    b"completions": ("generate", "completions"),
    b"embeddings": ("generate", "embeddings"),
    b"responses": ("generate", "responses"),
    b"messages": ("generate", "messages"),
    b"messages/count_tokens": ("count", "messages/count_tokens"),
    b"rerank": ("generate", "rerank"),
    b"score": ("generate", "score"),
}
_ID = re.compile(rb"[A-Za-z0-9_-]{1,128}").fullmatch
_STORED_QUERY = re.compile(
    rb"(?:(?:stream=(?:true|false)|starting_after=\d{1,9})&?){1,2}"
).fullmatch


@dataclass(slots=True, frozen=True)
class Call:
    kind: Kind
    endpoint: str  # its name for the books: the path after /v1/ without anybody's names
    name: str = ""  # of the model or the answer that the path names
    path: bytes = b""  # what is asked of the engine, after /v1/
    shape: Shape = "openai"  # of its errors


_CALLS = {
    path: Call(
        kind, endpoint, path=path, shape="anthropic" if path[:8] == b"messages" else "openai"
    )
    for path, (kind, endpoint) in POSTED.items()
}
_MODELS = Call("models", "models")
NO_CALL = Call("models", "")  # before the path is known


def match(method: bytes, target: bytes) -> Call:
    """Raises Refusal."""
    path, _, query = target.partition(b"?")
    if path[:4] != b"/v1/":
        raise _unknown(path)
    rest = path[4:]
    call = _CALLS.get(rest)
    if call is not None:
        return _only(method, b"POST", call)
    if rest == b"models":
        return _only(method, b"GET", _MODELS)
    first, _, name = rest.partition(b"/")
    if first == b"models" and name and b"/" not in name:
        return _only(method, b"GET", Call("models", "models", name.decode("latin-1")))
    if first == b"responses":
        return _stored(method, path, name, query)
    raise _unknown(path)


def _stored(method: bytes, path: bytes, rest: bytes, query: bytes) -> Call:
    """An answer that an engine has kept."""
    id_, slash, action = rest.partition(b"/")
    if not _ID(id_) or (slash and action != b"cancel"):
        raise _unknown(path)
    if query and not _STORED_QUERY(query):
        raise Refusal(400, "This path takes 'stream' and 'starting_after' only.")
    asked = b"responses/" + rest + (b"?" + query if query and not slash else b"")
    call = Call("stored", "responses", id_.decode(), asked)
    return _only(method, b"POST" if slash else b"GET", call)


def _only(method: bytes, wanted: bytes, call: Call) -> Call:
    if method != wanted:
        raise Refusal(405, f"Use {wanted.decode()} for this path.", code="method_not_allowed")
    return call


def _unknown(path: bytes) -> Refusal:
    return Refusal(404, f"There is no {path[:100].decode('latin-1')} here.", code="unknown_url")
