"""The origin of a website as its browser names it: `https://app.example`. PURE.

https://html.spec.whatwg.org/multipage/browsers.html#ascii-serialisation-of-an-origin
"""

import re
from urllib.parse import urlsplit

ANY = "*"
_DEFAULT_PORTS = {"http": 80, "https": 443}
# Programs that are no website and yet live in a browser's engine.
_PROGRAMS = frozenset({"chrome-extension", "moz-extension", "capacitor", "ionic", "tauri"})
_HOST = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,251}[a-z0-9])?|\[[0-9a-f:.]+\]")


def normal(text: str) -> str | None:
    """What a browser would send for this, or None where it is no origin. `*` stands for any."""
    text = text.strip()
    if text == ANY:
        return ANY
    try:
        parts = urlsplit(text)
        host, port = _ascii(parts.hostname or ""), parts.port
    except ValueError:
        return None
    if parts.scheme not in {*_DEFAULT_PORTS, *_PROGRAMS} or not _HOST.fullmatch(host):
        return None
    if parts.path not in {"", "/"} or parts.query or parts.fragment or "@" in parts.netloc:
        return None
    shown = "" if port in {None, _DEFAULT_PORTS.get(parts.scheme)} else f":{port}"
    return f"{parts.scheme}://{host}{shown}"


def _ascii(host: str) -> str:
    """`bücher.example` → `xn--bcher-kva.example`. Raises ValueError."""
    if ":" in host:
        return f"[{host}]"
    return host if host.isascii() else host.encode("idna").decode()
