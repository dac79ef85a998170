"""Each day that is over is sealed by a hash over all of it and of the days before."""

import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

import pytest
from django.core import mail
from django.db import Error, OperationalError, connection, transaction

from accounts.models import Organization
from billing import chain, ledger, tasks, wallet
from billing.ledger import Kind
from billing.models import Entry, LedgerAccount, LedgerDay, LedgerTransaction
from tests.billing.ledger_days import problems, set_clock, the_day_is

A = LedgerAccount.Kind
MONDAY = date(2026, 11, 23)
TUESDAY, WEDNESDAY, THURSDAY = (MONDAY + timedelta(days=n) for n in (1, 2, 3))


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, settings) -> None:
    """Heads go into a file of the home: each test has its own."""
    settings.ENV = replace(settings.ENV, home=tmp_path)


def use(acme: Organization, day: date, *keys: str) -> None:
    with the_day_is(day):
        for key in keys:
            wallet.charge(acme, 5, Kind.USAGE, key, refers_to={"b": 1, "a": "ä"})


def test_days_that_are_over_are_sealed_in_order_and_empty_ones_too(acme: Organization) -> None:
    use(acme, MONDAY, "a", "b")
    use(acme, WEDNESDAY, "c")
    with the_day_is(THURSDAY):
        assert [day.day for day in chain.seal_days()] == [MONDAY, TUESDAY, WEDNESDAY]
        assert chain.seal_days() == []
    monday, tuesday, wednesday = LedgerDay.objects.all()
    assert (monday.transactions, monday.entries) == (2, 4)
    assert (tuesday.transactions, tuesday.first_entry) == (0, None)
    assert (tuesday.previous, wednesday.previous) == (monday.hash, tuesday.hash)
    assert problems() == []


def test_the_day_that_is_not_over_is_not_sealed(acme: Organization) -> None:
    use(acme, MONDAY, "a")
    with the_day_is(MONDAY, "23:59"):
        assert chain.seal_days() == []
        with pytest.raises(Error, match="is not over"), transaction.atomic():
            chain.seal(MONDAY)


def test_without_transactions_there_is_nothing_to_seal(db: None) -> None:
    assert chain.seal_days() == []


def test_the_hash_is_what_the_documentation_says(acme: Organization) -> None:
    """Made by hand, as somebody would who has only docs/operate.md and the tables."""
    use(acme, MONDAY, "a", "b")
    with the_day_is(TUESDAY):
        (day,) = chain.seal_days()

    def time(of) -> str:
        return of.strftime("%Y-%m-%dT%H:%M:%S.%fZ")

    def account(of: LedgerAccount) -> dict:
        return {
            "id": str(of.id),
            "kind": of.kind,
            "organization": str(of.organization_id) if of.organization_id else None,
            "currency": of.currency,
            "reference": of.reference,
            "created_at": time(of.created_at),
        }

    lines = [{"day": "2026-11-23", "previous": "0" * 64, "sealed_at": time(day.sealed_at)}]
    for each in LedgerTransaction.objects.order_by("id"):
        lines.append(
            {
                "id": str(each.id),
                "kind": each.kind,
                "key": each.key,
                "organization": str(each.organization_id),
                "currency": each.currency,
                "description": each.description,
                "refers_to": '{"a": "ä", "b": 1}',
                "reverses": None,
                "day": "2026-11-23",
                "created_at": time(each.created_at),
                "entries": [
                    {"id": entry.id, "account": account(entry.account), "nano": entry.nano}
                    for entry in each.entries.order_by("id")
                ],
            }
        )
    text = "".join(
        json.dumps(each, sort_keys=True, separators=(",", ":"), ensure_ascii=False) + "\n"
        for each in lines
    )
    assert day.hash == hashlib.sha256(text.encode()).hexdigest()


def test_a_sealed_day_takes_no_more_entries(acme: Organization) -> None:
    use(acme, MONDAY, "a")
    old = LedgerTransaction.objects.get(key="a")
    with the_day_is(TUESDAY):
        chain.seal_days()
    with pytest.raises(Error, match="2026-11-23 is sealed"), transaction.atomic():
        Entry.objects.create(transaction=old, account=ledger.account(A.CASH, "USD"), nano=1)


def test_what_is_posted_late_goes_on_the_day_after_the_sealed_one(acme: Organization) -> None:
    """Also where the clock is set back: no day is opened again."""
    use(acme, MONDAY, "a")
    with the_day_is(TUESDAY):
        chain.seal_days()
    use(acme, MONDAY, "late")
    late = LedgerTransaction.objects.get(key="late")
    assert late.day == TUESDAY
    assert {entry.day for entry in late.entries.all()} == {TUESDAY}
    assert problems() == []


