"""Days of the ledger for tests: the clock that days are given by, set to another day."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date

from django.db import connection

from billing.auditor import Audit

CLOCK = "CREATE OR REPLACE FUNCTION modelport_ledger_now() RETURNS timestamptz LANGUAGE sql AS '{}'"


@contextmanager
def the_day_is(day: date, time: str = "12:00") -> Iterator[None]:
    """Its owner may do this; the application's role may not."""
    set_clock(f"SELECT timestamptz ''{day} {time}+00''")
    try:
        yield
    finally:
        set_clock("SELECT clock_timestamp()")


def set_clock(query: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(CLOCK.format(query))


def problems(heads: dict[date, str] | None = None) -> list[str]:
    return list(Audit(heads).problems())
