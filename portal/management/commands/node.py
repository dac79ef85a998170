import sys
from argparse import ArgumentParser

from django.core.management.base import BaseCommand

from inference.node import supervisor


class Command(BaseCommand):
    help = "Run the supervisor of engines on this machine."
    requires_system_checks = ()

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--stop-engines", action="store_true", help="end the engines too when told to stop"
        )

    def handle(self, *, stop_engines: bool, **options: object) -> None:
        sys.exit(supervisor.main(stop_engines=stop_engines))
