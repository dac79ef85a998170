"""How fast the part of requests that may miss a target is used up. PURE.

After Google's Site Reliability Workbook, chapter 5, "Alerting on SLOs", its sixth way: multiple
windows, multiple burn rates (https://sre.google/workbook/alerting-on-slos/), with the windows and
rates of its table 5-8. A burn rate of 1 uses up the allowance of 30 days in 30 days, one of 14.4
does so in two. Both windows of a row must burn: the long one so that a few slow requests wake
nobody, the short one so that an alert ends soon after its cause.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

OBJECTIVE = 0.95  # of all requests should meet the target: what a p95 says
FEWEST = 10  # events in the long window; of fewer, one slow request would be an alarm


@dataclass(frozen=True)
class Window:
    long: timedelta
    short: timedelta
    rate: float


WINDOWS = (
    Window(timedelta(hours=1), timedelta(minutes=5), 14.4),
    Window(timedelta(hours=6), timedelta(minutes=30), 6.0),
    Window(timedelta(days=3), timedelta(hours=6), 1.0),
)


@dataclass(frozen=True)
class Tally:
    """What happened in a window, and how much of it missed the target."""

    total: float
    missed: float


def burn_rate(tally: Tally, objective: float = OBJECTIVE) -> float:
    """How many times faster than it may the allowance is used up."""
    return tally.missed / tally.total / (1 - objective) if tally.total else 0.0


def burning(within: Callable[[timedelta], Tally], objective: float = OBJECTIVE) -> Window | None:
    """The first pair of windows in which the allowance burns too fast, if any."""
    for window in WINDOWS:
        long, short = within(window.long), within(window.short)
        if long.total < FEWEST:
            continue
        # A rate that just equals its threshold must not depend on a float's last bit.
        if min(burn_rate(long, objective), burn_rate(short, objective)) > window.rate + 1e-9:
            return window
    return None


def stays_below(within: Callable[[timedelta], float | None], limit: float) -> bool:
    """Whether a gauge's mean is below what it should reach, for six hours and still now. A gauge
    has no events of which a part may miss, so it has no burn rate."""
    means = [within(timedelta(hours=6)), within(timedelta(minutes=30))]
    return all(mean is not None and mean < limit for mean in means)
