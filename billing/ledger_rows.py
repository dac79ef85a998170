"""The whole ledger, read row by row in the order of its chain, however long it is."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from typing import Any, NamedTuple

import msgspec
from django.db import connection, transaction

from billing import ledger_format

ROWS_AT_ONCE = 10_000


class TransactionRow(NamedTuple):
    day: date
    id: str
    kind: str
    key: str
    organization: str | None
    currency: str
    description: str
    refers_to: str
    reverses: str | None
    created_at: str


class EntryRow(NamedTuple):
    day: date
    transaction: str
    id: int
    account: str
    nano: int


@dataclass(frozen=True)
class Account:
    kind: str
    currency: str
    json: msgspec.Raw


@dataclass(frozen=True)
class Posted:
    """A transaction with its entries; or, without it, entries that say they belong to one that is
    not there on their day."""

    transaction: TransactionRow | None
    entries: list[EntryRow]


# As the format wants them, made by the database, which is faster at it.
_TIME = """to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')"""
_ACCOUNTS = f"""
    SELECT id::text, kind, organization_id::text, currency, reference, {_TIME}
    FROM billing_ledger_account
"""  # noqa: S608
_TRANSACTIONS = f"""
    SELECT day, id::text, kind, key, organization_id::text, currency, description, refers_to::text,
        reverses_id::text, {_TIME}
    FROM billing_ledger_transaction WHERE day BETWEEN %s AND %s
    ORDER BY billing_ledger_transaction.day, billing_ledger_transaction.id
"""  # noqa: S608
_ENTRIES = """
    SELECT day, transaction_id::text, id, account_id::text, nano
    FROM billing_ledger_entry WHERE day BETWEEN %s AND %s
    ORDER BY billing_ledger_entry.day, billing_ledger_entry.transaction_id, billing_ledger_entry.id
"""


@contextmanager
def snapshot() -> Iterator[None]:
    """All that is read within belongs to one moment; inside a transaction, to that one's."""
    begun = connection.in_atomic_block
    with transaction.atomic():
        if not begun:
            with connection.cursor() as cursor:
                cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        yield


def accounts() -> dict[str, Account]:
    """All of them, by id."""
    found = {}
    with connection.cursor() as cursor:
        cursor.execute(_ACCOUNTS)
        for id_, kind, organization, currency, reference, created_at in cursor.fetchall():
            known = ledger_format.Account(created_at, currency, id_, kind, organization, reference)
            found[id_] = Account(kind, currency, ledger_format.account_json(known))
    return found


def posted(since: date = date.min, until: date = date.max) -> Iterator[Posted]:
    """In the chain's order: by day, transaction, entry."""
    entries = (EntryRow._make(row) for row in _stream(_ENTRIES, [since, until]))
    entry = next(entries, None)
    for row in _stream(_TRANSACTIONS, [since, until]):
        known = TransactionRow._make(row)
        at = (known.day, known.id)
        while entry is not None and (entry.day, entry.transaction) < at:
            yield Posted(None, [entry])
            entry = next(entries, None)
        mine = []
        while entry is not None and entry.transaction == known.id and entry.day == known.day:
            mine.append(entry)
            entry = next(entries, None)
        yield Posted(known, mine)
    while entry is not None:
        yield Posted(None, [entry])
        entry = next(entries, None)


def line(
    of: TransactionRow, entries: Sequence[EntryRow], known: Mapping[str, Account]
) -> ledger_format.Transaction:
    """As the chain has it. Raises KeyError: an account is not known."""
    return ledger_format.Transaction(
        created_at=of.created_at,
        currency=of.currency,
        day=of.day.isoformat(),
        description=of.description,
        entries=[ledger_format.Entry(known[e.account].json, e.id, e.nano) for e in entries],
        id=of.id,
        key=of.key,
        kind=of.kind,
        organization=of.organization,
        refers_to=of.refers_to,
        reverses=of.reverses,
    )


def _stream(query: str, parameters: list[date]) -> Iterator[tuple[Any, ...]]:
    """By a cursor of the server's: it needs a transaction."""
    with connection.chunked_cursor() as cursor:
        cursor.execute(query, parameters)
        while rows := cursor.fetchmany(ROWS_AT_ONCE):
            yield from rows
