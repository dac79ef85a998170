import os
import signal
import subprocess
import sys

from django.conf import settings
from django.core.management.base import BaseCommand

from portal.lib.locks import leadership
from portal.lib.processes import die_with_parent
from portal.lib.stopping import stop_on_signals


class Command(BaseCommand):
    help = "Run Celery's schedule. One process is active, others stand by."

    def handle(self, **options: object) -> None:
        stop = stop_on_signals()
        schedule = settings.ENV.home / "celerybeat-schedule"
        argv = [sys.executable, "-m", "celery", "-A", "portal.celery", "beat"]
        argv += ["--schedule", str(schedule), "--pidfile=", "--loglevel=INFO"]
        while not stop.is_set():
            with leadership(settings.ENV.database, "beat", stop) as lost:
                if lost is None:
                    return
                beat = subprocess.Popen(argv, env=os.environ, preexec_fn=die_with_parent)
                while beat.poll() is None and not lost.wait(0.5):
                    pass
                beat.send_signal(signal.SIGTERM)
                beat.wait()
