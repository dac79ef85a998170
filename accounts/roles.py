"""What each role may do. PURE: one table, read by pages, REST and the websocket alike."""

from enum import StrEnum


class Role(StrEnum):
    OWNER = "owner"
    ADMIN = "admin"
    BILLING = "billing"
    MEMBER = "member"
    VIEWER = "viewer"


class Permission(StrEnum):
    VIEW = "view"  # the organization, its catalogue, instances and their events and logs
    USE = "use"  # playground and own API keys
    MANAGE_INSTANCES = "manage_instances"
    MANAGE_KEYS = "manage_keys"  # everyone's keys, and management keys
    VIEW_USAGE = "view_usage"
    VIEW_BILLING = "view_billing"  # balance, ledger, budgets
    MANAGE_BILLING = "manage_billing"
    MANAGE_MEMBERS = "manage_members"
    MANAGE_ORGANIZATION = "manage_organization"  # name, hub token, deletion


_EVERYTHING = frozenset(Permission)

PERMISSIONS: dict[Role, frozenset[Permission]] = {
    Role.OWNER: _EVERYTHING,
    Role.ADMIN: _EVERYTHING - {Permission.MANAGE_BILLING},
    Role.BILLING: frozenset(
        {
            Permission.VIEW,
            Permission.VIEW_USAGE,
            Permission.VIEW_BILLING,
            Permission.MANAGE_BILLING,
        }
    ),
    Role.MEMBER: frozenset(
        {
            Permission.VIEW,
            Permission.USE,
            Permission.MANAGE_INSTANCES,
            Permission.VIEW_USAGE,
        }
    ),
    Role.VIEWER: frozenset({Permission.VIEW, Permission.VIEW_USAGE}),
}

# Nobody hands out more than they hold: an admin cannot make an owner.
RANK: dict[Role, int] = {
    Role.VIEWER: 0,
    Role.BILLING: 1,
    Role.MEMBER: 1,
    Role.ADMIN: 2,
    Role.OWNER: 3,
}


def allows(role: str, permission: Permission) -> bool:
    """Whether a member with this role may do this."""
    return permission in PERMISSIONS[Role(role)]


def may_grant(granter: str, role: str) -> bool:
    """Whether a member with role `granter` may give, change or take away `role`."""
    if not allows(granter, Permission.MANAGE_MEMBERS):
        return False
    return RANK[Role(granter)] >= RANK[Role(role)]
