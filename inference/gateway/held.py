"""A request that is held while its instance wakes, and what its client hears meanwhile.

A wait that is short may still end in any status. When it has lasted a while, the client of a stream
gets the head of its answer and then comments, which keep programs and proxies from giving up; from
there on what goes wrong is an event of the stream.
"""

import time
from typing import TYPE_CHECKING

from inference.gateway import errors, response
from inference.gateway.bill import Bill
from inference.gateway.errors import Refusal
from inference.gateway.intake import MAX_BUFFERED
from inference.gateway.tables import Instance, Key
from inference.gateway.waking import Waiter

if TYPE_CHECKING:
    from inference.gateway.connection import GatewayProtocol

FIRST_BEAT = 10.0  # seconds; proxies give up after 30 or 60 without a byte
BEAT_EVERY = 5.0
STREAMS_WAIT = 1800.0  # seconds that a stream may wait: its client hears of it


class Held(Bill):
    """One request that may be held. Times are monotonic seconds."""

    __slots__ = ("_beat_at", "_held_bytes", "_held_since", "_waiter")

    def __init__(self, protocol: "GatewayProtocol") -> None:
        super().__init__(protocol)
        self._waiter: Waiter | None = None  # while it is held
        self._held_since = 0.0  # 0: it never was
        self._held_bytes = 0
        self._beat_at = 0.0

    def hold(self, instance: Instance, key: Key, size: int) -> None:
        """Wait until the instance has woken; `size` is of the body. Raises Refusal."""
        if self.protocol.last or self.runtime.draining:
            raise _restarting()
        if self.runtime.buffered + size > MAX_BUFFERED:
            raise Refusal(503, "Too many requests wait. Try again.", retry_after=2)
        self._waiter = self.runtime.waking.hold(instance, key.id, self._woken)
        self.runtime.buffered += size
        self._held_bytes = size
        if not self._held_since:
            self._held_since = time.monotonic()
            self._beat_at = self._held_since + FIRST_BEAT

    def let_go(self) -> None:
        """It is held no more."""
        waiter, self._waiter = self._waiter, None
        if waiter is not None:
            self.runtime.waking.forget(waiter)
            self.runtime.buffered -= self._held_bytes

    def _woken(self) -> None:
        if self._waiter is None:
            return  # it has gone meanwhile
        self.let_go()
        self.received = time.monotonic()  # the wait is no part of what the engine takes
        self.go_on()

    def go_on(self) -> None:
        """The wait is over: look for a way anew."""
        raise NotImplementedError

    def end_held(self, refusal: Refusal) -> None:
        """The wait has led to nothing."""
        raise NotImplementedError

    def drain(self) -> None:
        """The process ends: who waits is to ask another one."""
        if self._waiter is not None:
            self.end_held(_restarting())

    def look_held(self, waiter: Waiter, now: float, *, stream: bool) -> None:
        """Called each second while it is held."""
        most = STREAMS_WAIT if stream else self.runtime.wake_wait
        if now > self._held_since + most:
            self.end_held(self.runtime.waking.too_long(waiter))
        elif stream and now >= self._beat_at and not self.protocol.write_paused:
            if not self.response_started:
                self.write_head(200, response.EVENTS)
            self.write_chunk(self.runtime.waking.comment(waiter))
            self._beat_at = now + BEAT_EVERY

    def write_refusal(self, refusal: Refusal) -> None:
        if self.response_started:  # by the head of a stream, in which it has waited
            self.write_late(refusal.body(self.call.shape))
        else:
            super().write_refusal(refusal)

    def write_late(self, error: bytes) -> None:
        """An error's body, as the event that ends a stream which had no other."""
        self.keep_alive = False
        self.write_last(errors.as_event(error, self.call.shape))


def _restarting() -> Refusal:
    return Refusal(
        503, "The gateway is restarting. Try again in a moment.", code="restarting", retry_after=1
    )
