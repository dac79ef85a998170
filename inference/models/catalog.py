from django.conf import settings
from django.db import models

from accounts.models import Organization, User
from accounts.tenancy import TenantQuerySet
from portal.lib import crypto

PURPOSE = "hub-token"


class HubCredential(models.Model):
    """An organization's Hugging Face token, for gated models. Encrypted at rest, shown never."""

    organization = models.OneToOneField(
        Organization, on_delete=models.CASCADE, primary_key=True, related_name="hub_credential"
    )
    encrypted = models.BinaryField()
    set_by = models.ForeignKey(User, on_delete=models.SET_NULL, null=True, related_name="+")
    set_at = models.DateTimeField(auto_now=True)

    objects = TenantQuerySet.as_manager()

    def __str__(self) -> str:
        return f"hub token of {self.organization}"

    @classmethod
    def keep(cls, organization: Organization, token: str, by: User) -> "HubCredential":
        """Store the token in place of any former one."""
        encrypted = crypto.encrypt(token, key=settings.SECRET_KEY, purpose=PURPOSE)
        credential, _ = cls.objects.update_or_create(
            organization=organization, defaults={"encrypted": encrypted, "set_by": by}
        )
        return credential

    @classmethod
    def token_of(cls, organization: Organization) -> str | None:
        """The token in clear, or None where there is none. Raises crypto.UnreadableSecret."""
        credential = cls.objects.filter(organization=organization).first()
        if credential is None:
            return None
        return crypto.decrypt(bytes(credential.encrypted), key=settings.SECRET_KEY, purpose=PURPOSE)
