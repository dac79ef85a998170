"""Events posted to an address that a tenant entered.

Every address of the host's name is looked at, and the connection goes to one that was looked at,
as for external providers (`inference/gateway/providers.py`). Redirects are not followed.

Receivers check `Modelport-Signature: t=SECONDS,v1=HEX`: HEX is the HMAC-SHA256, by their secret, of
SECONDS, a dot and the body as it came. What is tried again has the same `Idempotency-Key`.
"""

import hashlib
import hmac
import http.client
import json
import socket
import ssl
import time
from collections.abc import Callable, Container, Mapping
from typing import Any
from urllib.parse import urlsplit

from inference.gateway.providers import HTTPS, is_public

PATIENCE = 10.0  # seconds, for each step
Resolve = Callable[[str, int], list[str]]


class NotDelivered(Exception):
    """It may be tried again."""


def signature(secret: str, body: bytes, at: int) -> str:
    """The value of the header that proves who sent it and when."""
    signed = hmac.new(secret.encode(), f"{at}.".encode() + body, hashlib.sha256)
    return f"t={at},v1={signed.hexdigest()}"


def resolve(host: str, port: int) -> list[str]:
    """The addresses of a name. Raises OSError."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError as error:  # a label that is empty or too long
        raise OSError(f"{host} is no host's name") from error
    return list(dict.fromkeys(str(info[4][0]) for info in found))


def send(
    url: str,
    event: Mapping[str, Any],
    *,
    secret: str,
    key: str,
    trusted: Container[str],
    resolve: Resolve = resolve,
    context: ssl.SSLContext | None = None,
) -> None:
    """Post it. Raises NotDelivered unless it was answered with success."""
    body = json.dumps(event, separators=(",", ":")).encode()
    headers = {
        "Content-Type": "application/json",
        "User-Agent": "modelport",
        "Idempotency-Key": key,
        "Modelport-Signature": signature(secret, body, int(time.time())),
    }
    parts = urlsplit(url)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    try:
        connection = _Checked(parts.hostname or "", parts.port or HTTPS, trusted, resolve, context)
        try:
            connection.request("POST", path, body, headers)
            status = connection.getresponse().status
        finally:
            connection.close()
    except (OSError, http.client.HTTPException) as error:
        raise NotDelivered(f"{parts.hostname}: {error}") from error
    if not 200 <= status < 300:
        raise NotDelivered(f"{parts.hostname} answered with the status {status}")


class _Checked(http.client.HTTPSConnection):
    """Connects to an address that was looked at; TLS is verified against the host's name."""

    def __init__(
        self,
        host: str,
        port: int,
        trusted: Container[str],
        resolve: Resolve,
        context: ssl.SSLContext | None,
    ) -> None:
        self.tls = context or ssl.create_default_context()
        super().__init__(host, port, timeout=PATIENCE, context=self.tls)
        self.trusted, self.resolve = trusted, resolve

    def connect(self) -> None:
        """Raises OSError."""
        addresses = self.resolve(self.host, self.port)
        if self.host not in self.trusted and not all(map(is_public, addresses)):
            raise OSError("the name leads into a private network")
        problem = OSError("the name has no address")
        for address in addresses:
            try:
                bare = socket.create_connection((address, self.port), PATIENCE)
            except OSError as error:  # no way to IPv6 from here, say; the next may be reached
                problem = error
            else:
                self.sock = self.tls.wrap_socket(bare, server_hostname=self.host)
                return
        raise problem
