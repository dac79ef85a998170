from argparse import ArgumentParser
from pathlib import Path

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from portal import backup


class Command(BaseCommand):
    help = "Bring back what `modelport backup` wrote, into an empty home and an empty database."
    requires_system_checks = ()

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("file", type=Path)

    def handle(self, *, file: Path, **options: object) -> None:
        try:
            made = backup.restore(settings.ENV, file.absolute())
        except backup.BackupProblem as problem:
            raise CommandError(str(problem)) from problem
        self.stdout.write(
            f"Restored the backup of {made}. Start Modelport: the meter takes in what the journals "
            "had. `modelport ledger verify` checks the books."
        )
