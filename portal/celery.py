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
    # A day is sealed soon after midnight; by the hour, so that a missed one is not missed for long.
    "seal the ledger": {"task": "billing.tasks.seal_ledger", "schedule": crontab(minute="10")},
    # Every hour the first of a month begins somewhere.
    "draw invoices": {"task": "billing.tasks.draw_invoices", "schedule": crontab(minute="20")},
    "expire grants": {"task": "billing.tasks.expire_grants", "schedule": 60},
    "watch budgets": {"task": "billing.tasks.watch_budgets", "schedule": 60},
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
    "bill GPU time": {"task": "inference.tasks.bill_gpu_time", "schedule": 60},
    "watch credit": {"task": "inference.tasks.watch_credit", "schedule": 60},
    "watch targets": {"task": "inference.tasks.watch_targets", "schedule": 60},
    "estimate starts": {"task": "inference.tasks.estimate_starts", "schedule": 60},
    "forget old samples": {
        "task": "inference.tasks.forget_old_samples",
        "schedule": crontab(hour="3", minute="40"),
    },
}
