from django.conf import settings
from django.core.management.base import BaseCommand

from inference import meter
from portal.lib.stopping import stop_on_signals


class Command(BaseCommand):
    help = "Ship this machine's usage journals into the database, and grant gateways their limits."

    def handle(self, **options: object) -> None:
        env = settings.ENV
        meter.run(stop_on_signals(), env.journal_dir, env.meter_socket, env.database)
