from argparse import ArgumentParser

import uvloop
from django.conf import settings
from django.core.management.base import BaseCommand
from uvicorn import Config, Server

from inference.gateway.mounted import mounted
from inference.gateway.server import GatewayRuntime

WEBSOCKET_BYTES = 4 * 1024 * 1024  # of one message; the playground refuses sooner


class Command(BaseCommand):
    help = "Serve pages, REST and websockets; with --gateway also /v1, on the same port."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--host", default=settings.ENV.host)
        parser.add_argument("--port", type=int, default=settings.ENV.port)
        parser.add_argument("--gateway", action="store_true")

    def handle(self, *, host: str, port: int, gateway: bool, **options: object) -> None:
        uvloop.run(serve(host, port, gateway))


async def serve(host: str, port: int, gateway: bool) -> None:
    """Until SIGTERM or SIGINT; answers under way are finished."""
    runtime = GatewayRuntime(settings.ENV) if gateway else None
    if runtime is not None:
        await runtime.start()
    server = Server(
        Config(
            "portal.asgi:application",
            host=host,
            port=port,
            http=mounted(runtime) if runtime is not None else "httptools",
            ws="websockets-sansio",
            ws_max_size=WEBSOCKET_BYTES,
            lifespan="off",
            access_log=False,
            log_config=None,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=20,
        )
    )
    try:
        await server.serve()
    finally:
        if runtime is not None:
            await runtime.stop()
