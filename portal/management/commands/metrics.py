from argparse import ArgumentParser

import uvicorn
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.management.base import BaseCommand

PORT = 9464  # OpenTelemetry's default for what Prometheus reads


class Command(BaseCommand):
    help = "Tell Prometheus of this machine's gateways, where no pages are served beside them."
    requires_system_checks = ()

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--host", default="127.0.0.1")
        parser.add_argument("--port", type=int, default=PORT)

    def handle(self, *, host: str, port: int, **options: object) -> None:
        # The one view and nothing of the pages: it asks for the token, and needs no database. It
        # is scraped by whatever name the machine has; the view looks at the name where it counts.
        settings.ROOT_URLCONF = "portal.metrics"
        settings.MIDDLEWARE = []
        settings.ALLOWED_HOSTS = ["*"]
        uvicorn.run(
            get_asgi_application(),
            host=host,
            port=port,
            lifespan="off",
            access_log=False,
            log_config=None,
            server_header=False,
            proxy_headers=False,
        )
