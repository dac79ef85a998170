from django.core.management.base import BaseCommand

from portal.celery import app


class Command(BaseCommand):
    help = "Run Celery's worker."

    def handle(self, **options: object) -> None:
        app.worker_main(["worker", "--loglevel=INFO", "--concurrency=1", "--without-mingle"])
