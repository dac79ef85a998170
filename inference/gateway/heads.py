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


def split(data: bytes) -> tuple[bytes, int, int] | None:
    """The head at the beginning without the length that it states, where the body begins, and
    that length; None where there is no such head."""
    end = data.find(b"\r\n\r\n", 0, LONGEST)
    if end <= 0:
        return None
    at = data.find(b"\r\nContent-Length: ", 0, end)
    if at < 0 and (at := data.find(b"\r\ncontent-length: ", 0, end)) < 0:
        return None
    at += len(b"\r\nContent-Length: ")
    stop = data.find(b"\r\n", at)
    length = data[at:stop]
    if not length.isdigit() or len(length) > 8:
        return None
    return data[:at] + data[stop:end], end + 4, int(length)


class Heads:
    """The heads that are known, by their bytes without the length."""

    def __init__(self) -> None:
        self._known: dict[bytes, Head] = {}
        self.get = self._known.get

    def add(self, known_by: bytes, head: Head) -> None:
        if len(self._known) >= MOST:
            self._known.clear()
        self._known[known_by] = head
