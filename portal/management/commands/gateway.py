import sys
from argparse import ArgumentParser

from django.conf import settings
from django.core.management.base import BaseCommand

from inference.gateway import server


class Command(BaseCommand):
    help = "Run the OpenAI-compatible gateway on a port of its own."
    requires_system_checks = ()

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--host", default=settings.ENV.host)
        parser.add_argument("--port", type=int, default=settings.ENV.port)
        parser.add_argument("--workers", type=int, default=1, help="processes sharing the port")

    def handle(self, *, host: str, port: int, workers: int, **options: object) -> None:
        sys.exit(server.run(settings.ENV, host, port, workers))
