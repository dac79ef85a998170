"""Forms as Stripe takes them: `line_items[0][price_data][currency]=usd`."""

from typing import Any
from urllib.parse import parse_qsl

from billing.localstripe.errors import ApiError

DEEPEST = 10


def decoded(form: str) -> dict[str, Any]:
    """Nested dicts; of a list, the keys are its indices. Raises ApiError."""
    nested: dict[str, Any] = {}
    for name, value in parse_qsl(form, keep_blank_values=True):
        keys = name.replace("]", "").split("[")
        if len(keys) > DEEPEST or name.count("[") != name.count("]"):
            raise ApiError(f"Invalid parameter name: {name[:100]}")
        inner = nested
        for key in keys[:-1]:
            inner = inner.setdefault(key or str(len(inner)), {})
            if not isinstance(inner, dict):
                raise ApiError(f"Invalid object: {name[:100]}", param=keys[0])
        inner[keys[-1] or str(len(inner))] = value
    return nested
