"""P6: the application's role cannot alter the books, and who can leaves a trace."""

# ruff: noqa: S608  the statements are of our own making

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command
from django.db import Error, connection, transaction

from accounts.models import Organization, User
from billing import chain, protection, usage, wallet
from billing.ledger import Kind
from billing.models import Entry, LedgerDay, LedgerTransaction
from tests.billing.ledger_days import problems, the_day_is

MONDAY = date(2026, 11, 23)
TUESDAY, WEDNESDAY = MONDAY + timedelta(days=1), MONDAY + timedelta(days=2)
APPLICATION = "modelport_test_application"


@pytest.fixture(autouse=True)
def books(acme: Organization, alice: User, tmp_path: Path, settings) -> None:
    """Two sealed days, and one that is not; with all rules switched on."""
    settings.ENV = replace(settings.ENV, home=tmp_path)
    with connection.cursor() as cursor:
        for table in protection.BOOKS:
            cursor.execute(f"ALTER TABLE {table} ENABLE TRIGGER stays_whole")
    with the_day_is(MONDAY):
        wallet.pay_in(acme, 100, Kind.TOPUP, "paid", description="by card")
        wallet.grant(acme, 50, alice, reason="hello", key="hello")
        wallet.charge(acme, 30, Kind.USAGE, "monday", refers_to={"batch": 1})
    with the_day_is(TUESDAY):
        wallet.charge(acme, 60, Kind.USAGE, "tuesday")
        wallet.pay_in(acme, 5, Kind.CREDIT, "credit")
    with the_day_is(WEDNESDAY):
        chain.seal_days()
        wallet.charge(acme, 10, Kind.USAGE, "wednesday")
    with connection.cursor() as cursor:  # as at the end of a transaction
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
        cursor.execute("SET CONSTRAINTS ALL DEFERRED")


@contextmanager
def application_role() -> Iterator[None]:
    """As on the embedded server: a role without any rights but those that it is given."""
    with connection.cursor() as cursor:
        cursor.execute(f"CREATE ROLE {APPLICATION}")
        protection.protect(APPLICATION)
        cursor.execute(f"SET ROLE {APPLICATION}")
        yield
        cursor.execute("RESET ROLE")


REFUSED = [
    "UPDATE billing_ledger_entry SET nano = nano + 1",
    "DELETE FROM billing_ledger_entry",
    "TRUNCATE billing_ledger_entry CASCADE",
    "UPDATE billing_ledger_transaction SET description = 'x'",
    "DELETE FROM billing_ledger_transaction",
    "TRUNCATE billing_ledger_transaction CASCADE",
    "UPDATE billing_ledger_account SET kind = 'cash'",
    "DELETE FROM billing_ledger_account",
    "TRUNCATE billing_ledger_account CASCADE",
    "UPDATE billing_ledger_day SET hash = previous",
    "DELETE FROM billing_ledger_day",
    "TRUNCATE billing_ledger_day",
]
DELETE_BALANCE = ["DELETE FROM billing_ledger_balance", "TRUNCATE billing_ledger_balance"]
WAYS_ROUND = [
    "ALTER TABLE billing_ledger_entry DISABLE TRIGGER stays",
    "ALTER TABLE billing_ledger_entry OWNER TO CURRENT_USER",
    "DROP TRIGGER stays ON billing_ledger_entry",
    "DROP TABLE billing_ledger_entry CASCADE",
    "DROP FUNCTION modelport_ledger_stays() CASCADE",
    "CREATE OR REPLACE FUNCTION modelport_ledger_now() RETURNS timestamptz LANGUAGE sql"
    " AS 'SELECT timestamptz ''2000-01-01'''",
    "CREATE TRIGGER mine BEFORE INSERT ON billing_ledger_entry"
    " FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()",
    "SET session_replication_role = replica",
]


