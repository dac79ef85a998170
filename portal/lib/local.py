"""Whether a request comes from a program on this machine, and through no proxy."""

import ipaddress

from django.http import HttpRequest
from django.http.request import split_domain_port

PROXY_HEADERS = ("HTTP_X_FORWARDED_FOR", "HTTP_FORWARDED", "HTTP_X_REAL_IP", "HTTP_VIA")


def is_local(request: HttpRequest) -> bool:
    """Behind a proxy everybody seems to come from here: the headers that proxies add give one away.

    The host must be this machine's own name too, or any website could give its name our address and
    read the page with its visitor's browser (DNS rebinding).
    """
    if any(header in request.META for header in PROXY_HEADERS):
        return False
    host, _ = split_domain_port(request.headers.get("host", ""))
    return _is_loopback(request.META.get("REMOTE_ADDR", "")) and (
        host == "localhost" or _is_loopback(host.strip("[]"))
    )


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False
