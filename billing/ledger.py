"""The books: double entry, append-only. The only writer of entries and balances.

Every transaction has a key; the same key again posts nothing, so whatever posts may be repeated.
The entries of a transaction sum to 0, which the database checks when it commits. Balances are kept
in the same transaction, and their rows are locked in one order, so that no two posts wait for each
other. The day that a transaction belongs to is the database's to say (see `billing.chain`).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from django.db import connection, transaction

from accounts.models import Organization
from billing.models import Balance, Entry, LedgerAccount, LedgerTransaction
from portal.lib.ids import uuid7

Kind = LedgerTransaction.Kind


class LedgerProblem(Exception):
    """What was to be posted cannot be."""


class Overdrawn(LedgerProblem):
    """An account that may not go below 0 would."""

    def __init__(self, account_id: UUID) -> None:
        super().__init__(f"account {account_id} would go below 0")
        self.account_id = account_id


class KeyTaken(LedgerProblem):
    """The key belongs to a transaction that says something else."""


class AlreadyReversed(LedgerProblem):
    """It was undone before, under another key."""


def account(
    kind: str, currency: str, organization: Organization | UUID | None = None, reference: str = ""
) -> LedgerAccount:
    """The account, opened where it is new."""
    owner = organization.id if isinstance(organization, Organization) else organization
    found, _ = LedgerAccount.objects.get_or_create(  # type: ignore[misc]  # null is an owner: us
        organization_id=owner, kind=kind, currency=currency, reference=reference
    )
    return found


def balance(of: LedgerAccount) -> int:
    """Nano-units; 0 where nothing was posted yet."""
    return Balance.objects.filter(account=of).values_list("nano", flat=True).first() or 0


def lock(accounts: Sequence[LedgerAccount]) -> list[int]:
    """Their balances, which nobody else changes until the end of the transaction."""
    ids = [account.id for account in accounts]
    with connection.cursor() as cursor:
        cursor.execute(_OPEN, [ids])
        cursor.execute(_LOCK, [ids])
        found = dict(cursor.fetchall())
    return [found[id_] for id_ in ids]


def claim(key: str) -> LedgerTransaction | None:
    """What was posted under the key. If nothing was, nobody else posts under it until the end of
    this transaction: so whoever looks at balances to find what to post finds it once."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(hashtext('ledger key'), hashtext(%s))", [key])
    return LedgerTransaction.objects.filter(key=key).first()


def entries_of(
    organization: Organization, before: int | None = None, limit: int = 50
) -> list[Entry]:
    """On its accounts, the newest first: those whose ids are less than `before`, at most `limit`.

    Each with its account and transaction.
    """
    with connection.cursor() as cursor:
        cursor.execute(_NEWEST, {"of": organization.id, "before": before, "limit": limit})
        ids = [row[0] for row in cursor.fetchall()]
    found = Entry.objects.filter(id__in=ids).select_related("account", "transaction")
    return list(found.order_by("-id"))


# A few rows of each account, however many it has: by the index of accounts and ids.
_NEWEST = """
    SELECT entry.id FROM billing_ledger_account account, LATERAL (
        SELECT id FROM billing_ledger_entry
        WHERE account_id = account.id AND (%(before)s::bigint IS NULL OR id < %(before)s::bigint)
        ORDER BY id DESC LIMIT %(limit)s
    ) entry
    WHERE account.organization_id = %(of)s ORDER BY entry.id DESC LIMIT %(limit)s
"""


@transaction.atomic
def post(
    kind: str,
    key: str,
    entries: Mapping[LedgerAccount, int] | Sequence[tuple[LedgerAccount, int]],
    *,
    organization: Organization | UUID | None = None,
    description: str = "",
    refers_to: Mapping[str, Any] | None = None,
    not_below_zero: Iterable[LedgerAccount] = (),
    reverses: LedgerTransaction | None = None,
) -> LedgerTransaction:
    """Post once; with a key that is there already, what was posted under it.

    Amounts are nano-units, of accounts of one currency. Raises Overdrawn, KeyTaken, LedgerProblem;
    then nothing is posted.
    """
    amounts = _amounts(entries.items() if isinstance(entries, Mapping) else entries)
    currency = _currency(amounts)
    if (made := claim(key)) is not None:
        if made.kind != kind or _posted(made) != {a.id: n for a, n in amounts.items()}:
            raise KeyTaken(key)
        return made
    made = LedgerTransaction.objects.create(
        kind=kind,
        key=key,
        organization_id=organization.id if isinstance(organization, Organization) else organization,
        currency=currency,
        description=description,
        refers_to=dict(refers_to or {}),
        reverses=reverses,
    )
    Entry.objects.bulk_create(
        Entry(transaction=made, account=each, nano=nano) for each, nano in amounts.items()
    )
    _add_to_balances(amounts, {each.id for each in not_below_zero})
    return made


