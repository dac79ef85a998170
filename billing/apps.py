from typing import Any

from django.apps import AppConfig
from django.conf import settings
from django.db import connections
from django.db.models.signals import post_migrate


class BillingConfig(AppConfig):
    name = "billing"

    def ready(self) -> None:
        post_migrate.connect(price_the_default_currency, sender=self)


def price_the_default_currency(using: str, **_: Any) -> None:
    """The installation's currency may have changed: as long as nothing costs anything, what is used
    in it is free."""
    with connections[using].cursor() as cursor:
        cursor.execute("SELECT to_regproc('modelport_zero_price') IS NOT NULL")
        if cursor.fetchone()[0]:
            cursor.execute("SELECT modelport_zero_price(%s)", [settings.ENV.currency])
