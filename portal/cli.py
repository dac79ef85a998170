"""The `modelport` command: a short door to the management commands underneath."""

import os
import sys
from importlib.metadata import version

COMMANDS = {
    "up": "run everything of one machine, with embedded PostgreSQL and Redis",
    "web": "pages, REST and websockets (and the gateway, with --gateway)",
    "gateway": "the OpenAI-compatible gateway on a port of its own",
    "worker": "Celery's worker",
    "beat": "Celery's schedule; one is active, others stand by",
    "controller": "the reconciler of instances; one is active, others stand by",
    "node": "the supervisor of engines on this machine",
    "meter": "ships this machine's usage journals into the database",
    "metrics": "tells Prometheus of gateways that have no pages beside them",
    "engine": "install an engine: modelport engine install vllm",
    "models": "list, check and clean the downloaded models of this machine",
    "doctor": "say what is missing on this machine and how to mend it",
    "operator": "make a person an operator: modelport operator EMAIL",
    "bootstrap": "make an organization and a management key, for scripts",
    "backup": "write what cannot be made anew into one file: modelport backup FILE",
    "restore": "bring a backup into an empty home: modelport restore FILE",
    "ledger": "check the books: modelport ledger verify",
    "migrate": "bring the database up to this version",
}


def usage() -> str:
    """The help text."""
    lines = [f"  {name:<11} {sentence}" for name, sentence in COMMANDS.items()]
    return "\n".join(
        [
            "usage: modelport COMMAND [options]",
            "",
            "Private LLM API hosting: a portal, a gateway and the engines behind it.",
            "",
            *lines,
            "",
            "modelport COMMAND --help tells more.",
        ]
    )


def main() -> None:
    """Entry point of the console script."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "portal.settings")
    arguments = sys.argv[1:]
    if arguments[:1] in (["--version"], ["-V"]):
        print(f"modelport {version('modelport')}")
        return
    if not arguments or arguments[0] in {"help", "-h", "--help"}:
        print(usage())
        return
    if arguments[0] not in COMMANDS:
        sys.exit(f"modelport: there is no command {arguments[0]!r}.\n\n{usage()}")
    # Here, not above: Django's settings read the environment, which --help does not need.
    from django.conf import settings  # noqa: PLC0415
    from django.core.exceptions import ImproperlyConfigured  # noqa: PLC0415
    from django.core.management import execute_from_command_line  # noqa: PLC0415

    try:
        settings.INSTALLED_APPS  # noqa: B018  the first look reads and checks them all
    except ImproperlyConfigured as problem:
        sys.exit(f"modelport: {problem}")
    execute_from_command_line(["modelport", *arguments])


if __name__ == "__main__":
    main()
