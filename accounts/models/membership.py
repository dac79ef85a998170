from django.db import models
from django.utils.translation import gettext_lazy as _

from accounts.models.organization import Organization
from accounts.models.user import User
from accounts.roles import Permission, Role, allows
from portal.lib.ids import uuid7

ROLE_LABELS = [
    (Role.OWNER.value, _("Owner")),
    (Role.ADMIN.value, _("Admin")),
    (Role.BILLING.value, _("Billing")),
    (Role.MEMBER.value, _("Member")),
    (Role.VIEWER.value, _("Viewer")),
]


class Membership(models.Model):
    """A person in an organization, with a role."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    organization = models.ForeignKey(
        Organization, on_delete=models.CASCADE, related_name="memberships"
    )
    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="memberships")
    role = models.CharField(_("role"), max_length=16, choices=ROLE_LABELS)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["organization", "user"], name="one_membership_per_person"
            )
        ]

    def __str__(self) -> str:
        return f"{self.user} · {self.organization} · {self.role}"

    def allows(self, permission: Permission) -> bool:
        """Whether this member may do this."""
        return allows(self.role, permission)
