from celery import shared_task

from accounts.models import IdempotentAnswer


@shared_task
def forget_old_answers() -> int:
    """Delete what REST requests were answered more than a day ago; returns how many."""
    return IdempotentAnswer.forget_old()
