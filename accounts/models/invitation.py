from django.db import models
from django.utils.translation import gettext_lazy as _

from accounts.models.membership import ROLE_LABELS
from accounts.models.organization import Organization
from accounts.models.user import User
from accounts.tenancy import TenantQuerySet
from portal.lib.ids import uuid7


class Invitation(models.Model):
    """An open door into an organization for one e-mail address, sent as a link."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    organization = models.ForeignKey(
        Organization, on_delete=models.CASCADE, related_name="invitations"
    )
    email = models.EmailField(_("e-mail address"))
    role = models.CharField(_("role"), max_length=16, choices=ROLE_LABELS)
    token_digest = models.CharField(
        max_length=64, unique=True
    )  # SHA-256, hex; the link has the token
    invited_by = models.ForeignKey(User, on_delete=models.SET_NULL, null=True, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField()
    accepted_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True)

    objects = TenantQuerySet.as_manager()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["organization", "email"],
                condition=models.Q(accepted_at=None, revoked_at=None),
                name="one_open_invitation_per_address",
            )
        ]

    def __str__(self) -> str:
        return f"{self.email} → {self.organization}"
