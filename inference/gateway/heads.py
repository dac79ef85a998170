"""Heads that were read before. PURE.

A program sends the same head with each of its calls, save the length of the body; an SDK's has some
fifteen headers. One that was read with suspicion and found good is known by its bytes from then on
and need not be read again. Whether its key still is good is asked each time.
"""

from typing import NamedTuple

from inference.gateway.paths import Call

MOST = 4096  # heads that are kept, of keys that were good
LONGEST = 2048  # bytes


class Head(NamedTuple):
    """What a head says, where it says nothing of its own request."""

    method: bytes
    call: Call
    http_minor: str
    keep_alive: bool
    origin: str
    authorization: bytes
    digest: bytes
    tag: str


def split(data: bytes) -> tuple[bytes, int, bytes] | None:
    """The head at the beginning without the length that it states, that length, and what follows
    the head; None where there is no such head."""
    head, end, body = data.partition(b"\r\n\r\n")
    if not end or len(head) > LONGEST:
        return None
    before, name, rest = head.partition(b"\r\nContent-Length: ")
    if not name:
        before, name, rest = head.partition(b"\r\ncontent-length: ")
    length, _, behind = rest.partition(b"\r\n")
    if not length.isdigit() or len(length) > 8:
        return None
    return before + name + b"\r\n" + behind, int(length), body


class Heads:
    """The heads that are known, by their bytes without the length."""

    def __init__(self) -> None:
        self._known: dict[bytes, Head] = {}
        self.get = self._known.get

    def add(self, known_by: bytes, head: Head) -> None:
        if len(self._known) >= MOST:
            self._known.clear()
        self._known[known_by] = head
