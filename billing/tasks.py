from celery import shared_task
from django.conf import settings

from billing import usage
from billing.payments import automatic, events, notices, outbox, postpaid, reconcile, takebacks
from billing.payments.client import Away

LATER = {"autoretry_for": (Away,), "retry_backoff": 60, "max_retries": 5}


@shared_task
def ensure_partitions() -> None:
    """Keep the usage table's monthly partitions ahead of the calendar."""
    usage.ensure_partitions()


def _is_set_up() -> bool:
    return bool(settings.ENV.stripe_secret_key)


@shared_task
def send_stripe_calls() -> None:
    """Send what waits for Stripe: each call until it is answered."""
    if _is_set_up():
        outbox.work()
        takebacks.follow_refused()


@shared_task
def top_up_automatically() -> None:
    """Charge saved cards where credit runs low."""
    if _is_set_up():
        automatic.run()


@shared_task
def tell_failed_top_ups() -> None:
    """Mail those whose automatic top-up failed."""
    notices.tell_failures()


@shared_task(**LATER)
def catch_up_with_stripe() -> None:
    """Fetch the events that could not be delivered to us."""
    if _is_set_up():
        events.catch_up()


@shared_task
def tell_meters() -> None:
    """Tell Stripe what those who pay later came to owe in the hours that are over."""
    if _is_set_up():
        postpaid.tell()


@shared_task(**LATER)
def check_payments() -> None:
    """Compare the last days' payments with Stripe, and forget events that are long done."""
    if _is_set_up():
        reconcile.check()
    events.forget()
