from django import template

from accounts.models import Membership
from accounts.roles import Permission

register = template.Library()


@register.filter
def allows(membership: Membership, permission: str) -> bool:
    """Whether to show what only members with this permission may open."""
    return membership.allows(Permission(permission))
