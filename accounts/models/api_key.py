from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.utils.translation import gettext_lazy as _

from accounts.models.organization import Organization
from accounts.models.user import User
from accounts.tenancy import TenantQuerySet
from portal.lib.ids import uuid7


class ApiKey(models.Model):
    """A secret for calling the gateway or the REST API. We keep its digest, never the key."""

    class Kind(models.TextChoices):
        API = "api", _("API key")  # calls /v1
        MANAGEMENT = "management", _("Management key")  # calls /api/v1
        PLAYGROUND = "playground", _("Playground")  # short-lived, of a user's session; calls /v1

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    organization = models.ForeignKey(
        Organization, on_delete=models.CASCADE, related_name="api_keys"
    )
    kind = models.CharField(max_length=16, choices=Kind, default=Kind.API)
    name = models.CharField(_("name"), max_length=80)
    prefix = models.CharField(max_length=12)
    last4 = models.CharField(max_length=4)
    digest = models.BinaryField(max_length=32, unique=True)
    pepper_version = models.SmallIntegerField(default=1)
    models_allowed = ArrayField(
        models.CharField(max_length=63), default=list, blank=True, verbose_name=_("models")
    )  # names of instances; empty: every instance of the organization
    created_by = models.ForeignKey(User, on_delete=models.SET_NULL, null=True, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField(_("expires"), null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True)
    last_used_at = models.DateTimeField(null=True, blank=True)

    objects = TenantQuerySet.as_manager()

    class Meta:
        ordering = ["-created_at"]

    def __str__(self) -> str:
        return f"{self.name} ({self.prefix}…{self.last4})"
