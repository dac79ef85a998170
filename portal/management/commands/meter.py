from django.conf import settings
from django.core.management.base import BaseCommand

from inference import meter
from portal.lib.stopping import stop_on_signals


class Command(BaseCommand):
    help = "Ship this machine's usage journals into the database."

    def handle(self, **options: object) -> None:
        meter.run(stop_on_signals(), settings.ENV.journal_dir)
