import secrets
from typing import Any, ClassVar
from urllib.parse import urlsplit

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import IntegrityError, models, transaction
from django.utils import timezone
from django.utils.translation import gettext, gettext_noop
from django.utils.translation import gettext_lazy as _

from accounts.tenancy import TenantQuerySet
from inference.models.instance import Instance
from inference.models.provider import checked_base_url
from portal.lib import crypto
from portal.lib.ids import uuid7

PURPOSE = "slo-webhook"


class SloTarget(models.Model):
    """How an instance should answer, and where to say that it does not. An empty target is off."""

    instance = models.OneToOneField(
        Instance, on_delete=models.CASCADE, primary_key=True, related_name="slo"
    )
    organization = models.ForeignKey(
        "accounts.Organization", on_delete=models.CASCADE, related_name="+"
    )
    enabled = models.BooleanField(_("Send alerts"), default=False)
    ttft_ms = models.PositiveIntegerField(
        _("Time to the first token, at most (ms)"),
        null=True,
        blank=True,
        default=500,
        validators=[MinValueValidator(1), MaxValueValidator(3_600_000)],
    )
    tokens_per_second = models.PositiveIntegerField(
        _("Tokens per second of one answer, at least"),
        null=True,
        blank=True,
        default=30,
        validators=[MinValueValidator(1), MaxValueValidator(100_000)],
    )
    gpu_utilization = models.PositiveSmallIntegerField(
        _("GPU utilization, at least (%)"),
        null=True,
        blank=True,
        default=80,
        validators=[MinValueValidator(1), MaxValueValidator(100)],
    )
    webhook_url = models.CharField(_("Webhook"), max_length=1024, blank=True)
    encrypted_secret = models.BinaryField(default=bytes)
    updated_at = models.DateTimeField(auto_now=True)

    objects = TenantQuerySet.as_manager()

    def __str__(self) -> str:
        return str(self.instance)

    @classmethod
    def of(cls, instance: Instance) -> "SloTarget":
        """The instance's own, or the defaults, which are off."""
        found = cls.objects.filter(instance=instance).first()
        return found or cls(instance=instance, organization=instance.organization)

    def set(self, **wanted: Any) -> None:
        """Change it. Raises ValidationError, its messages by field."""
        for name, value in wanted.items():
            setattr(self, name, value)
        self.webhook_url = checked_webhook_url(self.webhook_url)
        self.clean_fields(exclude=["encrypted_secret", "instance", "organization"])
        if self.webhook_url and not self.encrypted_secret:
            self.encrypted_secret = _encrypted(f"whsec_{secrets.token_urlsafe(32)}")
        self.save()
        if not self.enabled:  # what is no longer watched is neither breached nor met
            self.alerts.filter(ended_at=None).update(ended_at=timezone.now())

    @property
    def secret(self) -> str:
        """What signs its webhooks; empty where there is none. Raises UnreadableSecret."""
        if not self.encrypted_secret:
            return ""
        return crypto.decrypt(
            bytes(self.encrypted_secret), key=settings.SECRET_KEY, purpose=PURPOSE
        )


class SloAlert(models.Model):
    """A target that was missed, from when until when. One at a time is open for each."""

    class Objective(models.TextChoices):
        TTFT = "ttft", _("Time to the first token")
        SPEED = "speed", _("Tokens per second")
        GPU = "gpu", _("GPU utilization")

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    organization = models.ForeignKey(
        "accounts.Organization", on_delete=models.CASCADE, related_name="+"
    )
    target = models.ForeignKey(SloTarget, on_delete=models.CASCADE, related_name="alerts")
    objective = models.CharField(max_length=8, choices=Objective)
    limit = models.FloatField()  # the target when it was missed
    begun_at = models.DateTimeField()
    ended_at = models.DateTimeField(null=True)

    objects = TenantQuerySet.as_manager()

    class Meta:
        ordering: ClassVar = ["-id"]
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["target", "objective"],
                condition=models.Q(ended_at=None),
                name="one_open_alert_per_objective",
            )
        ]

    def __str__(self) -> str:
        return f"{self.target}: {self.objective} since {self.begun_at:%F %T}"

    @classmethod
    def begin(cls, target: SloTarget, objective: str, limit: float) -> "SloAlert | None":
        """Write down that it is missed; None where that is known already."""
        try:
            with transaction.atomic():
                alert = cls.objects.create(
                    organization_id=target.organization_id,
                    target=target,
                    objective=objective,
                    limit=limit,
                    begun_at=timezone.now(),
                )
                target.instance.note(
                    "slo_missed", gettext_noop("A target is missed; its metrics say more.")
                )
                return alert
        except IntegrityError:
            return None

    def end(self) -> bool:
        """It is met again. False where someone was first."""
        with transaction.atomic():
            now = timezone.now()
            if not SloAlert.objects.filter(id=self.id, ended_at=None).update(ended_at=now):
                return False
            self.ended_at = now
            self.target.instance.note("slo_met", gettext_noop("The target is met again."))
            return True


def checked_webhook_url(text: str) -> str:
    """The address, with its query if it has one. Raises ValidationError."""
    text = text.strip()
    if not text:
        return ""
    try:
        query = urlsplit(text).query
        base = checked_base_url(text.removesuffix(f"?{query}") if query else text)
    except (ValueError, ValidationError) as error:
        problem = gettext("Enter an address on the internet that begins with https://.")
        raise ValidationError({"webhook_url": problem}) from error
    if not (query.isascii() and query.isprintable()) or " " in query:
        raise ValidationError({"webhook_url": gettext("The address may hold plain letters only.")})
    return f"{base}?{query}" if query else base


def _encrypted(secret: str) -> bytes:
    return crypto.encrypt(secret, key=settings.SECRET_KEY, purpose=PURPOSE)
