from argparse import ArgumentParser

from django.core.management.base import BaseCommand, CommandError

from accounts.models import User


class Command(BaseCommand):
    help = "Make a person an operator of this installation, or take that back."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("email", help="of somebody who has signed up")
        parser.add_argument("--remove", action="store_true", help="an operator no longer")

    def handle(self, *, email: str, remove: bool, **options: object) -> None:
        changed = User.objects.filter(email=email.lower()).update(is_staff=not remove)
        if not changed:
            raise CommandError(f"Nobody has signed up as {email}.")
        self.stdout.write(f"{email} is {'no operator any more' if remove else 'an operator now'}.")
