"""The most that a request may cost, as far as its body tells. PURE; only where there is a price."""

import re

from billing.bound import Size, most
from inference.gateway.request import Parsed
from inference.gateway.router import Choice

ANSWERED = frozenset({"chat/completions", "completions", "responses", "messages"})
TEMPLATED = frozenset({"chat/completions", "responses", "messages"})
# Each of these texts is read together with the query, or with its like.
PAIRED = {
    "rerank": ("documents",),
    "score": ("text_1", "text_2", "queries", "documents", "items", "data_1", "data_2"),
}
UNKNOWN = 2**21  # tokens: the longest context that anybody offers
# Pictures and sounds come as `data:` URLs, or in a member of that name.
_data = re.compile(rb'(?<!\\)"data[":]|\\u00(?:6[14]|74|3[aA])')  # or its letters, written oddly


def most_of(parsed: Parsed, endpoint: str, choice: Choice) -> int:
    """Nano-units that it may cost at most on this way."""
    if endpoint == "messages/count_tokens":
        return choice.price.request
    pairs = parsed.texts(*PAIRED.get(endpoint, ()))
    context = context_of(choice)
    size = Size(
        prompt_bytes=parsed.size * pairs,
        prompts=parsed.texts("prompt") if endpoint == "completions" else pairs,
        answers=parsed.n,
        max_tokens=parsed.most_tokens or 0,
        context=context,
        templates=endpoint in TEMPLATED,
        hidden=parsed.needs_kept or _shows(parsed),
    )
    if endpoint not in ANSWERED:
        # Their texts are as long as the body says, however many there are; nothing is made.
        many = size._replace(answers=0, prompts=size.prompts if pairs > 1 else UNKNOWN)
        return most(many, choice.price)
    return most(size, choice.price)


def context_of(choice: Choice) -> int:
    """Tokens that a prompt and its answer may have together."""
    if choice.instance is None:
        return UNKNOWN
    lengths = [replica.context_length for replica in choice.instance.replicas]
    return max((length or UNKNOWN for length in lengths), default=UNKNOWN)


def _shows(parsed: Parsed) -> bool:
    raw = parsed.conversation
    if raw is None:
        return False
    return _data.search(bytes(raw)) is not None
