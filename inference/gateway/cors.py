"""Calls from programs in a browser, as far as a key allows them. PURE.

A browser asks first (the preflight), and that question carries no key: it is answered for origins
that any key names. The call itself is answered for its own key's origins only.
https://fetch.spec.whatwg.org/#http-cors-protocol
"""

from collections.abc import Container

from inference.gateway.errors import Refusal
from inference.gateway.tables import Key

ANY = "*"
MAX_ORIGIN = 256  # characters
_EXPOSED = (
    b"Access-Control-Expose-Headers: X-Request-Id, X-Client-Request-Id, X-Modelport-Instance, "
    b"X-Modelport-Provider, Retry-After, X-Should-Retry, X-RateLimit-Limit-Requests, "
    b"X-RateLimit-Remaining-Requests, X-RateLimit-Reset-Requests, X-RateLimit-Limit-Tokens, "
    b"X-RateLimit-Remaining-Tokens, X-RateLimit-Reset-Tokens\r\n"
)
PREFLIGHT = (
    b"Access-Control-Allow-Methods: GET, POST, DELETE\r\n"
    b"Access-Control-Allow-Headers: Authorization, Content-Type, Accept, X-Request-Id, X-Api-Key, "
    b"X-Modelport-Tag, "
    b"Anthropic-Version, Anthropic-Beta, OpenAI-Organization, OpenAI-Project, OpenAI-Beta, "
    b"X-Stainless-Arch, X-Stainless-Lang, X-Stainless-OS, X-Stainless-Package-Version, "
    b"X-Stainless-Retry-Count, X-Stainless-Runtime, X-Stainless-Runtime-Version, "
    b"X-Stainless-Timeout, X-Stainless-Helper-Method, X-Stainless-Async, Traceparent, "
    b"Anthropic-Dangerous-Direct-Browser-Access\r\n"
    b"Access-Control-Max-Age: 600\r\n"
)


def origin(value: bytes) -> str:
    """The origin that a header names; empty where it names none."""
    text = value.decode("latin-1")
    return text if len(text) <= MAX_ORIGIN and text.isascii() and text.isprintable() else ""


def preflight(asking: str, known: Container[str]) -> bytes:
    """The header lines that let a browser go on. Raises Refusal."""
    if not asking or not (asking in known or ANY in known):
        raise Refusal(403, "No API key allows calls from this origin.", code="origin_not_allowed")
    return _allow(asking) + PREFLIGHT


def check(asking: str, key: Key) -> None:
    """A key made for some browser origins is refused to others. Raises Refusal."""
    if asking and key.origins and asking not in key.origins and ANY not in key.origins:
        raise Refusal(
            403, "This API key does not allow calls from this origin.", code="origin_not_allowed"
        )


def headers(asking: str, key: Key | None, known: Container[str]) -> bytes:
    """The lines with which a browser shows an answer to its program; none where it may not."""
    origins = known if key is None else key.origins  # a program may read why its key was refused
    if asking in origins or ANY in origins:
        return _allow(asking) + _EXPOSED
    return b"Vary: Origin\r\n"


def _allow(asking: str) -> bytes:
    return b"Access-Control-Allow-Origin: %b\r\nVary: Origin\r\n" % asking.encode()
