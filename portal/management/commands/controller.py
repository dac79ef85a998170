from django.conf import settings
from django.core.management.base import BaseCommand

from inference import reconciler
from portal.lib.locks import leadership
from portal.lib.stopping import stop_on_signals


class Command(BaseCommand):
    help = "Run the reconciler of instances. One process is active, others stand by."

    def handle(self, **options: object) -> None:
        stop = stop_on_signals()
        while not stop.is_set():
            with leadership(settings.ENV.database, "controller", stop) as lost:
                if lost is None:
                    return
                reconciler.run(lost)
