"""The Celery application and the whole beat schedule."""

import os

from celery import Celery
from celery.schedules import crontab

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "portal.settings")

app = Celery("modelport")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
app.conf.beat_schedule = {
    "keep usage partitions ahead": {
        "task": "billing.tasks.ensure_partitions",
        "schedule": crontab(hour="3", minute="10"),
    },
    "send stripe calls": {"task": "billing.tasks.send_stripe_calls", "schedule": 10},
    "top up automatically": {"task": "billing.tasks.top_up_automatically", "schedule": 20},
    "tell failed top-ups": {"task": "billing.tasks.tell_failed_top_ups", "schedule": 60},
    "catch up with stripe": {"task": "billing.tasks.catch_up_with_stripe", "schedule": 600},
    "tell meters": {"task": "billing.tasks.tell_meters", "schedule": crontab(minute="10")},
    "check payments": {
        "task": "billing.tasks.check_payments",
        "schedule": crontab(hour="4", minute="20"),
    },
    "forget-old-answers": {"task": "accounts.tasks.forget_old_answers", "schedule": 3600},
    "watch targets": {"task": "inference.tasks.watch_targets", "schedule": 60},
    "forget old samples": {
        "task": "inference.tasks.forget_old_samples",
        "schedule": crontab(hour="3", minute="40"),
    },
}
