from argparse import ArgumentParser
from datetime import timedelta

import msgspec
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from inference.node import stock
from inference.node.stock import Stocked


class Command(BaseCommand):
    help = "List, check and clean the downloaded models of this machine."
    requires_system_checks = ()

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("action", choices=["list", "check", "clean"])
        parser.add_argument(
            "--days", type=int, help="clean: unused for so long; 0: all that is unused"
        )

    def handle(self, *, action: str, days: int | None, **options: object) -> None:
        try:
            {"list": self._list, "check": self._check, "clean": lambda: self._clean(days)}[action]()
        except msgspec.DecodeError as error:
            raise CommandError(
                "A record in instances/ cannot be read, so nobody knows what is in use. Start "
                "`modelport node` once."
            ) from error

    def _list(self) -> None:
        stocked = stock.listing(settings.ENV.home)
        for one in stocked:
            self.stdout.write(_line(one))
        if not stocked:
            self.stdout.write("No models were downloaded to this machine.")

    def _check(self) -> None:
        damaged = stock.damaged(settings.ENV.home)
        for choice, file in damaged:
            self.stderr.write(f"{choice.repository} {choice.revision}: {file.name} is damaged")
        if damaged:
            raise CommandError("The next start of an instance fetches these files again.")
        self.stdout.write("Every file is as it came.")

    def _clean(self, days: int | None) -> None:
        env = settings.ENV
        age = env.models_kept_days if days is None else days
        if days is None and not age:
            raise CommandError("No age is set on this machine; say one with --days.")
        removed = stock.clean(env.home, timedelta(days=age))
        for one in removed:
            self.stdout.write(f"removed {_line(one)}")
        freed = sum(one.size_bytes for one in removed)
        self.stdout.write(f"{len(removed)} models removed, {freed / 1e9:.1f} GB.")


def _line(one: Stocked) -> str:
    choice = one.choice
    name = f"{choice.repository}/{choice.model_file}" if choice.model_file else choice.repository
    state = "" if one.whole else "  not finished"
    users = ", ".join(one.users) or "nobody"
    return (
        f"{name}  {choice.revision[:12]}  {one.size_bytes / 1e9:.2f} GB{state}  "
        f"last used {one.used_at:%Y-%m-%d %H:%M} UTC  used by {users}"
    )