def test_nobody_says_themselves_on_which_day_they_post(acme: Organization) -> None:
    with the_day_is(TUESDAY):
        made = LedgerTransaction.objects.create(
            kind=Kind.USAGE, key="x", currency="USD", day=MONDAY
        )
        made.refresh_from_db()
        assert made.day == TUESDAY


@pytest.mark.parametrize(
    "day", [MONDAY - timedelta(days=1), MONDAY, WEDNESDAY], ids=["before", "again", "with a gap"]
)
def test_the_database_refuses_a_day_that_does_not_follow(acme: Organization, day: date) -> None:
    use(acme, MONDAY, "a")
    with the_day_is(TUESDAY):
        (monday,) = chain.seal_days()
    monday.day, monday.previous = day, monday.hash
    with the_day_is(THURSDAY), pytest.raises(Error), transaction.atomic():
        monday.save(force_insert=True)


def test_heads_are_kept_in_a_file_once(acme: Organization, settings) -> None:
    use(acme, MONDAY, "a")
    with the_day_is(WEDNESDAY):
        chain.seal_days()
    path = settings.ENV.ledger_heads
    said = path.read_text()
    assert said.splitlines() == [chain.head_line(day) for day in LedgerDay.objects.all()]
    assert chain.heads_in(said) == {day.day: day.hash for day in LedgerDay.objects.all()}
    assert chain.export() == 0
    path.write_text(said.splitlines()[0] + "\n")  # as if we had died between sealing and telling
    assert chain.export() == 1
    assert path.read_text() == said


def test_heads_are_mailed_to_whom_the_settings_name(acme: Organization, settings) -> None:
    settings.ENV = replace(settings.ENV, ledger_heads_mail="books@acme.example")
    use(acme, MONDAY, "a")
    with the_day_is(WEDNESDAY):
        tasks.seal_ledger()
    (letter,) = mail.outbox
    assert letter.to == ["books@acme.example"]
    assert chain.heads_in(letter.body) == {day.day: day.hash for day in LedgerDay.objects.all()}


@pytest.fixture
def own_transactions(transactional_db: None) -> Iterator[None]:
    yield
    set_clock("SELECT clock_timestamp()")


def in_thread(work) -> threading.Thread:
    def run() -> None:
        try:
            work()
        finally:
            connection.close()

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_sealing_waits_for_who_posts_over_midnight(own_transactions, acme: Organization) -> None:
    """Posted on Monday, committed on Tuesday: it is part of Monday's hash, or Monday is not sealed
    yet."""
    use(acme, MONDAY, "a")
    posted, commit = threading.Event(), threading.Event()

    def slow() -> None:
        with transaction.atomic():
            wallet.charge(acme, 5, Kind.USAGE, "slow")
            posted.set()
            commit.wait(30)

    set_clock(f"SELECT timestamptz ''{MONDAY} 23:59:59.9+00''")
    thread = in_thread(slow)
    assert posted.wait(30)
    set_clock(f"SELECT timestamptz ''{TUESDAY} 00:00:01+00''")
    try:
        with pytest.raises(OperationalError, match="lock timeout"):
            chain.seal_days()
        assert not LedgerDay.objects.exists()
    finally:
        commit.set()
        thread.join()
    (monday,) = chain.seal_days()
    assert monday.transactions == 2
    assert problems() == []


def test_whoever_comes_while_a_day_is_sealed_goes_on_the_next(
    own_transactions, acme: Organization
) -> None:
    """Many threads post while the clock passes midnight and the day is sealed: each is on one side,
    and what is sealed is complete."""
    use(acme, MONDAY, "a")
    set_clock(f"SELECT timestamptz ''{MONDAY} 23:59:59.9+00''")
    stop = threading.Event()

    def post(number: int) -> None:
        turn = 0
        while not stop.is_set():
            wallet.charge(acme, 5, Kind.USAGE, f"{number}-{turn}")
            turn += 1

    threads = [in_thread(lambda n=n: post(n)) for n in range(4)]
    while LedgerTransaction.objects.count() < 10:
        pass
    set_clock(f"SELECT timestamptz ''{TUESDAY} 00:00:01+00''")
    (monday,) = chain.seal_days()
    while not LedgerTransaction.objects.filter(day=TUESDAY).exists():
        pass
    stop.set()
    for thread in threads:
        thread.join()
    assert monday.transactions == LedgerTransaction.objects.filter(day=MONDAY).count() >= 10
    assert problems() == []


def test_who_would_not_see_that_a_day_is_sealed_may_not_post(
    own_transactions, acme: Organization
) -> None:
    with pytest.raises(Error, match="read committed"), transaction.atomic():
        connection.cursor().execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        wallet.charge(acme, 5, Kind.USAGE, "a")
