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
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052
# Global to Python: what was private once, and where some clouds tell machines of themselves.
_INSIDE = tuple(map(ipaddress.ip_network, ("fec0::/10", "192.0.0.0/24", "168.63.129.16/32")))

Resolve = Callable[[str, int], Awaitable[list[str]]]


class NotPublic(OSError):
    """The host's name leads into a private network."""


@cache
def _tls() -> ssl.SSLContext:
    return ssl.create_default_context()


def is_public(address: str) -> bool:
    """Whether this address is on the internet, whatever way it is written."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(found, ipaddress.IPv6Address):
        found = _ipv4_within(found) or found
    if found.is_multicast or found.is_reserved or any(found in network for network in _INSIDE):
        return False
    return found.is_global


def _ipv4_within(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The address that such a one leads to."""
    if address in _NAT64:  # how names look in networks without IPv4
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour


async def resolve(host: str, port: int) -> list[str]:
    """The addresses of a name. Raises OSError."""
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError as error:  # a label that is empty or too long
        raise OSError(f"{host} is no host's name") from error
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
        problem = OSError(f"{host} has no address")
        for address in addresses:
            try:
                _, upstream = await pool.loop.create_connection(
                    lambda: Upstream(pool),
                    address,
                    port,
                    ssl=context or _tls(),
                    server_hostname=host,
                )
            except OSError as error:  # no way to IPv6 from here, say; the next may be reached
                problem = error
            else:
                return upstream
        raise problem

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
            parts.netloc.rpartition("@")[2].encode(),
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
    elif 300 <= status < 400:
        text = f"The provider `{provider.name}` redirected the call; enter its final address."
    elif status in REASONS and status >= 400:
        return status, errors.of_engine(status, body, shape)
    else:
        text = f"The provider `{provider.name}` answered with the status {status}."
    return 502, errors.body(502, text, code="provider_error", shape=shape)
