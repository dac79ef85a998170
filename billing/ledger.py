"""The books: double entry, append-only. The only writer of entries and balances.

Every transaction has a key; the same key again posts nothing, so whatever posts may be repeated.
The entries of a transaction sum to 0, which the database checks when it commits. Balances are kept
in the same transaction, and their rows are locked in one order, so that no two posts wait for each
other.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC
from typing import Any
from uuid import UUID

from django.db import connection, transaction
from django.utils import timezone

from accounts.models import Organization
from billing.models import Balance, Entry, LedgerAccount, LedgerTransaction

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
    currencies = {each.currency for each in amounts}
    if len(currencies) != 1 or sum(amounts.values()) != 0:
        raise LedgerProblem("entries are of one currency, and their sum is 0")
    owner = organization.id if isinstance(organization, Organization) else organization
    made, new = LedgerTransaction.objects.get_or_create(
        key=key,
        defaults={
            "kind": kind,
            "organization_id": owner,
            "currency": currencies.pop(),
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
_ADD = """
    INSERT INTO billing_ledger_balance AS b (account_id, nano) VALUES (%s, %s)
    ON CONFLICT (account_id) DO UPDATE SET nano = b.nano + EXCLUDED.nano
    RETURNING nano
"""


def _add_to_balances(amounts: Mapping[LedgerAccount, int], guarded: set[UUID]) -> None:
    with connection.cursor() as cursor:
        # The house's own last: everybody meets there, so they are held for the shortest time.
        for account in sorted(amounts, key=lambda a: (a.organization_id is None, a.id)):
            cursor.execute(_ADD, [account.id, amounts[account]])
            (nano,) = cursor.fetchone()
            if nano < 0 and amounts[account] < 0 and account.id in guarded:
                raise Overdrawn(account.id)
