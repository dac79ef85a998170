"""The gateway on the port of the pages, so that one address serves everything: it keeps `/v1` for
itself and leaves all else to uvicorn.
"""

from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from inference.gateway.connection import GatewayProtocol
from inference.gateway.errors import Refusal
from inference.gateway.server import GatewayRuntime


class _Beside(GatewayProtocol):
    """The gateway's half of a connection that it shares with the pages."""

    def on_headers_complete(self) -> None:
        if self.reading is not None and not _ours(self.reading.target):
            # A page asked for in one breath with a call: what must wait for what is not ours to
            # say. The call is answered, then the connection ends, as HTTP allows.
            raise Refusal(400, "Pages are not served behind a call on the same connection.")
        super().on_headers_complete()

    def rest(self) -> None:
        """The pages have the connection now."""
        self.runtime.connections.discard(self)

    def wake(self) -> None:
        self.runtime.connections.add(self)


def mounted(runtime: GatewayRuntime) -> type[HttpToolsProtocol]:
    """uvicorn's protocol for pages, which leaves `/v1` to the gateway: for `Config(http=…)`."""

    class Mounted(HttpToolsProtocol):
        """Asks at each request's first bytes whose it is; both kinds may share a connection."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self._v1: _Beside | None = None
            self._peeked = b""
            self._in_message = False
            self._deaf = False  # a call came in one breath with a page: nothing more is heard

        def data_received(self, data: bytes) -> None:
            if self._v1 is not None and not self._v1.idle:
                self._v1.data_received(data)
            elif self._in_message or self._answering:
                super().data_received(data)
            else:
                self._dispatch(data)

        def _dispatch(self, data: bytes) -> None:
            data = self._peeked + data
            is_v1 = _is_v1(data)
            if is_v1 is None:
                self._peeked = data
                return
            self._peeked = b""
            if not is_v1:
                if self._v1 is not None:
                    self._v1.rest()
                super().data_received(data)
                return
            self._unset_keepalive_if_required()  # its idle timer must not end our answer
            if self._v1 is None:
                self._v1 = _Beside(runtime)
                self._v1.connection_made(self.transport)
            self._v1.wake()
            self._v1.data_received(data)

        @property
        def _answering(self) -> bool:
            return self.cycle is not None and not self.cycle.response_complete

        def on_message_begin(self) -> None:
            if not self._deaf:
                self._in_message = True
                super().on_message_begin()

        def on_url(self, url: bytes) -> None:
            if not self._deaf:
                super().on_url(url)

        def on_header(self, name: bytes, value: bytes) -> None:
            if not self._deaf:
                super().on_header(name, value)

        def on_headers_complete(self) -> None:
            if self._deaf:
                return
            if self._answering and _ours(self.url):
                # The page is answered, then the connection ends; the call must be sent again.
                self._deaf = True
                self.cycle.keep_alive = False
                return
            super().on_headers_complete()

        def on_body(self, body: bytes) -> None:
            if not self._deaf:
                super().on_body(body)

        def on_message_complete(self) -> None:
            if not self._deaf:
                self._in_message = False
                super().on_message_complete()

        def handle_websocket_upgrade(self) -> None:
            if self._deaf:
                return
            if self._v1 is not None:  # the connection has left us both
                self._v1.rest()
                self._v1 = None
            super().handle_websocket_upgrade()

        def connection_lost(self, exc: Exception | None) -> None:
            if self._v1 is not None:
                self._v1.connection_lost(exc)
            super().connection_lost(exc)

        def pause_writing(self) -> None:
            if self._v1 is not None:
                self._v1.pause_writing()
            super().pause_writing()

        def resume_writing(self) -> None:
            if self._v1 is not None:
                self._v1.resume_writing()
            super().resume_writing()

        def shutdown(self) -> None:
            """uvicorn asks all to close; an answer under way is finished before."""
            if self._v1 is not None and not self._v1.idle:
                self._v1.drain()
            else:
                super().shutdown()

    return Mounted


def _ours(target: bytes) -> bool:
    return target.startswith((b"/v1/", b"/v1?")) or target == b"/v1"


def _is_v1(data: bytes) -> bool | None:
    """Whether a request line begins a call to the gateway; None while too little of it is here."""
    method, space, target = data.lstrip(b"\r\n").partition(b" ")
    if not space:
        return None if len(data) < 32 else False
    if len(target) < 4 and b"/v1/".startswith(target):
        return None
    return target.startswith((b"/v1/", b"/v1 ", b"/v1?"))
