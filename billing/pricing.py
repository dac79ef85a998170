"""What a request, and what time on GPUs, costs. PURE: integers, in nano-units of the currency.

Cached tokens are a part of the prompt's and reasoning tokens a part of the completion's: each token
is priced once. Rates are for a million tokens, for a request, and for an hour. A discount is in
basis points (hundredths of a percent) of the whole. What is free in a month goes first: tokens, in
the order in which they are named here, then an amount. Each price is rounded once, half to even.
"""

from typing import NamedTuple, Protocol

from billing.usage_record import Usage

MILLION = 1_000_000
HOUR = 3600  # seconds
WHOLE = 10_000  # basis points


class Rates(Protocol):
    """Nano-units for a million tokens of each kind, and for a request."""

    @property
    def prompt(self) -> int: ...
    @property
    def cached(self) -> int: ...
    @property
    def completion(self) -> int: ...
    @property
    def reasoning(self) -> int: ...
    @property
    def request(self) -> int: ...


class Free(NamedTuple):
    """What need not be paid for: tokens, and nano-units."""

    tokens: int = 0
    nano: int = 0


NOTHING = Free()


def cost(usage: Usage, rates: Rates, discount: int = 0) -> int:
    """Nano-units for one request, where nothing is free."""
    return charge(usage, rates, discount)[0]


def charge(usage: Usage, rates: Rates, discount: int = 0, free: Free = NOTHING) -> tuple[int, Free]:
    """Nano-units for one request, and what of the free was taken for it.

    A request of which no token was counted costs nothing: it was refused, or brought nothing. What
    has no rate takes nothing of what is free.
    """
    millionths, left = 0, free.tokens
    for count, rate in (
        (usage.prompt_tokens - usage.cached_tokens, rates.prompt),
        (usage.cached_tokens, rates.cached),
        (usage.completion_tokens - usage.reasoning_tokens, rates.completion),
        (usage.reasoning_tokens, rates.reasoning),
    ):
        if rate and count:
            given = min(count, left)
            left -= given
            millionths += (count - given) * rate
    if usage.prompt_tokens or usage.completion_tokens:
        millionths += rates.request * MILLION
    nano = _rounded(millionths * (WHOLE - discount), MILLION * WHOLE)
    given_nano = min(nano, free.nano)
    return nano - given_nano, Free(free.tokens - left, given_nano)


def time_charge(
    seconds: int, count: int, rate: int, discount: int = 0, free: Free = NOTHING
) -> tuple[int, Free]:
    """Nano-units for that time on so many GPUs, at a rate for an hour of one; and what of the free
    amount was taken for it."""
    nano = _rounded(seconds * count * rate * (WHOLE - discount), HOUR * WHOLE)
    given = min(nano, free.nano)
    return nano - given, Free(0, given)


def _rounded(number: int, by: int) -> int:
    """number / by, half to even; both are not negative."""
    whole, rest = divmod(number, by)
    if 2 * rest > by or (2 * rest == by and whole % 2):
        whole += 1
    return whole
