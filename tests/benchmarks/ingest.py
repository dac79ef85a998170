"""Usage rows a second into PostgreSQL, priced and booked in the ledger, as the meter ships them.

    make bench

A PostgreSQL of its own that flushes each commit to the disk. Each way is measured in rounds that
take turns, so that other load meets all of them: at no price (rows alone), at a price (rows and
ledger entries), and at a price with a discount and something free. Writes `ingest.json`.
"""

import argparse
import json
import os
import time
from pathlib import Path
from statistics import median
from typing import Any

import django

RESULT = Path(__file__).parent / "ingest.json"
DURABLE = ("fsync", "synchronous_commit", "full_page_writes")
WAYS = ("rows alone", "with ledger", "with ledger and terms")
TARGET = 20_000  # rows a second, with ledger entries


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=0, help="requests; default: the meter's")
    parser.add_argument("--batches", type=int, default=10, help="in one round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--organizations", type=int, default=20)
    options = parser.parse_args()
    from tests import servers  # noqa: PLC0415  - which start as they are imported

    try:
        django.setup()
        figures = measure(options)
    finally:
        servers._stop()
    RESULT.write_text(json.dumps(figures, indent=1) + "\n")
    print(json.dumps(figures, indent=1))
    return 0 if figures["with ledger"]["median"] >= TARGET else 1


def measure(options: argparse.Namespace) -> dict[str, Any]:
    from inference.meter import BATCH  # noqa: PLC0415

    size = options.batch or BATCH
    houses = prepare(options.organizations)
    speeds: dict[str, list[float]] = {way: [] for way in WAYS}
    for number in range(options.rounds + 1):
        for way in WAYS:
            speed = one_round(houses[way], size, options.batches)
            if number:  # the first warms up
                speeds[way].append(speed)
    figures: dict[str, Any] = {
        way: {"median": round(median(found)), "best": round(max(found))}
        for way, found in speeds.items()
    }
    ratio = figures["with ledger"]["median"] / figures["rows alone"]["median"]
    return {
        "unit": "rows/s",
        "batch": size,
        "organizations": options.organizations,
        **figures,
        "with ledger / rows alone": round(ratio, 3),
        "ledger entries": check(),
    }


def prepare(organizations: int) -> dict[str, list[tuple[Any, Any, bytes]]]:
    """For each way its organizations, each with a key and the price of its requests."""
    from django.core.management import call_command  # noqa: PLC0415
    from django.db import connection  # noqa: PLC0415

    from accounts.models import ApiKey, Organization, User  # noqa: PLC0415
    from billing import wallet  # noqa: PLC0415
    from billing.models import PriceBook, Terms  # noqa: PLC0415

    call_command("migrate", verbosity=0)
    with connection.cursor() as cursor:
        for name in DURABLE:
            cursor.execute(f"ALTER SYSTEM SET {name} = on")
        cursor.execute("SELECT pg_reload_conf()")
    book = PriceBook.of_house("USD")
    free = book.versions.get()
    rates = {"prompt": 150_000_000, "cached": 75_000_000, "completion": 600_000_000}
    paid = book.set_rates(rates | {"reasoning": 600_000_000, "request": 1000})
    alice = User.objects.create_user(email="alice@acme.example")
    houses: dict[str, list[tuple[Any, Any, bytes]]] = {}
    for way in WAYS:
        version = free if way == WAYS[0] else paid
        houses[way] = []
        for number in range(organizations):
            organization = Organization.found(f"{way} {number}", alice)
            key, _plain = ApiKey.issue(organization, alice, "key")
            wallet.pay_in(organization, 10**15, "topup", f"topup:{organization.id}")
            if way == WAYS[2]:
                Terms.agree(organization, alice, discount=500, free_tokens=10**12)
            houses[way].append((organization, key, version.id.bytes))
    return houses


def one_round(houses: list[tuple[Any, Any, bytes]], size: int, batches: int) -> float:
    """Rows a second."""
    from billing import usage  # noqa: PLC0415

    prepared = [batch_of(houses, size) for _ in range(batches)]
    began = time.perf_counter()
    for batch in prepared:
        assert usage.ingest(batch) == size
    return size * batches / (time.perf_counter() - began)


def batch_of(houses: list[tuple[Any, Any, bytes]], size: int) -> list[Any]:
    from tests.billing.records import admit, final  # noqa: PLC0415

    batch = []
    for number in range(size):
        organization, key, version = houses[number % len(houses)]
        request = admit(organization, key=key.id)
        request.price_version = version
        batch.append((request, final(request, prompt=800 + number, completion=200, cached=100)))
    return batch


def check() -> int:
    """The entries posted; raises where the books and the rows disagree."""
    from django.db.models import Sum  # noqa: PLC0415

    from billing.models import Balance, Entry, UsageEvent  # noqa: PLC0415

    charged = UsageEvent.objects.aggregate(sum=Sum("cost_nano"))["sum"]
    revenue = Balance.objects.get(account__kind="revenue").nano
    assert charged == revenue, (charged, revenue)
    assert Balance.objects.aggregate(sum=Sum("nano"))["sum"] == 0
    return Entry.objects.count()


if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "portal.settings")
    raise SystemExit(main())
