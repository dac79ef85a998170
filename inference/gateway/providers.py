"""External providers: an OpenAI-compatible service, called with the organization's own secret.

The address is a tenant's word, so it may lead anywhere: every address that the host's name stands
for is looked at when a connection is made, and the connection goes to an address that was looked at
(server-side request forgery, DNS rebinding). TLS is verified against the host's name. Redirects are
not followed.
"""

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Awaitable, Callable, Container
from functools import cache
from urllib.parse import urlsplit

from inference.gateway import errors
from inference.gateway.errors import Shape
from inference.gateway.response import REASONS
from inference.gateway.tables import Provider
from inference.gateway.upstream import Opener, Pool, Upstream

HTTPS = 443
# Prefixes under which an IPv6 address stands for an IPv4 one (RFC 6052, RFC 3056).
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_NAT64_LOCAL = ipaddress.ip_network("64:ff9b:1::/48")

Resolve = Callable[[str, int], Awaitable[list[str]]]


class NotPublic(OSError):
    """The host's name leads into a private network."""


@cache
def _tls() -> ssl.SSLContext:
    return ssl.create_default_context()


def is_public(address: str) -> bool:
    """Whether this address is on the internet, whatever way it is written."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(found, ipaddress.IPv6Address):
        inner = found.ipv4_mapped or found.sixtofour or (found.teredo and found.teredo[1])
        if inner is None and found in _NAT64:
            inner = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
        if found in _NAT64_LOCAL or found.is_site_local or (inner and not inner.is_global):
            return False
    return found.is_global and not found.is_multicast and not found.is_reserved


async def resolve(host: str, port: int) -> list[str]:
    """The addresses of a name. Raises OSError."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(info[4][0]) for info in found))


def opener(
    provider: Provider,
    trusted: Container[str],
    *,
    resolve: Resolve = resolve,
    context: ssl.SSLContext | None = None,
) -> Opener:
    """What makes connections to this provider. Hosts that the operator trusts may be private."""
    parts = urlsplit(provider.base_url)
    host, port = parts.hostname or "", parts.port or HTTPS

    async def connect(pool: Pool) -> Upstream:
        """Raises OSError."""
        addresses = await resolve(host, port)
        if host not in trusted and not all(map(is_public, addresses)):
            raise NotPublic(f"{host} leads into a private network")
        if not addresses:
            raise OSError(f"{host} has no address")
        _, upstream = await pool.loop.create_connection(
            lambda: Upstream(pool),
            addresses[0],
            port,
            ssl=context or _tls(),
            server_hostname=host,
        )
        return upstream

    return connect


def request(provider: Provider, path: bytes, request_id: bytes, body: bytes) -> bytes:
    """The bytes of a call: nothing of the client's head goes along."""
    parts = urlsplit(provider.base_url)
    return (
        b"POST %b/%b HTTP/1.1\r\nHost: %b\r\nAuthorization: Bearer %b\r\n"
        b"Content-Type: application/json\r\nAccept: application/json, text/event-stream\r\n"
        b"Accept-Encoding: identity\r\nUser-Agent: modelport\r\nX-Request-Id: %b\r\n"
        b"Content-Length: %d\r\n\r\n%b"
        % (
            parts.path.encode(),
            path,
            parts.netloc.encode(),
            provider.secret.encode(),
            request_id,
            len(body),
            body,
        )
    )


def refusal(provider: Provider, status: int, body: bytes, shape: Shape) -> tuple[int, bytes]:
    """The status and the error for the client, where the provider did not answer with 200."""
    if status in {401, 403}:
        text = (
            f"The provider `{provider.name}` refused its secret ({status}). "
            "Renew it on the Providers page."
        )
    elif 200 <= status < 400:
        text = f"The provider `{provider.name}` redirected the call; enter its final address."
    elif status in REASONS:
        return status, errors.of_engine(status, body, shape)
    else:
        text = f"The provider `{provider.name}` answered with the status {status}."
    return 502, errors.body(502, text, code="provider_error", shape=shape)
