"""Whether instances keep to their targets: one alert when that is over, one when it is back."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.core.mail import EmailMessage
from django.db import transaction
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils import timezone

from accounts.roles import Role
from inference import burn, histograms, insights, webhooks
from inference.models import MetricSample, SloAlert, SloTarget
from inference.provisioners.base import Histogram
from inference.samples import beginning

MISSED, MET = "missed", "met"
MINUTES_KNOWN = timedelta(hours=6)  # longer windows are read from hours
GPU_HISTORY = timedelta(hours=5)  # before which a mean of six hours says little

Announce = Callable[[SloAlert, str], None]
Objective = SloAlert.Objective
Span = MetricSample.Span


def watch(announce: Announce, now: datetime | None = None) -> None:
    """Judge every target. `announce` runs within the transaction that writes the alert down: where
    it fails, nothing has changed, and the next minute tries again."""
    now = now or timezone.now()
    targets = SloTarget.objects.filter(enabled=True, instance__deleted_at=None)
    for target in targets.select_related("instance"):
        for objective, limit, missed in judge(target, now):
            with transaction.atomic():
                _note(target, objective, limit, missed, announce)


def _note(
    target: SloTarget, objective: Objective, limit: float, missed: bool, announce: Announce
) -> None:
    known = target.alerts.filter(objective=objective, ended_at=None).first()
    if missed and known is None:
        if alert := SloAlert.begin(target, objective, limit):
            announce(alert, MISSED)
    elif known is not None and not missed and known.end():
        announce(known, MET)


def judge(target: SloTarget, now: datetime) -> list[tuple[Objective, float, bool]]:
    """Each objective that is set, its limit, and whether it is missed."""
    history = _History(target, now)
    judged: list[tuple[Objective, float, bool]] = []
    if ms := target.ttft_ms:
        judged.append((Objective.TTFT, ms, history.burns("ttft", ms / 1000)))
    if speed := target.tokens_per_second:
        judged.append((Objective.SPEED, speed, history.burns("itl", 1 / speed)))
    if share := target.gpu_utilization:
        below = burn.stays_below(history.gpu_utilization, share / 100)
        judged.append((Objective.GPU, share, below and history.is_long_enough()))
    set_now = [objective for objective, _limit, _missed in judged]
    # What is not a target any more is neither missed nor met: nobody is told.
    target.alerts.filter(ended_at=None).exclude(objective__in=set_now).update(ended_at=now)
    return judged


class _History:
    """The samples of one target's instance, as far back as its longest window."""

    def __init__(self, target: SloTarget, now: datetime) -> None:
        self.now = now
        longest = max(window.long for window in burn.WINDOWS)
        mine = MetricSample.objects.filter(instance=target.instance_id)
        minutes = mine.filter(span=Span.MINUTE, at__gt=beginning(now - MINUTES_KNOWN, 1))
        hours = mine.filter(span=Span.HOUR, at__gt=beginning(now - longest, 60))
        self.minutes, self.hours = list(minutes), list(hours)

    def burns(self, name: str, seconds: float) -> bool:
        """Whether too many of these durations are longer."""

        def within(window: timedelta) -> burn.Tally:
            of = self._durations(name, window)
            return burn.Tally(histograms.count(of), histograms.above(of, seconds))

        return burn.burning(within) is not None

    def gpu_utilization(self, window: timedelta) -> float | None:
        """The mean over its GPUs and the window."""
        samples = self._within(window)
        busy = sum(sample.gpu_utilization_sum for sample in samples)
        return insights.ratio(busy, sum(sample.gpu_looks for sample in samples))

    def is_long_enough(self) -> bool:
        """Whether its GPUs have been watched for nearly six hours."""
        first = next((sample.at for sample in self.minutes if sample.gpu_looks), self.now)
        return self.now - first >= GPU_HISTORY

    def _durations(self, name: str, window: timedelta) -> Histogram:
        kept = (histograms.restored(getattr(s, name)) for s in self._within(window))
        return histograms.together(kept)

    def _within(self, window: timedelta) -> list[MetricSample]:
        samples = self.minutes if window <= MINUTES_KNOWN else self.hours
        return [sample for sample in samples if sample.at > self.now - window]


def recipients(alert: SloAlert) -> list[str]:
    """Who is told by e-mail: the organization's owners and admins."""
    members = alert.organization.memberships.filter(role__in=[Role.OWNER, Role.ADMIN])
    return list(members.order_by("user__email").values_list("user__email", flat=True))


def mail(alert: SloAlert, what: str, to: str) -> None:
    """Tell one person. Raises OSError, SMTPException."""
    context = _facts(alert, what)
    subject = " ".join(render_to_string("inference/email/slo_subject.txt", context).split())
    body = render_to_string("inference/email/slo.txt", context)
    EmailMessage(subject, body, to=[to]).send()


def post(alert: SloAlert, what: str) -> None:
    """Tell the webhook, if there is one. Raises webhooks.NotDelivered."""
    if not alert.target.webhook_url:
        return
    webhooks.send(
        alert.target.webhook_url,
        payload(alert, what),
        secret=alert.target.secret,
        key=f"{alert.id}-{what}",
        trusted=settings.ENV.provider_hosts,
    )


def payload(alert: SloAlert, what: str) -> dict[str, Any]:
    """What a webhook carries: no prompt, no key, no person."""
    instance = alert.target.instance
    ended = alert.ended_at if what == MET else None
    return {
        "id": f"{alert.id}-{what}",
        "type": f"slo.{what}",
        "organization": alert.organization.slug,
        "instance": {"id": str(instance.id), "name": instance.name},
        "objective": alert.objective,
        "target": alert.limit,
        "begun_at": alert.begun_at.isoformat(),
        "ended_at": ended.isoformat() if ended else None,
        "url": _link(alert),
    }


def _facts(alert: SloAlert, what: str) -> dict[str, Any]:
    return {
        "alert": alert,
        "instance": alert.target.instance,
        "missed": what == MISSED,
        "link": _link(alert),
    }


def _link(alert: SloAlert) -> str:
    where = reverse("instance-metrics", args=[alert.organization.slug, alert.target.instance_id])
    return settings.PUBLIC_URL + where
