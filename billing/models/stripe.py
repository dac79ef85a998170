from datetime import datetime
from typing import Any, ClassVar
from uuid import UUID

from django.db import IntegrityError, models, transaction
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from accounts.models import Organization
from portal.lib.ids import uuid7


class StripeCall(models.Model):
    """A call to Stripe: written down before it is made, made until there is an answer.

    The id is part of the idempotency key, so that however often it is sent, Stripe does it once.
    """

    class State(models.TextChoices):
        WAITING = "waiting", _("Waiting")
        DONE = "done", _("Done")
        REFUSED = "refused", _("Refused")

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    organization = models.ForeignKey(
        Organization, on_delete=models.PROTECT, null=True, related_name="stripe_calls"
    )
    operation = models.CharField(max_length=32)
    target = models.CharField(max_length=255, blank=True)  # Stripe's object that it changes
    params = models.JSONField()
    # What is wanted only once: not called again while such a call waits or is done.
    purpose = models.CharField(max_length=128, blank=True)
    about = models.UUIDField(null=True)  # the row of ours that it is made for
    # Somebody waits for the answer on a page; once they have gone, nobody needs it any more.
    interactive = models.BooleanField(default=False)
    state = models.CharField(max_length=16, choices=State, default=State.WAITING)
    attempts = models.PositiveIntegerField(default=0)
    # A new idempotency key: where Stripe has forgotten the last one, or remembers a failure.
    generation = models.PositiveIntegerField(default=0)
    sent_at = models.DateTimeField(null=True)  # first, with this generation's key
    not_before = models.DateTimeField(auto_now_add=True)
    claimed_until = models.DateTimeField(null=True)
    answer = models.JSONField(default=dict)  # id, url, status
    failure = models.CharField(max_length=64, blank=True)  # Stripe's code
    problem = models.CharField(max_length=500, blank=True)  # the last one, in Stripe's words
    created_at = models.DateTimeField(auto_now_add=True)
    done_at = models.DateTimeField(null=True)

    class Meta:
        db_table = "billing_stripe_call"
        ordering: ClassVar = ["id"]
        indexes: ClassVar = [
            models.Index(
                fields=["not_before"], condition=Q(state="waiting"), name="stripe_calls_waiting"
            )
        ]
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["purpose"],
                condition=~Q(purpose="") & ~Q(state="refused"),
                name="one_stripe_call_for_a_purpose",
            )
        ]

    def __str__(self) -> str:
        return f"{self.operation} {self.id}"

    @property
    def idempotency_key(self) -> str:
        return f"{self.id}-{self.generation}"

    @classmethod
    def enter(
        cls,
        operation: str,
        params: dict[str, Any],
        *,
        organization: Organization | None = None,
        target: str = "",
        purpose: str = "",
        about: UUID | None = None,
        interactive: bool = False,
    ) -> "StripeCall":
        """Write it down; for a purpose that has one, the call that there is."""
        fields: dict[str, Any] = {
            "operation": operation,
            "params": params,
            "organization": organization,
            "target": target,
            "about": about,
            "interactive": interactive,
        }
        if not purpose:
            return cls.objects.create(**fields)
        known = cls.objects.filter(purpose=purpose).exclude(state=cls.State.REFUSED)
        if (found := known.first()) is not None:
            return found
        try:
            with transaction.atomic():
                return cls.objects.create(purpose=purpose, **fields)
        except IntegrityError:  # somebody else a moment ago
            return known.get()


class StripeEvent(models.Model):
    """An event that Stripe has told us of; done once its effect is in the books."""

    id = models.CharField(primary_key=True, max_length=255)
    kind = models.CharField(max_length=80)
    object_id = models.CharField(max_length=255, blank=True)
    created = models.DateTimeField()  # by Stripe
    deliveries = models.PositiveIntegerField(default=0)
    received_at = models.DateTimeField(auto_now_add=True)
    done_at = models.DateTimeField(null=True)
    problem = models.CharField(max_length=200, blank=True)  # why it is not done

    class Meta:
        db_table = "billing_stripe_event"
        ordering: ClassVar = ["-received_at"]
        indexes: ClassVar = [
            models.Index(fields=["received_at"], name="stripe_events_by_time"),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.id}"

    @classmethod
    def note(cls, id: str, kind: str, object_id: str, created: datetime) -> "StripeEvent":
        """Remember that it came, once more."""
        event, _new = cls.objects.get_or_create(
            id=id, defaults={"kind": kind, "object_id": object_id, "created": created}
        )
        cls.objects.filter(id=id).update(deliveries=models.F("deliveries") + 1)
        return event


class Installation(models.Model):
    """Which Modelport this is: what tells our objects at Stripe from those of others who use the
    same account. It goes where the database goes."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    only = models.BooleanField(default=True, unique=True, editable=False)

    class Meta:
        db_table = "billing_installation"

    def __str__(self) -> str:
        return str(self.id)

    @classmethod
    def mark(cls) -> str:
        return str(cls.objects.get_or_create(only=True)[0].id)
