"""Websockets are for our own pages only: browsers send cookies along from anywhere."""

from typing import Any
from urllib.parse import urlsplit

from channels.security.websocket import WebsocketDenier


class SameOrigin:
    """Refuses a websocket whose Origin is missing or is not the host that it asks for.

    Channels' own validator compares with ALLOWED_HOSTS, which on a laptop allows every host.
    """

    def __init__(self, application: Any) -> None:
        self.application = application

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        headers = dict(scope["headers"])
        origin = urlsplit(headers.get(b"origin", b"").decode("latin1"))
        host = headers.get(b"host", b"").decode("latin1")
        same = origin.scheme in {"http", "https"} and origin.netloc.lower() == host.lower() != ""
        await (self.application if same else WebsocketDenier())(scope, receive, send)
