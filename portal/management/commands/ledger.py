from argparse import ArgumentParser
from datetime import date
from pathlib import Path

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.db import Error

from billing import chain, protection
from billing.auditor import Audit
from billing.models import LedgerDay
from portal.database import DatabaseProblem, reachable

SHOWN = 100  # problems


class Command(BaseCommand):
    help = (
        "verify: check all of the books. heads: print the hash of each sealed day. seal: seal the "
        "days that are over. protect: keep the books' tables from the application's role."
    )
    requires_system_checks = ()

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("action", choices=["verify", "heads", "seal", "protect"])
        parser.add_argument(
            "--heads",
            type=Path,
            metavar="FILE",
            help="verify: the hashes as they were exported or mailed; else those of this machine",
        )

    def handle(self, *, action: str, heads: Path | None, **options: object) -> None:
        try:
            with reachable(settings.ENV):
                self._act(action, heads)
        except DatabaseProblem as problem:
            raise CommandError(str(problem)) from problem
        except Error as error:
            raise CommandError(f"The database cannot be read: {error}") from error

    def _act(self, action: str, heads: Path | None) -> None:
        if action == "verify":
            self._verify(self._exported(heads))
        elif action == "heads":
            for day in LedgerDay.objects.all():
                self.stdout.write(chain.head_line(day))
        elif action == "seal":
            self._seal()
        else:
            self._protect()

    def _exported(self, given: Path | None) -> dict[date, str]:
        path = given or settings.ENV.ledger_heads
        try:
            found = chain.heads_in(path.read_text())
        except FileNotFoundError as error:
            if given is None:
                return {}
            raise CommandError(f"There is no file {path}.") from error
        except OSError as error:
            raise CommandError(f"{path} cannot be read: {error.strerror}.") from error
        if given is not None and not found:
            raise CommandError(f"{path} has no hashes of days.")
        return found

    def _verify(self, heads: dict[date, str]) -> None:
        audit = Audit(heads)
        number = 0
        for number, problem in enumerate(audit.problems(), start=1):
            if number <= SHOWN:
                self.stdout.write(problem)
        read = audit.read
        self.stdout.write(
            f"{read.transactions} transactions with {read.entries} entries were read, "
            f"{read.sealed} days are sealed{_until(read.last_sealed)}, "
            f"{len(heads)} exported hashes were compared."
        )
        self._tell_who_may()
        if number:
            more = f", of which the first {SHOWN} are shown" if number > SHOWN else ""
            raise CommandError(f"The books are NOT sound: {number} problems{more}.")
        self.stdout.write(f"The books are sound. Hash of all of them: {read.hash}")

    def _tell_who_may(self) -> None:
        if weak := protection.weaknesses():
            self.stdout.write(
                f"The application's role could alter the books: {'; '.join(weak)}. What would be "
                "found then are the exported hashes that no longer agree; docs/operate.md tells "
                "how to take it the means."
            )
            return
        self.stdout.write("The application's role may read the books and add to them, no more.")
        if not settings.ENV.database_url:
            self.stdout.write(
                "The database is the embedded one, though: whoever may open its socket may also be "
                "its superuser."
            )

    def _seal(self) -> None:
        try:
            sealed = chain.seal_days()
        except (chain.ChainProblem, Error, OSError) as problem:
            raise CommandError(f"Not sealed: {problem}. Try again in a moment.") from problem
        for day in sealed:
            self.stdout.write(chain.head_line(day))
        if not sealed:
            self.stdout.write("Every day that is over is sealed.")

    def _protect(self) -> None:
        if not protection.is_separate():
            raise CommandError(
                "Set DATABASE_OWNER_URL to the same database as a superuser, or as a role that is "
                "a member of the application's; docs/operate.md has an example."
            )
        try:
            with protection.as_owner():
                protection.protect(protection.application())
        except Error as refused:
            raise CommandError(f"The database refuses: {refused}") from refused
        self._tell_who_may()


def _until(day: date | None) -> str:
    return f" up to {day}" if day else ""
