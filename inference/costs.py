"""What a million tokens cost here at the measured load, and from which load on that is less than
an external service's list price. PURE.

An instance costs by the hour whatever it computes, an external service by the token, so the answer
is a load: the tokens an hour, in the measured proportion of input and output, whose list price is
what the hour costs here.
"""

from dataclasses import dataclass
from datetime import date
from decimal import Decimal

import msgspec

MILLION = 10**6


class ListPrice(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a service says it takes for a million tokens; whoever enters it says where and when."""

    name: str
    input: Decimal
    output: Decimal
    currency: str  # ISO 4217
    source: str  # the address of the page that says so
    date: date  # on which it said so


@dataclass(frozen=True)
class Load:
    """What was computed in a period, and what the period cost."""

    prompt_tokens: int
    completion_tokens: int
    served_hours: Decimal
    cost: Decimal

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens

    @property
    def per_million(self) -> Decimal | None:
        """The cost of a million tokens; None without any."""
        return self.cost * MILLION / self.tokens if self.tokens else None

    @property
    def tokens_per_hour(self) -> Decimal | None:
        """While it served; None where it did not."""
        return Decimal(self.tokens) / self.served_hours if self.served_hours else None


@dataclass(frozen=True)
class Comparison:
    """The same tokens bought there."""

    price: ListPrice
    per_million: Decimal  # in the measured proportion of input and output
    break_even: Decimal | None  # tokens an hour; None: it costs nothing there

    def is_cheaper_here(self, load: Load) -> bool:
        """At the measured load."""
        return load.per_million is not None and load.per_million < self.per_million


def compare(load: Load, price: ListPrice) -> Comparison | None:
    """None where nothing was computed: the proportion of input and output is not known."""
    if not load.tokens or not load.served_hours:
        return None
    there = price.input * load.prompt_tokens + price.output * load.completion_tokens
    per_million = there / load.tokens
    hour = load.cost / load.served_hours
    return Comparison(price, per_million, hour * MILLION / per_million if per_million else None)


class BadPrices(ValueError):
    """The list of external prices cannot be read; the text says why."""
