from typing import Any

from django.core.management.commands import migrate

from billing import protection


class Command(migrate.Command):
    """Django's own, run as the owner of the database, who then keeps the ledger's tables."""

    def handle(self, *args: Any, **options: Any) -> None:
        with protection.as_owner():
            super().handle(*args, **options)
            changes_nothing = options.get("plan") or options.get("check_unapplied")
            if protection.is_separate() and not changes_nothing:
                protection.protect(protection.application())