@pytest.mark.parametrize("statement", REFUSED + DELETE_BALANCE + WAYS_ROUND)
def test_the_applications_role_may_not_alter_the_books(statement: str) -> None:
    with application_role(), connection.cursor() as cursor:
        with pytest.raises(Error, match=r"permission denied|must be owner"), transaction.atomic():
            cursor.execute(statement)
        assert protection.weaknesses() == []
    assert problems() == []


@pytest.mark.parametrize("statement", REFUSED)
def test_whoever_owns_the_tables_is_refused_too_until_they_switch_the_rules_off(
    statement: str,
) -> None:
    with pytest.raises(Error, match="append-only"), transaction.atomic():
        connection.cursor().execute(statement)


def test_the_applications_role_may_do_its_work(acme: Organization, alice: User) -> None:
    with application_role():
        wallet.charge(acme, 7, Kind.USAGE, "a")
        wallet.pay_in(acme, 7, Kind.TOPUP, "b")
        wallet.grant(acme, 7, alice, reason="c", key="c")
        usage.ensure_partitions()
        acme.save()  # a table of its own
        assert problems() == []


def test_a_table_in_disguise_deceives_no_rule(acme: Organization) -> None:
    """Where a name is looked up, temporary tables come first unless a rule says where to look."""
    paid = LedgerTransaction.objects.get(key="wednesday")
    account = paid.entries.all()[0].account_id
    with application_role(), connection.cursor() as cursor:
        cursor.execute("CREATE TEMP TABLE billing_ledger_entry AS SELECT 0 nano, %s transaction_id "
                       "WHERE false", [paid.id])  # fmt: skip
        with pytest.raises(Error, match="does not sum to 0"), transaction.atomic():
            cursor.execute(
                "INSERT INTO public.billing_ledger_entry (transaction_id, account_id, nano) "
                "VALUES (%s, %s, 1)",
                [paid.id, account],
            )
            cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
        cursor.execute("DROP TABLE pg_temp.billing_ledger_entry")


def test_a_rule_that_is_switched_off_is_told(acme: Organization) -> None:
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE billing_ledger_entry DISABLE TRIGGER stays")
    said = "the rule stays of billing_ledger_entry is switched off"
    assert said in protection.weaknesses()


def as_superuser(statement: str) -> None:
    """With all rules off, as somebody with the disk in their hands could write it."""
    with connection.cursor() as cursor:
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
        cursor.execute("SET session_replication_role = replica")
        try:
            cursor.execute(statement)
            assert cursor.rowcount == 1
        finally:
            cursor.execute("SET session_replication_role = DEFAULT")


