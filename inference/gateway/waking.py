"""Requests that wait for an instance to wake. PURE.

Each instance that sleeps, or is on its way up from its sleep, has a line of requests that are held.
While it is asleep the meter of this machine is asked to wake it, again with back-off as long as
somebody waits; the database decides who was first, so it wakes once. When the tables change so that
the wait is over, one way or the other, the line is dissolved in turn between keys, and each request
looks for its way anew.
"""

from collections.abc import Callable, Mapping
from typing import Protocol

from inference.gateway.errors import Refusal
from inference.gateway.limits import in_turn
from inference.gateway.router import RETRY_AFTER, sleeps
from inference.gateway.tables import Instance

AT_LEAST = 100  # requests that each process holds for an instance; more if its waiting line has
SHARE = 2  # a key may hold so many times what is left free: others always find a place
FIRST_PAUSE = 1.0  # seconds until the meter is asked again
LONGEST_PAUSE = 30.0
LATE = "this takes longer than usual"

STAGES = {
    "queued": "waiting for room",
    "installing_engine": "installing the engine",
    "downloading": "downloading the model",
    "starting": "starting the engine",
    "loading": "loading the model",
    "warming": "warming up",
}
STARTS = "starting"  # where nothing more particular is known


class Tables(Protocol):
    """What `snapshot` keeps."""

    @property
    def instances_by_id(self) -> Mapping[bytes, Instance]: ...


class Waiter:
    """A request that is held; `go_on` is called when its wait is over."""

    __slots__ = ("go_on", "instance_id", "key_id")

    def __init__(self, instance_id: bytes, key_id: bytes, go_on: Callable[[], None]) -> None:
        self.instance_id = instance_id
        self.key_id = key_id
        self.go_on = go_on


class Line:
    """Who waits for one instance."""

    __slots__ = ("ask_at", "pause", "since", "waiting")

    def __init__(self, now: float) -> None:
        self.waiting: dict[Waiter, None] = {}  # in the order in which they came
        self.since = now  # seconds since 1970-01-01 UTC, as all times here
        self.ask_at = 0.0  # not before
        self.pause = FIRST_PAUSE


class Waking:
    """All lines of a process."""

    def __init__(
        self, tables: Tables, wake: Callable[[bytes], bool], now: Callable[[], float]
    ) -> None:
        """`wake` asks for an instance; whether somebody heard it."""
        self._tables = tables
        self._wake = wake
        self._now = now
        self._lines: dict[bytes, Line] = {}

    @property
    def waiting(self) -> int:
        """Requests that are held."""
        return sum(len(line.waiting) for line in self._lines.values())

    def hold(self, instance: Instance, key_id: bytes, go_on: Callable[[], None]) -> Waiter:
        """Take a place in the line of this instance. Raises Refusal."""
        now = self._now()
        line = self._lines.get(instance.id) or Line(now)
        free = max(instance.queue_size, AT_LEAST) - len(line.waiting)
        if sum(other.key_id == key_id for other in line.waiting) >= SHARE * free:
            raise Refusal(
                429,
                f"Too many requests wait for the instance `{instance.name}` to wake.",
                code="rate_limit_exceeded",
                retry_after=self._retry_after(instance, line.since),
                scope="instance",
            )
        waiter = Waiter(instance.id, key_id, go_on)
        line.waiting[waiter] = None
        self._lines[instance.id] = line
        self._ask(instance, line, now)
        return waiter

    def forget(self, waiter: Waiter) -> None:
        """It waits no more."""
        line = self._lines.get(waiter.instance_id)
        if line is not None:
            line.waiting.pop(waiter, None)
            if not line.waiting:
                del self._lines[waiter.instance_id]

    def changed(self) -> None:
        """The tables are new: whoever's wait is over goes on."""
        for instance_id, line in list(self._lines.items()):
            instance = self._tables.instances_by_id.get(instance_id)
            if instance is not None and sleeps(instance):
                continue
            del self._lines[instance_id]
            for waiter in in_turn(line.waiting, {}):
                waiter.go_on()

    def look(self) -> None:
        """Called each second: ask again for what sleeps on."""
        now = self._now()
        for instance_id, line in self._lines.items():
            instance = self._tables.instances_by_id.get(instance_id)
            if instance is not None:
                self._ask(instance, line, now)

    def _ask(self, instance: Instance, line: Line, now: float) -> None:
        if instance.asleep and now >= line.ask_at and self._wake(instance.id):
            line.ask_at = now + line.pause
            line.pause = min(2 * line.pause, LONGEST_PAUSE)

    # what those who wait are told

    def comment(self, waiter: Waiter) -> bytes:
        """A comment of the event stream, which programs skip and people may read."""
        instance, since = self._of(waiter)
        doing, left = STARTS, ""
        if instance is not None:
            doing = STAGES.get(instance.stage, STARTS)
            if instance.typical_start_seconds is not None:
                seconds = self._seconds_left(instance, since)
                left = f", about {seconds} s left" if seconds > 0 else f", {LATE}"
        return f": waking — {doing}{left}\n\n".encode()

    def too_long(self, waiter: Waiter) -> Refusal:
        """For who has waited as long as it may."""
        instance, since = self._of(waiter)
        name = "" if instance is None else f" `{instance.name}`"
        return Refusal(
            503,
            f"The instance{name} is still waking up. Try again in a moment.",
            code="instance_waking",
            retry_after=RETRY_AFTER if instance is None else self._retry_after(instance, since),
        )

    def _of(self, waiter: Waiter) -> tuple[Instance | None, float]:
        line = self._lines.get(waiter.instance_id)
        since = self._now() if line is None else line.since
        return self._tables.instances_by_id.get(waiter.instance_id), since

    def _seconds_left(self, instance: Instance, since: float) -> int:
        """By how long it usually takes; not above 0 where it takes longer this time."""
        began = instance.woken_at or since
        return round((instance.typical_start_seconds or 0) - (self._now() - began))

    def _retry_after(self, instance: Instance, since: float) -> int:
        if instance.typical_start_seconds is None:
            return RETRY_AFTER
        return max(RETRY_AFTER, self._seconds_left(instance, since))
