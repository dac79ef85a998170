import ipaddress
from typing import ClassVar
from urllib.parse import urlsplit

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import IntegrityError, models, transaction
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from accounts.models import Organization, User
from accounts.tenancy import TenantQuerySet
from inference.models.instance import served_model_name
from portal.lib import crypto
from portal.lib.ids import uuid7

PURPOSE = "provider"


class Provider(models.Model):
    """An OpenAI-compatible service elsewhere, called with the organization's own secret.

    The secret is encrypted at rest and never shown. The gateway looks at every address that the
    host's name leads to before it connects (inference/gateway/providers.py).
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    organization = models.ForeignKey(
        Organization, on_delete=models.CASCADE, related_name="providers"
    )
    name = models.CharField(gettext_lazy("name"), max_length=63, validators=[served_model_name])
    base_url = models.CharField(gettext_lazy("base URL"), max_length=512)
    encrypted = models.BinaryField()
    set_by = models.ForeignKey(User, on_delete=models.SET_NULL, null=True, related_name="+")
    set_at = models.DateTimeField(auto_now=True)
    created_at = models.DateTimeField(auto_now_add=True)

    objects = TenantQuerySet.as_manager()

    class Meta:
        ordering: ClassVar = ["name"]
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["organization", "name"],
                name="one_provider_per_name",
                violation_error_message=gettext_lazy("A provider with this name exists already."),
            )
        ]

    def __str__(self) -> str:
        return self.name

    @classmethod
    def add(
        cls, organization: Organization, by: User, *, name: str, base_url: str, secret: str
    ) -> "Provider":
        """Enter a provider. Raises ValidationError, its messages by field."""
        provider = cls(
            organization=organization,
            name=name,
            base_url=checked_base_url(base_url),
            encrypted=_encrypted(secret),
            set_by=by,
        )
        provider.full_clean(exclude=["set_by"], validate_constraints=False)
        try:
            with transaction.atomic():
                provider.save()
        except IntegrityError as error:
            message = _("A provider with this name exists already.")
            raise ValidationError({"name": message}) from error
        return provider

    def rotate(self, by: User, secret: str) -> None:
        """Put another secret in the place of the present one. Raises ValidationError."""
        self.encrypted, self.set_by = _encrypted(secret), by
        self.save(update_fields=["encrypted", "set_by", "set_at"])

    def remove(self) -> None:
        """Forget it. Raises ValidationError while a route leads there."""
        names = sorted(set(self.route_targets.values_list("route__name", flat=True)))
        if names:
            message = _("Routes lead to this provider: %(routes)s. Change them first.")
            raise ValidationError(message % {"routes": ", ".join(names)})
        self.delete()


def _encrypted(secret: str) -> bytes:
    secret = secret.strip()
    if not secret or len(secret) > 1024 or not secret.isascii() or not secret.isprintable():
        raise ValidationError({"secret": _("This cannot be an API key.")})
    return crypto.encrypt(secret, key=settings.SECRET_KEY, purpose=PURPOSE)


def checked_base_url(text: str) -> str:
    """The address up to /v1, without a slash at its end. Raises ValidationError."""
    try:
        parts = urlsplit(text.strip())
        host, port = parts.hostname or "", parts.port
    except ValueError:
        host, port, parts = "", None, urlsplit("")
    if parts.scheme != "https" or not host or parts.username or parts.query or parts.fragment:
        problem = _("Enter an address like https://api.example.com/v1, without a password or '?'.")
        raise ValidationError({"base_url": problem})
    if not host.isascii() or not parts.path.isascii() or not parts.path.isprintable():
        raise ValidationError({"base_url": _("The address may hold plain letters only.")})
    if _is_private(host) and host not in settings.ENV.provider_hosts:
        raise ValidationError({"base_url": _("This address is not on the internet.")})
    where = f"[{host}]" if ":" in host else host
    return f"https://{where}{f':{port}' if port else ''}{parts.path.rstrip('/')}"


def _is_private(host: str) -> bool:
    try:
        return not ipaddress.ip_address(host).is_global
    except ValueError:
        return host == "localhost" or host.endswith((".localhost", ".local", ".internal"))
