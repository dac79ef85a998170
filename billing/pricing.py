"""What a request costs. PURE: integers only, in nano-units (1e-9) of the currency.

Cached tokens are a part of the prompt's and reasoning tokens a part of the completion's: each token
is priced once. The rates are for a million tokens; the sum is rounded once, half to even.
"""

from typing import Protocol

from billing.usage_record import Usage

MILLION = 1_000_000


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


def cost(usage: Usage, rates: Rates) -> int:
    """Nano-units for one request."""
    millionths = (
        (usage.prompt_tokens - usage.cached_tokens) * rates.prompt
        + usage.cached_tokens * rates.cached
        + (usage.completion_tokens - usage.reasoning_tokens) * rates.completion
        + usage.reasoning_tokens * rates.reasoning
    )
    return _rounded(millionths, MILLION) + rates.request


def _rounded(number: int, by: int) -> int:
    """number / by, half to even; both are not negative."""
    whole, rest = divmod(number, by)
    if 2 * rest > by or (2 * rest == by and whole % 2):
        whole += 1
    return whole
