"""The books: double entry, append-only. The only writer of entries and balances.

Every transaction has a key; the same key again posts nothing, so whatever posts may be repeated.
The entries of a transaction sum to 0, which the database checks when it commits. Balances are kept
in the same transaction, and their rows are locked in one order, so that no two posts wait for each
other.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC
from typing import Any
from uuid import UUID

from django.db import connection, transaction
from django.utils import timezone

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
    owner = organization.id if isinstance(organization, Organization) else organization
    made, new = LedgerTransaction.objects.get_or_create(
        key=key,
        defaults={
            "kind": kind,
            "organization_id": owner,
            "currency": currency,
            "description": description,
            "refers_to": dict(refers_to or {}),
            "reverses": reverses,
        },
    )
    if not new:
        if made.kind != kind or _posted(made) != {a.id: n for a, n in amounts.items()}:
            raise KeyTaken(key)
        return made
    today = timezone.now().astimezone(UTC).date()
    Entry.objects.bulk_create(
        Entry(transaction=made, account=each, nano=nano, day=today)
        for each, nano in amounts.items()
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
    today = timezone.now().astimezone(UTC).date()
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
            entries.append(Entry(transaction_id=posting.id, account=each, nano=nano, day=today))
            sums[each] = sums.get(each, 0) + nano
    LedgerTransaction.objects.bulk_create(made)
    Entry.objects.bulk_create(entries)
    _add_to_balances(sums, set())


def reverse(what: LedgerTransaction, key: str, *, description: str = "") -> LedgerTransaction:
    """Undo it by entries of the opposite sign, once."""
    entries = [(e.account, -e.nano) for e in what.entries.select_related("account")]
    return post(
        Kind.REVERSAL,
        key,
        entries,
        organization=what.organization_id,
        description=description,
        refers_to={"transaction": str(what.id)},
        reverses=what,
    )


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
