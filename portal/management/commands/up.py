from argparse import ArgumentParser

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from portal import up


class Command(BaseCommand):
    help = (
        "Run everything of one machine, with embedded PostgreSQL and Redis unless told otherwise."
    )
    requires_system_checks = ()

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--keep-engines",
            action="store_true",
            default=settings.ENV.keep_engines,
            help="leave engines running at Ctrl-C; the next start takes them up again",
        )

    def handle(self, *, keep_engines: bool, **options: object) -> None:
        try:
            up.run(settings.ENV, keep_engines=keep_engines)
        except up.UpProblem as problem:
            raise CommandError(str(problem)) from problem
