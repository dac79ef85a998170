from celery import shared_task

from billing import chain, usage


@shared_task
def ensure_partitions() -> None:
    """Keep the usage table's monthly partitions ahead of the calendar."""
    usage.ensure_partitions()


@shared_task
def seal_ledger() -> None:
    """Seal the days of the ledger that are over. What cannot be done now is done an hour later."""
    chain.seal_days()
