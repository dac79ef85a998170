"""A request as it comes in: its head, read with suspicion, then its body. No I/O.

What could mean two things to two readers is refused as it is read. What the head alone decides is
known before anything is kept of the body.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from inference.gateway import cors, errors
from inference.gateway.errors import Refusal
from inference.gateway.heads import Head
from inference.gateway.paths import NO_CALL, match
from inference.gateway.request import MAX_BODY
from portal.lib.ids import uuid7_pair

if TYPE_CHECKING:
    from inference.gateway.server import GatewayRuntime

MAX_BUFFERED = 512 * 1024 * 1024  # bytes of bodies that a process holds at a time
LONGEST_TAG = 64  # characters
SHORT_BODY = 64 * 1024  # bytes that are thrown away rather than the connection


class Intake:
    """One request. What takes headers and body raises Refusal.

    There is one for each call, so it and what is made of it have slots: fewer bytes, faster looks.
    """

    __slots__ = (
        "_authorized",
        "_body",
        "_body_size",
        "_content_encoding",
        "authorization",
        "call",
        "client_request_id",
        "digest",
        "expects_continue",
        "framing",
        "http_minor",
        "keep_alive",
        "long",
        "method",
        "origin",
        "refusal",
        "request_id",
        "runtime",
        "shown_id",
        "tag",
        "target",
        "traceparent",
    )

    def __init__(self, runtime: "GatewayRuntime") -> None:
        self.runtime = runtime
        self.request_id, self.shown_id = uuid7_pair()
        self.method = b""  # empty until the head is complete
        self.target = b""
        self.call = NO_CALL
        self.origin = ""  # the website whose program asks
        self.http_minor = "1.1"
        self.keep_alive = True
        self.expects_continue = False
        self.framing = b""  # the header that says how long its body is
        self.long = False  # its body is too long to be thrown away
        self.refusal: Refusal | None = None  # known from its head already
        self.authorization = b""
        self.digest = b""  # of its key
        self._authorized = False
        self.client_request_id = ""
        self.tag = ""  # the caller's own word for what it is for
        self.traceparent = b""
        self._content_encoding = b""
        self._body: bytes | list[bytes] = b""
        self._body_size = 0

    def head(self) -> Head | None:
        """What is to be known of its head when that comes again; None where it is unlike others."""
        if self.client_request_id or self.traceparent or self.expects_continue or not self.digest:
            return None
        return Head(*(getattr(self, name) for name in Head._fields))

    def take_head(self, head: Head) -> None:
        """It begins with this head, which has been read before."""
        (
            self.method,
            self.call,
            self.http_minor,
            self.keep_alive,
            self.origin,
            self.authorization,
            self.digest,
            self.tag,
        ) = head

    def _take_authorization(self, value: bytes) -> None:
        if self._authorized:
            raise errors.bad_request("The Authorization header is given twice.")
        self._authorized = True
        self.authorization = value

    def _take_api_key(self, value: bytes) -> None:
        """Anthropic's SDKs send their key so."""
        if not self.authorization:
            self.authorization = b"Bearer " + value

    def _take_content_encoding(self, value: bytes) -> None:
        self._content_encoding = value

    def _take_content_length(self, value: bytes) -> None:
        self._take_framing(b"Content-Length: " + value)
        if not value.strip().isdigit() or len(value) > 18:
            raise errors.bad_request("Content-Length is not a number.")
        if int(value) > MAX_BODY:
            raise _too_large()
        self.long = int(value) > SHORT_BODY

    def _take_transfer_encoding(self, value: bytes) -> None:
        self._take_framing(b"Transfer-Encoding: " + value)
        if value.strip().lower() != b"chunked":
            raise Refusal(501, "Transfer-Encoding may be 'chunked' only.")
        self.long = True

    def _take_framing(self, line: bytes) -> None:
        if self.framing:
            raise errors.bad_request("The length of the body is given twice.")
        self.framing = line

    def _take_expect(self, value: bytes) -> None:
        self.expects_continue = value.strip().lower() == b"100-continue"

    def _take_origin(self, value: bytes) -> None:
        self.origin = cors.origin(value)

    def _take_traceparent(self, value: bytes) -> None:
        self.traceparent = value

    def _take_request_id(self, value: bytes) -> None:
        text = value.decode("latin-1")
        self.client_request_id = text[:128] if text.isascii() and text.isprintable() else ""

    def _take_tag(self, value: bytes) -> None:
        text = value.strip().decode("latin-1")
        if len(text) > LONGEST_TAG or not (text.isascii() and text.isprintable()):
            raise errors.bad_request(
                f"X-Modelport-Tag may have at most {LONGEST_TAG} printable ASCII characters."
            )
        self.tag = text

    def open_path(self) -> None:
        """Which path is asked for, and whether its body can be read."""
        self.call = match(self.method, bytes(self.target))
        if self._content_encoding.strip().lower() not in {b"", b"identity"}:
            raise Refusal(415, "The body may not be compressed.")

    def body_part(self, data: bytes) -> None:
        self._body_size += len(data)
        if self._body_size > MAX_BODY:
            raise _too_large()
        if self.refusal is not None:
            return
        self.runtime.buffered += len(data)
        if self.runtime.buffered > MAX_BUFFERED:
            self.runtime.buffered -= len(data)
            raise Refusal(503, "Too many bodies are on their way. Try again.", retry_after=2)
        if not self._body:
            self._body = data
        elif isinstance(self._body, bytes):
            self._body = [self._body, data]
        else:
            self._body.append(data)

    def take_body(self) -> bytes:
        body, self._body = self._body, b""
        whole = body if isinstance(body, bytes) else b"".join(body)
        self.runtime.buffered -= len(whole)
        return whole


HEADERS: dict[bytes, Callable[[Intake, bytes], None]] = {
    b"authorization": Intake._take_authorization,
    b"x-api-key": Intake._take_api_key,
    b"content-encoding": Intake._take_content_encoding,
    b"content-length": Intake._take_content_length,
    b"transfer-encoding": Intake._take_transfer_encoding,
    b"expect": Intake._take_expect,
    b"x-request-id": Intake._take_request_id,
    b"x-modelport-tag": Intake._take_tag,
    b"origin": Intake._take_origin,
    b"traceparent": Intake._take_traceparent,
}


def _too_large() -> Refusal:
    return Refusal(413, f"The body is larger than {MAX_BODY // 2**20} MiB.", code="body_too_large")