ONE_ENTRY = "id = (SELECT min(id) FROM billing_ledger_entry)"
PAID = "key = 'paid'"
FLIPPED = {
    "an entry's amount": (
        f"UPDATE billing_ledger_entry SET nano = nano # 1 WHERE {ONE_ENTRY}",
        [r"2026-11-23: transaction .* sums to", r"2026-11-23: its hash", r"Account .*: its ba"],
    ),
    "an entry's account": (
        "UPDATE billing_ledger_entry SET account_id = (SELECT id FROM billing_ledger_account WHERE "
        f"kind = 'promotion') WHERE {ONE_ENTRY}",
        [r"2026-11-23: its hash", r"Account", r"Account"],
    ),
    "an entry's day": (
        f"UPDATE billing_ledger_entry SET day = day + 1 WHERE {ONE_ENTRY}",
        [r"2026-11-24: entry \d+ belongs to transaction", r"sums to", r"there are"],
    ),
    "a transaction's text": (
        f"UPDATE billing_ledger_transaction SET description = 'by cord' WHERE {PAID}",
        [r"2026-11-23: its hash"],
    ),
    "a transaction's reference": (
        "UPDATE billing_ledger_transaction SET refers_to = '{\"batch\": 0}' WHERE key = 'monday'",
        [r"2026-11-23: its hash"],
    ),
    "a transaction's time": (
        "UPDATE billing_ledger_transaction SET created_at = created_at + interval '1 us' "
        f"WHERE {PAID}",
        [r"2026-11-23: its hash"],
    ),
    "a transaction's organization": (
        f"UPDATE billing_ledger_transaction SET organization_id = NULL WHERE {PAID}",
        [r"2026-11-23: its hash"],
    ),
    "a transaction's key": (
        f"UPDATE billing_ledger_transaction SET key = 'Paid' WHERE {PAID}",
        [r"2026-11-23: its hash"],
    ),
    "a transaction's day": (
        f"UPDATE billing_ledger_transaction SET day = day + 1 WHERE {PAID}",
        [r"2026-11-23: entry", r"2026-11-24: transaction .* has no entries"],
    ),
    "a transaction's currency": (
        f"UPDATE billing_ledger_transaction SET currency = 'USE' WHERE {PAID}",
        [r"is in USE, and its entry \d+ is on an account in USD", r"2026-11-23: its hash"],
    ),
    "an account": (
        "UPDATE billing_ledger_account SET kind = 'cast' WHERE kind = 'cash'",
        [r"2026-11-23: its hash", r"2026-11-24: its hash"],
    ),
    "a balance": (
        "UPDATE billing_ledger_balance SET nano = nano # 1 WHERE account_id = (SELECT id FROM "
        "billing_ledger_account WHERE kind = 'wallet')",
        [r"Account .*: its balance is \d+, its entries sum to \d+"],
    ),
    "a day's hash": (
        "UPDATE billing_ledger_day SET hash = overlay(hash placing CASE left(hash, 1) WHEN 'a' "
        "THEN 'b' ELSE 'a' END from 1) WHERE day = '2026-11-23'",
        [r"2026-11-23: was sealed as", r"2026-11-24: names another hash", r"2026-11-23: its hash"],
    ),
    "the hash before": (
        "UPDATE billing_ledger_day SET previous = 'a' || repeat('0', 63) WHERE day = '2026-11-23'",
        [r"names one before it", r"2026-11-23: its hash"],
    ),
    "a day's count": (
        "UPDATE billing_ledger_day SET entries = entries + 1 WHERE day = '2026-11-23'",
        [r"2026-11-23: was sealed with \d+ entries, and there are \d+"],
    ),
    "a day's first entry": (
        "UPDATE billing_ledger_day SET first_entry = 0 WHERE day = '2026-11-23'",
        [r"2026-11-23: was sealed with entries from 0 to"],
    ),
    "the time of sealing": (
        "UPDATE billing_ledger_day SET sealed_at = sealed_at + interval '1 us' "
        "WHERE day = '2026-11-23'",
        [r"2026-11-23: its hash"],
    ),
    "a missing entry": (
        f"DELETE FROM billing_ledger_entry WHERE {ONE_ENTRY}",
        [r"sums to", r"2026-11-23: was sealed with \d+ entries, and there are", r"Account"],
    ),
    "a missing transaction": (
        f"DELETE FROM billing_ledger_transaction WHERE {PAID}",
        [r"2026-11-23: entry \d+ belongs to transaction", r"was sealed with 3 transactions"],
    ),
    "a missing account": (
        "DELETE FROM billing_ledger_account WHERE kind = 'cash'",
        [r"2026-11-23: account .* is missing, and the ledger names it"],
    ),
    "a missing balance": (
        "DELETE FROM billing_ledger_balance WHERE account_id = (SELECT id FROM "
        "billing_ledger_account WHERE kind = 'wallet')",
        [r"Account .*: has no balance"],
    ),
    "a missing day": (
        "DELETE FROM billing_ledger_day WHERE day = '2026-11-23'",
        [r"2026-11-23: was sealed as .* not in the chain", r"2026-11-24: is the first",
         r"2026-11-23: has transactions, and is not sealed"],
    ),
    "the last day missing": (
        "DELETE FROM billing_ledger_day WHERE day = '2026-11-24'",
        [r"2026-11-24: was sealed as .* not in the chain any more"],
    ),
    "an added entry": (
        "INSERT INTO billing_ledger_entry (transaction_id, account_id, nano, day) SELECT "
        f"transaction_id, account_id, 1, day FROM billing_ledger_entry WHERE {ONE_ENTRY}",
        [r"sums to 1 instead of 0", r"2026-11-23: was sealed with 6 entries, and there are 7"],
    ),
    "an added transaction": (
        "INSERT INTO billing_ledger_transaction SELECT gen_random_uuid() id, kind, 'added' key, "
        "currency, description, refers_to, created_at, organization_id, reverses_id, day "
        f"FROM billing_ledger_transaction WHERE {PAID}",
        [r"has no entries", r"2026-11-23: was sealed with 3 transactions, and there are 4"],
    ),
    "an added day": (
        "INSERT INTO billing_ledger_day SELECT date '2026-11-21' AS day, first_entry, last_entry, "
        "transactions, entries, previous, hash, sealed_at FROM billing_ledger_day "
        "WHERE day = '2026-11-23'",
        [r"2026-11-22: missing from the chain", r"2026-11-21: was sealed with 3 transactions"],
    ),
}  # fmt: skip


