from argparse import ArgumentParser
from pathlib import Path

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from portal import backup


class Command(BaseCommand):
    help = (
        "Write the database, the secrets, and this machine's journals into one file, also while "
        "everything runs."
    )
    requires_system_checks = ()

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("file", type=Path)

    def handle(self, *, file: Path, **options: object) -> None:
        try:
            size = backup.backup(settings.ENV, file.absolute())
        except backup.BackupProblem as problem:
            raise CommandError(str(problem)) from problem
        self.stdout.write(
            f"{file}: {size / 1e6:.1f} MB. It has the secrets of this installation: keep it like a "
            "password, away from this machine."
        )
