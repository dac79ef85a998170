from smtplib import SMTPException
from uuid import UUID

from celery import shared_task

from accounts.models import Organization
from inference import alerts, credit_watch, fit_records, gpu_time, samples
from inference.models import SloAlert
from inference.webhooks import NotDelivered

# Tries at 1, 2, 4 … minutes, an hour at most, each sooner by chance: about four hours in all.
RETRIES = {"retry_backoff": 60, "retry_backoff_max": 3600, "max_retries": 9}
SOON = 5  # seconds: the transaction that made the alert is done by then


@shared_task
def forget_old_samples() -> int:
    """Delete what engines counted more than 30 days ago; returns how many rows that were."""
    return samples.prune()


@shared_task
def estimate_starts() -> int:
    """Work out what was to be expected of the starts that were measured; returns of how many."""
    return fit_records.estimate_new()


@shared_task
def bill_gpu_time() -> int:
    """Charge what has served since the last time; nano-units."""
    return gpu_time.bill()


@shared_task
def watch_credit() -> None:
    """Hold credit for what runs, and stop what has none left."""
    credit_watch.watch(announce_credit)


def announce_credit(organization: Organization, what: str) -> None:
    """Have everyone told who can do something about it."""
    for email in credit_watch.recipients(organization):
        mail_credit.apply_async((str(organization.id), what, email), countdown=SOON)


@shared_task(autoretry_for=(OSError, SMTPException), **RETRIES)
def mail_credit(organization_id: str, what: str, email: str) -> None:
    """Tell one person how the credit stands."""
    credit_watch.mail(Organization.objects.get(id=UUID(organization_id)), what, email)


@shared_task
def watch_targets() -> None:
    """See whether instances keep to their targets, and have it told where that has changed."""
    alerts.watch(announce)


def announce(alert: SloAlert, what: str) -> None:
    """Have everyone told, each by a task of their own, so that one trouble delays nobody else."""
    for email in alerts.recipients(alert):
        mail_alert.apply_async((str(alert.id), what, email), countdown=SOON)
    post_alert.apply_async((str(alert.id), what), countdown=SOON)


@shared_task(autoretry_for=(OSError, SMTPException), **RETRIES)
def mail_alert(alert_id: str, what: str, email: str) -> None:
    """Tell one person, unless the alert was taken back meanwhile."""
    if alert := _alert(alert_id):
        alerts.mail(alert, what, email)


@shared_task(autoretry_for=(NotDelivered,), **RETRIES)
def post_alert(alert_id: str, what: str) -> None:
    """Tell the webhook, if there is one."""
    if alert := _alert(alert_id):
        alerts.post(alert, what)


def _alert(alert_id: str) -> SloAlert | None:
    known = SloAlert.objects.select_related("organization", "target__instance")
    return known.filter(id=UUID(alert_id)).first()
