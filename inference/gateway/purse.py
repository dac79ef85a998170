"""One process's slice of an organization's credit. PURE.

It counts nano-units. A request enters with its bound set aside out of the slice, and its end puts
back what it did not cost, so what is spent is never more than was granted; and what was granted has
been taken from the balance before (`billing.holds`). There is no other way in: a process whose
meter is away lets nobody in beyond what it holds.

The slice is looked after once a second, off the way of requests. It is as large as what is spent in
`OUTLASTS` seconds, so that a database that is away that long is not noticed, and goes back when
nobody comes.
"""

from decimal import Decimal

from billing.money import NANO, decimals
from inference.gateway.errors import Refusal
from inference.gateway.lease import Lease
from inference.gateway.tables import Credit

CREDIT = -1  # in place of a window's beginning
OUTLASTS = 90.0  # seconds of spending at the present rate that it should hold, at least
ALSO = 16  # and so many of the dearest of late
IDLE = 600.0  # seconds without a request, after which all of it goes back
IDLE_WHERE_SCARCE = 10.0  # where others could use it
SCARCE = 4  # it is, where nobody holds so many times as much
PAUSE = 5.0  # seconds until more is asked for where there was little
DENIED_FOR = 1.0  # seconds that the word holds that there is no more: money may come in


class Purse(Lease):
    __slots__ = (
        "asked_for",
        "denied_until",
        "largest",
        "lacking",
        "looked_at",
        "looked_spent",
        "not_before",
        "rate",
        "spent",
        "touched",
    )
    limit: Credit
    is_credit = True

    def __init__(self, credit: Credit, now: float) -> None:
        super().__init__(credit, now)
        self.spent = 0  # of what is used: by requests that have ended
        self.rate = 0.0  # nano-units a second
        self.largest = 0  # the most that a request of late might have cost
        self.touched = self.looked_at = now
        self.looked_spent = 0
        self.asked_for = 0
        self.lacking = 0  # of what was asked for, what somebody waits for
        self.denied_until = 0.0
        self.not_before = 0.0  # no more is asked for unless somebody waits for it

    def begin(self, now: float) -> None:
        super().begin(now)
        self.start = CREDIT
        self.left = 0

    def need(self, tokens: int, nano: int = 0) -> int:
        return nano

    def refuses(self, now: float) -> bool:
        return self.denied and now < self.denied_until

    def open_for(self, nano: int, now: float) -> bool:
        """Whether that much can be set aside at once."""
        self.touched = now
        if nano > self.largest:
            self.largest = nano
        return self.granted - self.used >= nano and not self.waiting

    def settle(self, nano: int, cost: int) -> None:
        """A request for which so much was set aside has ended, and cost so much of it."""
        self.used -= nano - cost
        self.spent += cost

    def is_low(self, now: float) -> bool:
        """Whether it cannot wait for the next look."""
        return not self.asked_at and now >= self.not_before and 2 * self.free < self.target

    @property
    def target(self) -> int:
        """Nano-units that should be free at any time."""
        return int(OUTLASTS * self.rate) + ALSO * self.largest

    def want(self, needed: int, now: float) -> int:
        """How much to ask for where `needed` is waited for; noted until the answer comes."""
        self.denied = False
        self.lacking = max(needed - self.free, 0)
        self.asked_for = max(needed + 2 * self.target - self.free, 1)
        return self.asked_for

    def answered(self, units: int, now: float) -> None:
        if units < self.asked_for // 2:
            self.not_before = now + PAUSE
        self.denied = units < self.lacking
        self.denied_until = now + DENIED_FOR

    def look(self, now: float) -> tuple[bool, int]:
        """Whether to ask for more, and what to hand back. Called each second."""
        seconds = now - self.looked_at
        if seconds > 0:
            newest = (self.spent - self.looked_spent) / seconds
            self.rate = max(newest, self.rate * 0.97)  # what was a while ago may come again
            self.looked_at, self.looked_spent = now, self.spent
        self.largest -= self.largest >> 6
        free, idle = self.free, now - self.touched
        if free > 0 and not self.waiting and not self.asked_at:
            scarce = self.left < SCARCE * free
            if idle > (IDLE_WHERE_SCARCE if scarce else IDLE):
                return False, free
            if free > 4 * self.target:
                return False, free - 2 * self.target
        more = free < self.target and idle < IDLE_WHERE_SCARCE and now >= self.not_before
        return more and not self.asked_at, 0


def refusal(purse: Purse, nano: int) -> Refusal:
    """Why a request that may cost so much is not let in."""
    credit, there = purse.limit, max(purse.free + purse.left, 0)
    if purse.asked_at:
        return Refusal(
            503,
            "What the organization may spend cannot be asked for right now. Try again in a moment.",
            code="credit_unavailable",
            retry_after=2,
            scope=credit.scope,
        )
    if there < nano <= there + purse.used - purse.spent and not credit.suspended:
        return Refusal(
            429,
            "What is left of the organization's credit is set aside for its requests that are "
            "under way. Try again when one of them has ended.",
            code="rate_limit_exceeded",
            retry_after=1,
            scope=credit.scope,
        )
    what, how = ("credit line", "Ask your operator for a higher one")
    if not credit.postpaid:
        what, how = ("credit", "Top it up")
    if credit.suspended or there <= 0:
        message = f"The {what} of this organization is used up. {how}: {credit.page}"
    else:
        left, most = shown(there, credit.currency), shown(nano, credit.currency)
        message = (
            f"The {what} of this organization is {left}, and this request may cost up to {most}. "
            f"Set max_tokens lower, so that it may cost less. {how}: {credit.page}"
        )
    return Refusal(
        429,
        message,
        code="insufficient_quota",
        headers=b"X-Should-Retry: false\r\n",
        scope=credit.scope,
    )


def shown(nano: int, currency: str) -> str:
    """An amount to the last nano-unit, without zeros at its end that say nothing."""
    whole, _, part = f"{Decimal(nano) / NANO:.9f}".partition(".")
    part = part.rstrip("0").ljust(decimals(currency), "0")
    return f"{currency} {whole}.{part}" if part else f"{currency} {whole}"
