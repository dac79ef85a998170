"""What goes out to a client: heads, whole answers, chunks of streams, errors in their shape."""

from typing import TYPE_CHECKING

from inference.gateway import cors, response
from inference.gateway.errors import Refusal
from inference.gateway.intake import Intake
from inference.gateway.tables import Key

if TYPE_CHECKING:
    from inference.gateway.connection import GatewayProtocol


MOST_USUAL = 4096  # bytes; a chunk with a token is far smaller
_SIZES = [b"%x\r\n" % size for size in range(MOST_USUAL)]


class Output(Intake):
    """One request with the means to answer it."""

    __slots__ = ("key", "limits_told", "protocol", "response_started", "served_by")

    def __init__(self, protocol: "GatewayProtocol") -> None:
        super().__init__(protocol.runtime)
        self.protocol = protocol
        self.response_started = False
        self.key: Key | None = None
        self.served_by = b""  # the header line that names who answers
        self.limits_told = b""  # header lines

    def write_whole(self, status: int, body: bytes, extra: bytes = b"") -> None:
        head = self._head(status, response.JSON, len(body), extra)
        # Who asked by HEAD would take a body for the beginning of the next answer.
        self._write_last(head if self.method == b"HEAD" else head + body)

    def write_refusal(self, refusal: Refusal) -> None:
        self.write_whole(refusal.status, refusal.body(self.call.shape), refusal.lines())

    def write_nothing(self, extra: bytes) -> None:
        """204: an answer without a body."""
        self._write_last(self._head(204, b"", None, extra))

    def write_head(self, status: int, content_type: bytes) -> None:
        """The head of a stream."""
        transport = self.protocol.transport
        if transport is not None:
            transport.write(self._head(status, content_type, None, b""))

    def write_chunk(self, data: bytes) -> None:
        transport = self.protocol.transport
        if transport is not None:
            size = len(data)
            if self.http_minor == "1.0":
                transport.write(data)
            elif size < MOST_USUAL:
                transport.write(_SIZES[size] + data + b"\r\n")
            else:
                transport.write(b"%x\r\n%b\r\n" % (size, data))

    def write_last(self, data: bytes) -> None:
        """The last bytes of a stream, and its end."""
        if self.http_minor != "1.0":
            chunk = b"%x\r\n%b\r\n" % (len(data), data) if data else b""
            data = chunk + response.LAST_CHUNK
        self._write_last(data)

    def _head(self, status: int, content_type: bytes, length: int | None, extra: bytes) -> bytes:
        self.response_started = True
        extra += self.served_by + self.limits_told
        if length is not None:
            framing = b"Content-Type: %b\r\nContent-Length: %d\r\n" % (content_type, length)
        elif not content_type:
            framing = b""
        elif self.http_minor == "1.0":
            framing = b"Content-Type: %b\r\n%b" % (content_type, response.UNTIL_CLOSE)
            self.keep_alive = False
        else:
            framing = b"Content-Type: %b\r\n%b" % (content_type, response.CHUNKED)
        if self.origin:
            extra += cors.headers(self.origin, self.key, self.runtime.snapshot.origins)
        if self.client_request_id:
            extra += b"X-Client-Request-Id: %b\r\n" % self.client_request_id.encode()
        if not self.keep_alive or self.protocol.last or self.runtime.draining:
            extra += response.CLOSE
        elif self.http_minor == "1.0":
            extra += response.KEEP_ALIVE
        return b"HTTP/1.1 %d %b\r\n%b%bX-Request-Id: %b\r\n%b\r\n" % (
            status,
            response.REASONS[status],
            self.runtime.date,
            framing,
            self.shown_id,
            extra,
        )

    def _write_last(self, data: bytes) -> None:
        protocol = self.protocol
        if protocol.transport is not None:
            protocol.transport.write(data)
        protocol.finished(self)
