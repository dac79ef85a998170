from celery import shared_task

from billing import usage


@shared_task
def ensure_partitions() -> None:
    """Keep the usage table's monthly partitions ahead of the calendar."""
    usage.ensure_partitions()