@dataclass(frozen=True)
class Posting:
    """One of several transactions that are posted together."""

    kind: str
    key: str
    entries: Sequence[tuple[LedgerAccount, int]]  # nano-units
    organization_id: UUID | None = None
    description: str = ""
    refers_to: Mapping[str, Any] = field(default_factory=dict)
    id: UUID = field(default_factory=uuid7)


@transaction.atomic
def post_new(postings: Sequence[Posting]) -> None:
    """Post transactions whose keys nobody has used yet, in a few statements for all of them.

    Raises IntegrityError where a key is there already, LedgerProblem; then nothing is posted.
    """
    made: list[LedgerTransaction] = []
    entries: list[Entry] = []
    sums: dict[LedgerAccount, int] = {}
    for posting in postings:
        amounts = _amounts(posting.entries)
        currency = _currency(amounts)
        made.append(
            LedgerTransaction(
                id=posting.id,
                kind=posting.kind,
                key=posting.key,
                organization_id=posting.organization_id,
                currency=currency,
                description=posting.description,
                refers_to=dict(posting.refers_to),
            )
        )
        for each, nano in amounts.items():
            entries.append(Entry(transaction_id=posting.id, account=each, nano=nano))
            sums[each] = sums.get(each, 0) + nano
    LedgerTransaction.objects.bulk_create(made)
    Entry.objects.bulk_create(entries)
    _add_to_balances(sums, set())


@transaction.atomic
def reverse(what: LedgerTransaction, key: str, *, description: str = "") -> LedgerTransaction:
    """Undo it by entries of the opposite sign, once.

    What was credited by it and is spent leaves its account below 0: where that may be, see
    `wallet.undo`. Raises AlreadyReversed, KeyTaken.
    """
    check_reversible(what, key)
    return post(
        Kind.REVERSAL,
        key,
        [(e.account, -e.nano) for e in what.entries.select_related("account")],
        organization=what.organization_id,
        description=description,
        refers_to={"transaction": str(what.id)},
        reverses=what,
    )


def check_reversible(what: LedgerTransaction, key: str) -> None:
    """Nobody else undoes it until the end of this transaction. Raises AlreadyReversed: by another
    key."""
    claim(f"reversal of {what.id}")
    if LedgerTransaction.objects.filter(reverses=what).exclude(key=key).exists():
        raise AlreadyReversed(f"transaction {what.id} was undone before")


def _amounts(entries: Iterable[tuple[LedgerAccount, int]]) -> dict[LedgerAccount, int]:
    """One sum for each account, without those that come to nothing."""
    amounts: dict[LedgerAccount, int] = {}
    for each, nano in entries:
        amounts[each] = amounts.get(each, 0) + nano
    return {each: nano for each, nano in amounts.items() if nano}


def _currency(amounts: Mapping[LedgerAccount, int]) -> str:
    currencies = {each.currency for each in amounts}
    if len(currencies) != 1 or sum(amounts.values()) != 0:
        raise LedgerProblem("entries are of one currency, and their sum is 0")
    return currencies.pop()


def _posted(made: LedgerTransaction) -> dict[UUID, int]:
    return dict(made.entries.values_list("account_id", "nano"))


_OPEN = """
    INSERT INTO billing_ledger_balance (account_id, nano)
    SELECT id, 0 FROM unnest(%s::uuid[]) AS account (id) ORDER BY id ON CONFLICT DO NOTHING
"""
_LOCK = """
    SELECT account_id, nano FROM billing_ledger_balance WHERE account_id = ANY(%s)
    ORDER BY account_id FOR UPDATE
"""
# In the order in which the amounts are given, so that two who lock the same rows do not cross.
_ADD = """
    INSERT INTO billing_ledger_balance AS b (account_id, nano)
    SELECT * FROM unnest(%s::uuid[], %s::bigint[])
    ON CONFLICT (account_id) DO UPDATE SET nano = b.nano + EXCLUDED.nano
    RETURNING account_id, nano
"""


def _add_to_balances(amounts: Mapping[LedgerAccount, int], guarded: set[UUID]) -> None:
    # The house's own last: everybody meets there, so they are held for the shortest time.
    order = sorted(amounts, key=lambda a: (a.organization_id is None, a.id))
    with connection.cursor() as cursor:
        cursor.execute(_ADD, [[each.id for each in order], [amounts[each] for each in order]])
        now = dict(cursor.fetchall())
    for each in order:
        if now[each.id] < 0 and amounts[each] < 0 and each.id in guarded:
            raise Overdrawn(each.id)
