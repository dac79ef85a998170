"""Engines that were ready and died: how soon the next comes, and when there is none. PURE.

Whoever served for a while comes back at once, however often that happens. What becomes ready and
dies again and again is a crash loop: `AT_ONCE` deaths within the window cost nothing, each further
one counts as a failed start, so that pauses grow and at last a person is asked.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta
from math import ceil

from inference.doctor import loop
from inference.lifecycle import ATTEMPTS

AT_ONCE = 3
MOST = AT_ONCE + ATTEMPTS  # deaths within the window; nothing follows the last of them
LEAST_WINDOW = timedelta(minutes=10)
# A window of so many starts: who dies so often within it has served for less than it has started.
STARTS = 2 * (MOST - 1)


def window(start_seconds: int | None) -> timedelta:
    """How far back deaths count, where a start takes so long."""
    return max(LEAST_WINDOW, timedelta(seconds=STARTS * (start_seconds or 0)))


def deaths(died: Iterable[datetime], now: datetime, start_seconds: int | None) -> list[datetime]:
    """Those that count, in their order, and the one now."""
    since = now - window(start_seconds)
    return [*sorted(at for at in died if since <= at), now]


def attempts(count: int) -> int:
    """The failed starts that so many deaths make."""
    return min(ATTEMPTS, max(0, count - AT_ONCE))


def sentence(counted: list[datetime], last: str) -> str:
    """Why nothing follows."""
    minutes = ceil((counted[-1] - counted[0]) / timedelta(minutes=1))
    return loop(len(counted), max(1, minutes), last)
