import sys

from django.conf import settings
from django.core.management.base import BaseCommand

from portal.doctor import examine

SIGNS = {True: "ok", False: "MISSING", None: "note"}


class Command(BaseCommand):
    help = "Say what is missing on this machine and how to mend it."
    requires_system_checks = ()

    def handle(self, **options: object) -> None:
        findings = examine(settings.ENV)
        for finding in findings:
            self.stdout.write(f"{SIGNS[finding.ok]:>8}  {finding.what}")
            if finding.remedy:
                self.stdout.write(f"          → {finding.remedy}")
        if any(finding.ok is False for finding in findings):
            sys.exit(1)
