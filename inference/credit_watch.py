"""Running instances and the credit that they use up: held for them ahead, told about in time, and
stopped when it is used up. What is spent on requests is no business of this: see `credit`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.conf import settings
from django.core.mail import EmailMessage
from django.db import transaction
from django.template.loader import render_to_string
from django.utils import timezone
from django.utils.translation import gettext, gettext_noop

from accounts.models import Organization
from accounts.roles import Role
from billing import holds, top_up, zero
from billing.models import BillingProfile, RunningHold
from billing.running import Hours, Running
from inference.lifecycle import Desired
from inference.models import Instance, ServingInterval

LOW, USED_UP = "low", "used_up"
TOLD = (Role.OWNER, Role.ADMIN, Role.BILLING)

Announce = Callable[[Organization, str], None]


@dataclass
class Costs:
    """Of one organization's serving replicas: nano-units."""

    an_hour: int = 0
    accrued: int = 0  # that is not charged yet


def watch(announce: Announce, now: datetime | None = None) -> None:
    """Hold what running instances need, have people told, and stop what is not paid for. To be
    called every minute. `announce` runs within the transaction that notes it."""
    now = now or timezone.now()
    for organization in _watched():
        with transaction.atomic():
            costs = costs_of(organization, now)
            outlook = holds.keep_running(organization, costs.an_hour, costs.accrued)
            if outlook.warn and not outlook.suspended:
                for instance in costly(organization, Hours(organization)):
                    instance.note(
                        "credit_low", gettext_noop("The credit lasts for less than an hour.")
                    )
                announce(organization, LOW)
        if outlook.suspended:
            stop(organization)  # what was started since


def costs_of(organization: Organization, now: datetime) -> Costs:
    hours, costs = Hours(organization), Costs()
    unbilled = ServingInterval.objects.filter(organization=organization, billed=False)
    for interval in unbilled.select_related("instance", "replica__revision"):
        runs = interval.replica.revision or interval.instance
        hour = hours.cost(
            Running(runs.model_id, runs.engine, interval.gpu_count, interval.gpu_type)
        )
        seconds = ((interval.ended_at or now) - interval.started_at).total_seconds()
        costs.accrued += hour * max(0, int(seconds) + 1 - interval.billed_seconds) // 3600
        if interval.ended_at is None:
            costs.an_hour += hour
    return costs


def costly(organization: Organization, hours: Hours) -> list[Instance]:
    """The instances that are to run and cost by the hour."""
    running = Instance.objects.for_organization(organization).alive()
    return [i for i in running.filter(desired=Desired.RUNNING) if i.hourly_cost(hours)]


def stop(organization: Organization) -> None:
    """Its credit is used up: what costs by the hour takes no more requests, ends its answers, and
    stops."""
    for instance in costly(organization, Hours(organization)):
        instance.stop_for_credit()


def start_again(organization: Organization) -> None:
    """There is credit again: start what was stopped for want of it, as far as the credit reaches a
    while, and where that was chosen."""
    stopped = Instance.objects.for_organization(organization).alive()
    chosen = BillingProfile.objects.filter(organization=organization, restarts_instances=True)
    if not chosen.exists():
        return
    hours = Hours(organization)
    left = holds.available(organization)
    for instance in stopped.filter(stopped_for_credit=True).order_by("id"):
        left -= holds.cost(instance.hourly_cost(hours) * instance.replica_count, holds.HOLD)
        if left >= 0:
            instance.request_start(by=None)


def _watched() -> list[Organization]:
    """Those with something that runs, or did when it was looked at last."""
    serving = ServingInterval.objects.filter(billed=False).values("organization")
    known = RunningHold.objects.filter(nano_per_hour__gt=0).values("organization")
    held = RunningHold.objects.filter(nano__gt=0).values("organization")
    return list(Organization.objects.filter(id__in=serving.union(known, held)))


# telling people


def recipients(organization: Organization) -> list[str]:
    members = organization.memberships.filter(role__in=TOLD)
    return list(members.order_by("user__email").values_list("user__email", flat=True))


def mail(organization: Organization, what: str, to: str) -> None:
    """Tell one person. Raises OSError, SMTPException."""
    context = facts(organization, what)
    subject = " ".join(render_to_string("inference/email/credit_subject.txt", context).split())
    body = render_to_string("inference/email/credit.txt", context)
    EmailMessage(subject, body, to=[to]).send()


def facts(organization: Organization, what: str) -> dict[str, Any]:
    return {
        "organization": organization,
        "used_up": what == USED_UP,
        "at_zero": gettext(zero.AT_ZERO),
        "link": settings.PUBLIC_URL + top_up.path(organization.slug),
    }
