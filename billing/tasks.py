from uuid import UUID

from celery import shared_task

from accounts.models import Organization
from billing import chain, invoices, usage


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
