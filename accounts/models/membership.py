from django.core.exceptions import PermissionDenied
from django.db import models, transaction
from django.utils.translation import gettext_lazy as _

from accounts.models.organization import Organization
from accounts.models.user import User
from accounts.roles import Permission, Role, allows, may_grant
from accounts.tenancy import TenantQuerySet
from portal.lib.errors import Conflict
from portal.lib.ids import uuid7

ROLE_LABELS = [
    (Role.OWNER.value, _("Owner")),
    (Role.ADMIN.value, _("Admin")),
    (Role.BILLING.value, _("Billing")),
    (Role.MEMBER.value, _("Member")),
    (Role.VIEWER.value, _("Viewer")),
]
ROLE_MEANINGS = {
    Role.OWNER: _("Everything, billing and other owners included."),
    Role.ADMIN: _("Everything but billing."),
    Role.BILLING: _("Sees usage and manages billing."),
    Role.MEMBER: _("Runs instances, uses the playground, makes API keys."),
    Role.VIEWER: _("Sees instances and usage, changes nothing."),
}


class Membership(models.Model):
    """A person in an organization, with a role."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    organization = models.ForeignKey(
        Organization, on_delete=models.CASCADE, related_name="memberships"
    )
    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="memberships")
    role = models.CharField(_("role"), max_length=16, choices=ROLE_LABELS)
    created_at = models.DateTimeField(auto_now_add=True)

    objects = TenantQuerySet.as_manager()

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

    def grantable(self) -> list[Role]:
        """The roles that this member may give to others."""
        return [role for role in Role if may_grant(self.role, role)]

    def may_manage(self, other: "Membership") -> bool:
        """Whether this member may change or remove the other one."""
        return may_grant(self.role, other.role)

    def change_role(self, role: Role, by: "Membership") -> None:
        """Give another role. Keys and invitations that the new role could not make end at once.

        Raises PermissionDenied, or Conflict where no owner would be left.
        """
        with transaction.atomic():
            self._as_they_are_now(by)
            if not (by.may_manage(self) and may_grant(by.role, role)):
                raise PermissionDenied(_("You cannot give or take away this role."))
            if role != Role.OWNER:
                self._keep_an_owner()
            self.role = role
            self.save(update_fields=["role"])
            self._end_what_is_beyond(role)

    def remove(self, by: "Membership") -> None:
        """Take this person out of the organization; their keys and invitations end at once.

        Everyone may leave; to remove others takes the right to grant their role.
        Raises PermissionDenied, or Conflict where no owner would be left.
        """
        with transaction.atomic():
            self._as_they_are_now(by)
            if by.id != self.id and not by.may_manage(self):
                raise PermissionDenied(_("You cannot remove this member."))
            self._keep_an_owner()
            self._end_what_is_beyond(None)
            self.delete()

    def _as_they_are_now(self, by: "Membership") -> None:
        """Both roles as they are, and stay until the transaction ends.

        What a request has read may be old: two owners who leave in the same moment must not both
        see the other one stay, nor an admin remove whoever has just become an owner.
        """
        Organization.objects.lock(self.organization_id)
        now = Membership.objects.select_for_update(no_key=True).in_bulk([self.id, by.id])
        if by.id not in now:
            raise PermissionDenied
        if self.id not in now:
            raise Conflict(_("%s is no longer a member.") % self.user.email)
        by.role, self.role = now[by.id].role, now[self.id].role

    def _keep_an_owner(self) -> None:
        others = Membership.objects.filter(organization=self.organization_id, role=Role.OWNER)
        if self.role == Role.OWNER and not others.exclude(id=self.id).exists():
            raise Conflict(_("An organization needs an owner. Make somebody else the owner first."))

    def _end_what_is_beyond(self, role: Role | None) -> None:
        # Else whoever is shown out by one door comes in again by one that they left open.
        self.organization.api_keys.revoke_beyond(self.user, self.organization, role)
        self.organization.invitations.revoke_beyond(self.user, self.organization, role)
