"""One process's slice of one limit. PURE."""

from collections import deque
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from inference.gateway.tables import Limit, Meter, Window

if TYPE_CHECKING:
    from inference.gateway.limits import Entry

NEVER = float("inf")
MINUTE, DAY = 60, 86_400


def bounds(window: Window, now: float) -> tuple[int, float]:
    """When the window of this moment began, and when it ends: seconds since 1970-01-01 UTC."""
    if window is Window.MINUTE:
        start = int(now) // MINUTE * MINUTE
        return start, start + MINUTE
    if window is Window.DAY:
        start = int(now) // DAY * DAY
        return start, start + DAY
    if window is Window.MONTH:
        first = datetime.fromtimestamp(now, UTC).replace(
            day=1, hour=0, minute=0, second=0, microsecond=0
        )
        following = (first + timedelta(days=32)).replace(day=1)
        return int(first.timestamp()), following.timestamp()
    return 0, NEVER


class Lease:
    """This process's slice of one limit in its present window."""

    __slots__ = (
        "asked_at",
        "denied",
        "counts_at_end",
        "end",
        "granted",
        "is_slots",
        "is_tokens",
        "left",
        "limit",
        "lines",
        "low",
        "marked",
        "marked_at",
        "recalled",
        "start",
        "told_for",
        "turns",
        "unbacked",
        "used",
        "waiting",
    )
    is_credit = False

    def __init__(self, limit: Limit, now: float) -> None:
        self.limit = limit
        self.is_tokens = limit.meter is Meter.TOKENS
        self.is_slots = limit.meter is Meter.CONCURRENT
        self.counts_at_end = limit.meter is Meter.SPEND
        self.waiting: deque[Entry] = deque()
        self.turns: dict[bytes, None] = {}  # keys that had theirs while others waited, in order
        self.recalled = False  # others want it: what is free goes back at once
        self.unbacked = 0  # used without the meter's word
        self.begin(now)

    def begin(self, now: float) -> None:
        """The window of this moment, of which nothing is held yet."""
        self.start, self.end = bounds(self.limit.window, now)
        self.granted = self.used = 0
        self.left = self.limit.amount  # that the meter has not granted to anybody
        self.denied = False  # there is no more of it in this window
        self.asked_at = 0.0  # 0: no answer is due
        self.low = 0  # units; with less it is renewed
        self.told_for, self.lines = -1, b""  # seconds to its end, and the header lines for them
        self.marked, self.marked_at = 0, now  # what was used when it was asked for last

    @property
    def free(self) -> int:
        return self.granted - self.used

    def refuses(self, now: float) -> bool:
        """Whether the meter has said that there is no more of it."""
        return self.denied

    def need(self, tokens: int, nano: int = 0) -> int:
        """Of what it counts, for a request that may use so many tokens and cost so much."""
        return (tokens or 1) if self.is_tokens else 1
