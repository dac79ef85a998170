import ipaddress
import re
from typing import Any, ClassVar
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
from portal.lib.errors import Conflict
from portal.lib.ids import uuid7

PURPOSE = "provider"
_HOST = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?")
_PATH = re.compile(r"(?:/[A-Za-z0-9._~%@:+-]*)*")  # it becomes part of a request's first line


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
        provider = cls(organization=organization, name=name, set_by=by)
        provider._take(base_url, secret)
        try:
            with transaction.atomic():
                provider.save()
        except IntegrityError as error:
            message = _("A provider with this name exists already.")
            raise ValidationError({"name": message}) from error
        return provider

    def _take(self, base_url: str, secret: str) -> None:
        problems: dict[str, Any] = {}
        try:
            self.base_url = checked_base_url(base_url)
        except ValidationError as error:
            problems |= error.error_dict
        try:
            self.encrypted = _encrypted(secret)
        except ValidationError as error:
            problems |= error.error_dict
        try:
            self.clean_fields(exclude=["set_by", "base_url", "encrypted", *problems])
        except ValidationError as error:
            problems |= error.error_dict
        if problems:
            raise ValidationError(problems)

    def rotate(self, by: User, secret: str) -> None:
        """Put another secret in the place of the present one. Raises ValidationError."""
        self.encrypted, self.set_by = _encrypted(secret), by
        self.save(update_fields=["encrypted", "set_by", "set_at"])

    def remove(self) -> None:
        """Forget it. Raises Conflict while a route leads there."""
        message = _("Routes lead to this provider: %(routes)s. Change them first.")
        try:
            with transaction.atomic():
                self.delete()
        except models.ProtectedError as error:
            names = set(self.route_targets.values_list("route__name", flat=True))
            raise Conflict(message % {"routes": ", ".join(sorted(names))}) from error


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
    if parts.scheme != "https" or "@" in parts.netloc or parts.query or parts.fragment:
        problem = _("Enter an address like https://api.example.com/v1, without a password or '?'.")
        raise ValidationError({"base_url": problem})
    if not (_HOST.fullmatch(host) or _is_ipv6(host)) or not _PATH.fullmatch(parts.path):
        raise ValidationError({"base_url": _("The address may hold plain letters only.")})
    if _is_private(host) and host not in settings.ENV.provider_hosts:
        raise ValidationError({"base_url": _("This address is not on the internet.")})
    where = f"[{host}]" if ":" in host else host
    return f"https://{where}{f':{port}' if port else ''}{parts.path.rstrip('/')}"


def _is_ipv6(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).version == 6 and "%" not in host
    except ValueError:
        return False


def _is_private(host: str) -> bool:
    try:
        return not ipaddress.ip_address(host).is_global
    except ValueError:
        return host == "localhost" or host.endswith((".localhost", ".local", ".internal"))
