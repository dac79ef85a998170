"""The most that a request may cost, before anybody has counted its tokens. PURE: integers only.

What people write has no more tokens than bytes, and no prompt is longer than the context. An answer
is as long as the request allows, else as the context. So whatever a request turns out to use, its
cost is within its bound; `within` holds even an engine to that which counts otherwise.
"""

from typing import NamedTuple

from billing.pricing import MILLION, Rates, cost
from billing.usage_record import Usage

# Tokens that a chat template may put before and around what people say: a standing system prompt,
# the day's date, how tools are to be called, roles.
TEMPLATE = 1024


class Size(NamedTuple):
    """What is known of a request when it comes in."""

    prompt_bytes: int  # of all prompts together
    prompts: int = 1
    answers: int = 1  # to each prompt
    max_tokens: int = 0  # of one answer; 0: it does not say
    context: int = 0  # tokens
    templates: bool = False  # the engine writes the prompt, from what people say
    hidden: bool = False  # its prompt holds more than was sent: pictures, what was said before


def tokens(size: Size) -> tuple[int, int]:
    """The most input tokens and the most output tokens."""
    prompt = size.prompts * size.context
    if not size.hidden:
        written = size.prompt_bytes + (TEMPLATE * size.prompts if size.templates else 0)
        prompt = min(prompt, written)
    answer = min(size.max_tokens or size.context, size.context)
    return prompt, size.prompts * size.answers * answer


def bound(prompt_tokens: int, completion_tokens: int, rates: Rates) -> int:
    """Nano-units, rounded up: the most for so many tokens, however many of them turn out to be
    cached or reasoned."""
    millionths = prompt_tokens * max(rates.prompt, rates.cached)
    millionths += completion_tokens * max(rates.completion, rates.reasoning)
    return -(-millionths // MILLION) + rates.request


def most(size: Size, rates: Rates) -> int:
    """Nano-units that the request may cost at most."""
    return bound(*tokens(size), rates)


def within(held: int, usage: Usage, rates: Rates) -> int:
    """What was used, in nano-units, and never more than was set aside for it."""
    return min(cost(usage, rates), held)