def verified() -> tuple[str, bool]:
    """What `modelport ledger verify` prints, and whether it is content."""
    out = io.StringIO()
    try:
        call_command("ledger", "verify", stdout=out)
    except CommandError as error:
        return f"{out.getvalue()}{error}", False
    return out.getvalue(), True


def test_what_nobody_touched_is_sound() -> None:
    said, sound = verified()
    assert sound
    assert "6 transactions with" in said
    assert "2 days are sealed up to 2026-11-24, 2 exported hashes were compared" in said
    # Tests run as the superuser, and this says so.
    assert "could alter the books: it is a superuser." in said


@pytest.mark.parametrize("what", sorted(FLIPPED))
def test_a_flipped_byte_is_found(what: str) -> None:
    statement, sentences = FLIPPED[what]
    as_superuser(statement)
    said, sound = verified()
    assert not sound
    assert "The books are NOT sound" in said
    for sentence in sentences:
        assert re.search(sentence, said), said


def test_a_chain_that_was_made_anew_is_found_by_what_was_exported() -> None:
    """Whoever owns the database changes an entry with its counterpart and both balances, and seals
    both days again: only the hashes that went elsewhere tell."""
    heads = {day.day: day.hash for day in LedgerDay.objects.all()}
    first = Entry.objects.order_by("id").values_list("id", flat=True)
    for id_, by in zip(first[:2], (-1, 1), strict=True):
        as_superuser(f"UPDATE billing_ledger_entry SET nano = nano + {by} WHERE id = {id_}")
        as_superuser(
            f"UPDATE billing_ledger_balance SET nano = nano + {by} WHERE account_id = "
            f"(SELECT account_id FROM billing_ledger_entry WHERE id = {id_})"
        )
    for day in (TUESDAY, MONDAY):
        as_superuser(f"DELETE FROM billing_ledger_day WHERE day = '{day}'")
    with the_day_is(WEDNESDAY):
        for day in (MONDAY, TUESDAY):
            chain.seal(day)
    assert problems() == []
    assert [text[:26] for text in problems(heads)] == [
        "2026-11-23: was sealed as ",
        "2026-11-24: was sealed as ",
    ]


def test_heads_are_taken_from_a_letter(tmp_path: Path) -> None:
    out = io.StringIO()
    call_command("ledger", "heads", stdout=out)
    letter = tmp_path / "letter.eml"
    letter.write_text(f"Subject: hash\n\n> {out.getvalue()}\nregards")
    call_command("ledger", "verify", "--heads", str(letter), stdout=out)
    letter.write_text("Subject: nothing")
    with pytest.raises(CommandError, match="has no hashes"):
        call_command("ledger", "verify", "--heads", str(letter))
    with pytest.raises(CommandError, match="There is no file"):
        call_command("ledger", "verify", "--heads", str(tmp_path / "none"))
