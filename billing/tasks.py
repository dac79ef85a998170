from smtplib import SMTPException
from uuid import UUID

from celery import shared_task
from django.conf import settings

from accounts.models import Organization
from billing import budgets, chain, invoices, usage, wallet
from billing.models import BudgetAlert
from billing.payments import automatic, events, notices, outbox, postpaid, reconcile, takebacks
from billing.payments.client import Away

# Tries at 1, 2, 4 … minutes, an hour at most, each sooner by chance: about four hours in all.
RETRIES = {"retry_backoff": 60, "retry_backoff_max": 3600, "max_retries": 9}
SOON = 5  # seconds: the transaction that made the alert is done by then
LATER = {"autoretry_for": (Away,), "retry_backoff": 60, "max_retries": 5}


@shared_task
def ensure_partitions() -> None:
    """Keep the usage table's monthly partitions ahead of the calendar."""
    usage.ensure_partitions()


@shared_task
def seal_ledger() -> None:
    """Seal the days of the ledger that are over. What cannot be done now is done an hour later."""
    chain.seal_days()


@shared_task
def draw_invoices() -> None:
    """One task for each organization: what goes wrong for one holds up no other."""
    charged = Organization.objects.filter(ledger_transactions__kind__in=invoices.CHARGED)
    for organization_id in charged.distinct().values_list("id", flat=True):
        draw_invoices_of.delay(str(organization_id))


@shared_task
def draw_invoices_of(organization_id: str) -> list[str]:
    """Draw what is due; the numbers of the invoices of those months."""
    organization = Organization.objects.get(id=UUID(organization_id))
    return [str(invoice.number) for invoice in invoices.draw_due(organization)]


@shared_task
def expire_grants() -> int:
    """Take back what is left of promotional credit whose time has passed; how many those were."""
    return wallet.expire_grants()


@shared_task
def watch_budgets() -> None:
    """See what of the budgets is spent, stop what is to stop, and have people told."""
    budgets.watch(announce)


def announce(alert: BudgetAlert) -> None:
    """Have everyone told, each by a task of their own, so that one trouble delays nobody else."""
    for email in budgets.recipients(alert):
        mail_budget_alert.apply_async((str(alert.id), email), countdown=SOON)


@shared_task(autoretry_for=(OSError, SMTPException), **RETRIES)
def mail_budget_alert(alert_id: str, email: str) -> None:
    """Tell one person, unless the budget was removed meanwhile."""
    known = BudgetAlert.objects.select_related("budget__organization")
    if alert := known.filter(id=UUID(alert_id)).first():
        budgets.mail(alert, email)


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
