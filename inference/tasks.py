from celery import shared_task

from inference import samples


@shared_task
def forget_old_samples() -> int:
    """Delete what engines counted more than 30 days ago; returns how many rows that were."""
    return samples.prune()
