"""Amounts on pages."""

from django import template

from billing import money
from billing.invoice_lines import plain

register = template.Library()


@register.filter
def minor(amount: int, currency: str) -> str:
    """Minor units as people write them: "1,234.50"."""
    return money.shown_minor(amount, currency)


@register.filter
def nano(amount: int) -> str:
    """Nano-units in units of the currency, exactly: "0.0000012"."""
    return plain(money.unit(amount))
