"""Who: people, organizations, what ties them together, and the keys they call with."""

from accounts.models.api_key import ApiKey
from accounts.models.idempotency import IdempotentAnswer
from accounts.models.invitation import Invitation
from accounts.models.membership import Membership
from accounts.models.organization import Organization
from accounts.models.project import Project
from accounts.models.user import User

__all__ = [
    "ApiKey",
    "IdempotentAnswer",
    "Invitation",
    "Membership",
    "Organization",
    "Project",
    "User",
]
