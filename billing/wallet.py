"""What an organization has to spend, and how spending is booked.

Promotional credit goes first, the one that expires first before others; then what was paid in;
then, for who pays later or where usage was under way when the credit ended, what is owed.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.db.models import F, Q
from django.utils import timezone

from accounts.models import Organization, User
from billing import holds, ledger
from billing.ledger import KeyTaken, Kind, LedgerProblem, Overdrawn, Posting
from billing.models import BillingProfile, Grant, LedgerAccount, LedgerTransaction
from portal.lib.ids import uuid7

A = LedgerAccount.Kind


@dataclass(frozen=True)
class Funds:
    """Nano-units."""

    currency: str
    wallet: int
    grants: int
    owed: int  # not negative

    @property
    def available(self) -> int:
        return self.wallet + self.grants


def profile_of(organization: Organization) -> BillingProfile:
    """Made at the first look, in the house's currency."""
    profile, _ = BillingProfile.objects.get_or_create(
        organization=organization, defaults={"currency": settings.ENV.currency}
    )
    return profile


def currency_of(organization: Organization) -> str:
    """Its own, or the house's until it has one."""
    own = BillingProfile.objects.filter(organization=organization).values_list(
        "currency", flat=True
    )
    return own.first() or settings.ENV.currency


def wallet_of(organization: Organization) -> LedgerAccount:
    return ledger.account(A.WALLET, profile_of(organization).currency, organization)


def funds(organization: Organization) -> Funds:
    profile = profile_of(organization)
    mine = LedgerAccount.objects.filter(organization=organization, currency=profile.currency)
    sums: dict[str, int] = {}
    for kind, nano in mine.filter(balance__isnull=False).values_list("kind", "balance__nano"):
        sums[kind] = sums.get(kind, 0) + nano
    return Funds(
        profile.currency,
        sums.get(A.WALLET, 0),
        sums.get(A.GRANT, 0),
        max(0, -sums.get(A.RECEIVABLE, 0)),
    )


@transaction.atomic
def charge(
    organization: Organization,
    nano: int,
    kind: str,
    key: str,
    *,
    description: str = "",
    refers_to: Mapping[str, Any] | None = None,
) -> LedgerTransaction:
    """Book what was used. It has been used, so it is never refused: what no credit covers is owed.

    Once per key. Raises KeyTaken; LedgerProblem: not more than 0.
    """
    currency = _currency_for(organization, nano)
    revenue = ledger.account(A.REVENUE, currency)
    if (posted := _posted(key, kind, revenue, nano)) is not None:
        return posted
    sources = _sources([(organization.id, currency)])[organization.id, currency]
    entries = _spent(organization.id, revenue, nano, sources)
    return ledger.post(
        kind,
        key,
        entries,
        organization=organization,
        description=description,
        refers_to=refers_to,
    )


@dataclass(frozen=True)
class Charge:
    """What one organization has used, in nano-units; more than 0."""

    organization_id: UUID
    currency: str
    nano: int
    kind: str
    key: str
    refers_to: Mapping[str, Any] = field(default_factory=dict)
    id: UUID = field(default_factory=uuid7)  # of the transaction that it becomes


@transaction.atomic
def charge_new(charges: Sequence[Charge]) -> None:
    """As `charge`, for several whose keys nobody has used yet: one for each organization and
    currency, in a few statements for all of them. Raises IntegrityError where a key is taken."""
    sources = _sources([(each.organization_id, each.currency) for each in charges])
    currencies = {each.currency for each in charges}
    revenue = {currency: ledger.account(A.REVENUE, currency) for currency in currencies}
    postings = []
    # In one order, for where accounts are opened on the way.
    for each in sorted(charges, key=lambda charge: (charge.organization_id, charge.currency)):
        payer = each.organization_id, each.currency
        entries = _spent(each.organization_id, revenue[each.currency], each.nano, sources[payer])
        postings.append(
            Posting(
                each.kind,
                each.key,
                entries,
                each.organization_id,
                refers_to=each.refers_to,
                id=each.id,
            )
        )
    ledger.post_new(postings)


@transaction.atomic
def pay_in(
    organization: Organization,
    nano: int,
    kind: str,
    key: str,
    *,
    description: str = "",
    refers_to: Mapping[str, Any] | None = None,
) -> LedgerTransaction:
    """Credit what was paid, by card or by the operator's word: what is owed first, the rest to the
    wallet. Once per key. Raises KeyTaken; LedgerProblem: not more than 0."""
    currency = _currency_for(organization, nano)
    cash = ledger.account(A.CASH, currency)
    if (posted := _posted(key, kind, cash, -nano)) is not None:
        return posted
    mine, receivable = wallet_of(organization), ledger.account(A.RECEIVABLE, currency, organization)
    # Both at once, in the one order: who charges at the same time needs both as well.
    owed = max(0, -ledger.lock([receivable, mine])[0])
    settled = min(owed, nano)
    posted = ledger.post(
        kind,
        key,
        [(cash, -nano), (receivable, settled), (mine, nano - settled)],
        organization=organization,
        description=description,
        refers_to=refers_to,
    )
    holds.credited(organization)
    return posted


