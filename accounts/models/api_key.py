from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Self

from django.conf import settings
from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from accounts import keys
from accounts.models.organization import Organization
from accounts.models.user import User
from accounts.tenancy import TenantQuerySet
from portal.lib.ids import uuid7

PLAYGROUND_LIFE = timedelta(hours=1)
RENEW_BEFORE = timedelta(minutes=10)


class ApiKeyQuerySet(TenantQuerySet):
    def usable(self) -> Self:
        """Neither revoked nor expired."""
        now = timezone.now()
        return self.filter(revoked_at=None).filter(
            models.Q(expires_at=None) | models.Q(expires_at__gt=now)
        )


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

    objects = ApiKeyQuerySet.as_manager()

    class Meta:
        ordering = ["-created_at"]

    def __str__(self) -> str:
        return f"{self.name} ({self.prefix}…{self.last4})"

    @classmethod
    def issue(
        cls,
        organization: Organization,
        by: User,
        name: str,
        *,
        kind: str = Kind.API,
        models_allowed: Iterable[str] = (),
        expires_at: datetime | None = None,
    ) -> tuple["ApiKey", str]:
        """Make a key. The second part is the key itself: show it once, we cannot show it again."""
        plain = keys.generate()
        prefix, last4 = keys.visible(plain)
        key = cls.objects.create(
            organization=organization,
            kind=kind,
            name=name,
            prefix=prefix,
            last4=last4,
            digest=keys.digest(plain, settings.API_KEY_PEPPER),
            pepper_version=keys.PEPPER_VERSION,
            models_allowed=list(models_allowed),
            expires_at=expires_at,
            created_by=by,
        )
        return key, plain

    @classmethod
    def playground(cls, organization: Organization, user: User) -> tuple["ApiKey", str]:
        """A short-lived key for one tab of this person's browser."""
        expires = timezone.now() + PLAYGROUND_LIFE
        return cls.issue(
            organization, user, "Playground", kind=cls.Kind.PLAYGROUND, expires_at=expires
        )

    def about_to_expire(self) -> bool:
        """Whether a request that starts now might outlive the key."""
        return self.expires_at is not None and self.expires_at < timezone.now() + RENEW_BEFORE

    def revoke(self, by: User | None) -> None:
        """End the key at once, in every gateway within a second. Ending it again does nothing."""
        type(self).objects.filter(id=self.id, revoked_at=None).update(revoked_at=timezone.now())
