from typing import ClassVar
from uuid import UUID

from django.db import models
from django.utils.translation import gettext_lazy as _

from accounts.tenancy import TenantQuerySet
from billing.usage_record import Outcome, UsageSource

OUTCOMES = [
    (Outcome.COMPLETED.value, _("completed")),
    (Outcome.CLIENT_GONE.value, _("client left")),
    (Outcome.REFUSED.value, _("refused")),
    (Outcome.ENGINE_ERROR.value, _("refused by the engine")),
    (Outcome.UPSTREAM_FAILED.value, _("engine failed")),
    (Outcome.GATEWAY_DIED.value, _("cut off")),
]


class UsageEvent(models.Model):
    """One request to the gateway, as it was metered. Rows are inserted once and never change.

    The table is range-partitioned by `request_id`, a UUIDv7, which is ordered by time: the primary
    key is the idempotency key and the partition key (see the first migration). It refers to keys
    and instances by bare ids on purpose: a bill outlives what it was for.
    """

    request_id = models.UUIDField(_("request id"), primary_key=True)
    organization = models.ForeignKey(
        "accounts.Organization", on_delete=models.PROTECT, related_name="+", db_index=False
    )
    key_id = models.UUIDField()
    instance_id = models.UUIDField()
    replica_id = models.UUIDField()
    model = models.CharField(_("model"), max_length=63)
    endpoint = models.CharField(max_length=32)
    stream = models.BooleanField()
    prompt_tokens = models.BigIntegerField(_("input tokens"))
    cached_tokens = models.BigIntegerField(_("cached tokens"))
    completion_tokens = models.BigIntegerField(_("output tokens"))
    reasoning_tokens = models.BigIntegerField(_("reasoning tokens"))
    source = models.CharField(max_length=16, choices=[(s.value, s.value) for s in UsageSource])
    outcome = models.CharField(max_length=16, choices=OUTCOMES)
    status = models.SmallIntegerField(_("status"))
    finish_reason = models.CharField(max_length=24, blank=True)
    ttft_us = models.BigIntegerField(null=True)
    duration_us = models.BigIntegerField()
    admitted_at = models.DateTimeField(_("time"))
    client_request_id = models.CharField(max_length=128, blank=True)
    price_version_id = models.UUIDField(default=UUID(int=0))
    # What was charged for it, after discount and what is free, and where that is booked.
    cost_nano = models.BigIntegerField(_("cost"), default=0)  # nano-units of the currency
    currency = models.CharField(max_length=3, blank=True, default="")  # empty: it has no price
    transaction_id = models.UUIDField(null=True)  # None: it was free
    # Whose it was when it was booked.
    project_id = models.UUIDField(null=True)
    membership_id = models.UUIDField(null=True)  # of who made the key
    tag = models.CharField(_("tag"), max_length=64, blank=True, default="")  # the caller's own

    objects = TenantQuerySet.as_manager()

    class Meta:
        db_table = "billing_usage"
        ordering: ClassVar = ["-request_id"]
        indexes: ClassVar = [
            models.Index(fields=["organization", "-request_id"], name="usage_by_organization")
        ]
        constraints = [
            models.CheckConstraint(
                condition=models.Q(cached_tokens__lte=models.F("prompt_tokens"))
                & models.Q(reasoning_tokens__lte=models.F("completion_tokens"))
                & models.Q(prompt_tokens__gte=0, cached_tokens__gte=0)
                & models.Q(completion_tokens__gte=0, reasoning_tokens__gte=0),
                name="usage_subsets_are_subsets",
            ),
            models.CheckConstraint(
                condition=models.Q(cost_nano__gte=0), name="usage_cost_is_not_negative"
            ),
        ]

    def __str__(self) -> str:
        return str(self.request_id)

    @property
    def ttft_ms(self) -> int | None:
        """Milliseconds from the request to the first token, rounded for people."""
        return None if self.ttft_us is None else round(self.ttft_us / 1000)

    @property
    def duration_ms(self) -> int:
        """Milliseconds from the request to the end of its answer, rounded for people."""
        return round(self.duration_us / 1000)