@transaction.atomic
def pay_out(
    organization: Organization,
    nano: int,
    kind: str,
    key: str,
    *,
    wholly: bool = False,
    description: str = "",
    refers_to: Mapping[str, Any] | None = None,
) -> LedgerTransaction:
    """Money goes back to whoever paid: out of the wallet, and what is spent already is owed.

    `wholly`: only where the wallet has all of it, and nobody holds any of it. Once per key. Raises
    Overdrawn, KeyTaken; LedgerProblem: not more than 0.
    """
    currency = _currency_for(organization, nano)
    cash = ledger.account(A.CASH, currency)
    if (posted := _posted(key, kind, cash, nano)) is not None:
        return posted
    mine, receivable = wallet_of(organization), ledger.account(A.RECEIVABLE, currency, organization)
    left = max(0, ledger.lock([mine, receivable])[0])
    if wholly and holds.available(organization) < nano:
        raise Overdrawn(mine.id)
    part = nano if wholly else min(nano, left)
    return ledger.post(
        kind,
        key,
        [(cash, nano), (mine, -part), (receivable, part - nano)],
        organization=organization,
        description=description,
        refers_to=refers_to,
        not_below_zero=[mine],
    )


@transaction.atomic
def undo(what: LedgerTransaction, key: str, *, description: str = "") -> LedgerTransaction:
    """Reverse a transaction of an organization, once. What it credited and is spent already cannot
    be taken back: that is owed. Raises AlreadyReversed, KeyTaken."""
    ledger.check_reversible(what, key)
    if (posted := ledger.claim(key)) is not None:
        if posted.reverses_id != what.id:
            raise KeyTaken(key)
        return posted
    owner = what.organization_id
    mine = ledger.account(A.WALLET, what.currency, owner)
    receivable = ledger.account(A.RECEIVABLE, what.currency, owner)
    changes = {mine: 0, receivable: 0}
    changes |= {e.account: -e.nano for e in what.entries.select_related("account")}
    theirs = [account for account in changes if account.organization_id == owner]
    before = dict(zip(theirs, ledger.lock(theirs), strict=True))
    for account in theirs:
        if account != receivable:
            spent = max(0, -changes[account] - max(0, before[account]))
            changes[account] += spent
            changes[receivable] -= spent
    # What was owed for it and has been paid since is theirs again.
    paid = max(0, before[receivable] + changes[receivable])
    changes[receivable] -= paid
    changes[mine] += paid
    # What comes back to a grant that has expired is taken back as the rest of it was.
    Grant.objects.filter(account__in=[a for a in theirs if changes[a] > 0]).update(expired_at=None)
    undone = ledger.post(
        Kind.REVERSAL,
        key,
        changes,
        organization=owner,
        description=description,
        refers_to={"transaction": str(what.id)},
        reverses=what,
    )
    if what.organization is not None:
        holds.credited(what.organization)
    return undone


def hold(organization: Organization, currency: str) -> None:
    """Until the end of the transaction nothing is charged to it: what is booked is complete."""
    _sources([(organization.id, currency)])


@transaction.atomic
def settle(
    organization: Organization,
    house: Mapping[LedgerAccount, int],
    kind: str,
    key: str,
    *,
    description: str = "",
    refers_to: Mapping[str, Any] | None = None,
) -> LedgerTransaction | None:
    """Post these amounts to the house's accounts, of one currency, and the other side to the
    organization: what it is charged as usage is, what it gets to what it owes first, the rest to
    its wallet. Once per key; None where there is nothing to post."""
    amounts = {account: nano for account, nano in house.items() if nano}
    if not amounts:
        return None
    if (posted := ledger.claim(key)) is not None:
        return posted
    currency = next(iter(amounts)).currency
    charged = sum(amounts.values())
    sources = _sources([(organization.id, currency)])[organization.id, currency]
    entries = list(amounts.items())
    if charged > 0:
        any_account = next(iter(amounts))
        entries += _spent(organization.id, any_account, charged, sources)[1:]
    elif charged < 0:
        owed = next((each for each in sources if each[0].kind == A.RECEIVABLE), None)
        settled = min(-charged, max(0, -owed[1])) if owed else 0
        if owed and settled:
            entries.append((owed[0], settled))
        if -charged > settled:
            wallet = ledger.account(A.WALLET, currency, organization)
            entries.append((wallet, -charged - settled))
    posted = ledger.post(
        kind,
        key,
        entries,
        organization=organization,
        description=description,
        refers_to=refers_to,
    )
    if charged < 0:
        holds.credited(organization)
    return posted


