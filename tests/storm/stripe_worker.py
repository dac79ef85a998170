"""What Celery's worker does of payments, without waiting for its schedule. Killed at will."""

import time

import django


def main() -> None:
    django.setup()
    from billing.payments import automatic, outbox, takebacks  # noqa: PLC0415

    while True:
        outbox.work()
        takebacks.follow_refused()
        automatic.run()
        time.sleep(0.5)


if __name__ == "__main__":
    main()
