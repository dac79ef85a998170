from django import template

from billing import money

register = template.Library()


@register.filter
def shown(nano: int, currency: str) -> str:
    """Rounded to what is paid: "1,250.00 USD"."""
    return money.shown(nano, currency)


@register.filter
def exact(nano: int, currency: str) -> str:
    """With as many digits as it has: "0.0000035 USD"."""
    return money.exact(nano, currency)