@transaction.atomic
def grant(
    organization: Organization,
    nano: int,
    by: User | None,
    *,
    reason: str,
    key: str,
    expires_at: datetime | None = None,
) -> Grant:
    """Give promotional credit, once per key. Raises KeyTaken; LedgerProblem: not more than 0."""
    currency = _currency_for(organization, nano)
    account = ledger.account(A.GRANT, currency, organization, reference=_reference(key))
    given, new = Grant.objects.get_or_create(
        account=account,
        defaults={
            "organization": organization,
            "nano": nano,
            "reason": reason,
            "expires_at": expires_at,
            "created_by": by,
        },
    )
    if given.nano != nano:
        raise KeyTaken(key)
    if new:
        house = ledger.account(A.PROMOTION, currency)
        ledger.post(
            Kind.GRANT,
            f"grant:{given.id}",
            {house: -nano, account: nano},
            organization=organization,
            description=reason,
            refers_to={"grant": str(given.id)},
        )
        holds.credited(organization)
    return given


def expire_grants(now: datetime | None = None) -> int:
    """Take back what is left of grants whose time has passed; how many those were. What was let in
    while they had not may still be spent of them: that is taken back once it is not."""
    now = now or timezone.now()
    due = Grant.objects.filter(expires_at__lte=now, expired_at=None)
    over = list(due.select_related("account", "organization"))
    return sum(_expire(given, now) for given in over)


@transaction.atomic
def _expire(given: Grant, now: datetime) -> bool:
    """Whether nothing is left of it."""
    left, _ = ledger.lock([given.account, wallet_of(given.organization)])
    expired = Grant.objects.filter(
        organization=given.organization, expires_at__lte=now, expired_at=None
    )
    free = sum(ledger.balance(each.account) for each in expired.select_related("account"))
    free -= holds.standing(given.organization).held
    back = min(left, max(free, 0))
    if back > 0:
        house = ledger.account(A.PROMOTION, given.account.currency)
        ledger.post(
            Kind.EXPIRY,
            f"expiry:{given.id}:{given.account.entries.count()}",
            {given.account: -back, house: back},
            organization=given.organization,
            description=given.reason,
            refers_to={"grant": str(given.id)},
        )
    if back < left:
        return False
    return bool(Grant.objects.filter(id=given.id, expired_at=None).update(expired_at=now))


Payer = tuple[UUID, str]  # an organization, and a currency


def _sources(payers: Iterable[Payer]) -> dict[Payer, list[tuple[LedgerAccount, int]]]:
    """Of each the accounts that pay, in their order, with their balances; what it owes comes last.

    All are locked until the end of the transaction.
    """
    found: dict[Payer, list[LedgerAccount]] = {payer: [] for payer in payers}
    mine = LedgerAccount.objects.filter(
        # Those whose time has passed, too, until they are taken back: what is left of them then is
        # for what was let in before.
        Q(kind=A.GRANT, grant__expired_at=None) | Q(kind__in=[A.WALLET, A.RECEIVABLE]),
        organization_id__in={organization_id for organization_id, _currency in found},
    )
    for account in mine.order_by(F("grant__expires_at").asc(nulls_last=True), "grant__id", "id"):
        payer = account.organization_id, account.currency
        if payer in found:
            found[payer].append(account)
    accounts = [account for theirs in found.values() for account in theirs]
    balance = dict(zip(accounts, ledger.lock(accounts), strict=True))
    order = (A.GRANT, A.WALLET, A.RECEIVABLE)
    return {
        payer: [
            (account, balance[account])
            for kind in order
            for account in theirs
            if account.kind == kind
        ]
        for payer, theirs in found.items()
    }


def _spent(
    organization_id: UUID,
    revenue: LedgerAccount,
    nano: int,
    sources: Sequence[tuple[LedgerAccount, int]],
) -> list[tuple[LedgerAccount, int]]:
    """The entries for what was used: taken where there is something, the rest is owed."""
    entries = [(revenue, nano)]
    left = nano
    for account, balance in sources:
        part = left if account.kind == A.RECEIVABLE else min(left, balance)
        if part > 0:
            entries.append((account, -part))
            left -= part
    if left:
        owed = ledger.account(A.RECEIVABLE, revenue.currency, organization_id)
        entries.append((owed, -left))
    return entries


def _currency_for(organization: Organization, nano: int) -> str:
    if nano <= 0:
        raise LedgerProblem("an amount is more than 0")
    return profile_of(organization).currency


def _posted(key: str, kind: str, house: LedgerAccount, nano: int) -> LedgerTransaction | None:
    """What was posted under the key, which is then for this amount; it may have been taken from
    other accounts than it would be now. Raises KeyTaken."""
    posted = ledger.claim(key)
    if posted is None:
        return None
    if posted.kind != kind or not posted.entries.filter(account=house, nano=nano).exists():
        raise KeyTaken(key)
    return posted


def _reference(key: str) -> str:
    """A name for the account, of what length it may have."""
    return key if len(key) <= 64 else hashlib.sha256(key.encode()).hexdigest()
