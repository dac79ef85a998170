"""What an organization has to spend, and how spending is booked.

Promotional credit goes first, the one that expires first before others; then what was paid in;
then, for who pays later or where usage was under way when the credit ended, what is owed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.conf import settings
from django.db import connection, transaction
from django.db.models import Q
from django.utils import timezone

from accounts.models import Organization, User
from billing import ledger
from billing.ledger import Kind
from billing.models import BillingProfile, Grant, LedgerAccount, LedgerTransaction

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

    Once per key. Raises KeyTaken.
    """
    if (posted := LedgerTransaction.objects.filter(key=key).first()) is not None:
        return posted
    currency = profile_of(organization).currency
    revenue = ledger.account(A.REVENUE, currency)
    entries: list[tuple[LedgerAccount, int]] = [(revenue, nano)]
    left = nano
    for account, balance in _sources(organization, currency):
        part = min(left, balance)
        if part > 0:
            entries.append((account, -part))
            left -= part
    if left:
        entries.append((ledger.account(A.RECEIVABLE, currency, organization), -left))
    return ledger.post(
        kind,
        key,
        entries,
        organization=organization,
        description=description,
        refers_to=refers_to,
    )


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
    wallet. Once per key."""
    if (posted := LedgerTransaction.objects.filter(key=key).first()) is not None:
        return posted
    currency = profile_of(organization).currency
    receivable = ledger.account(A.RECEIVABLE, currency, organization)
    owed = max(0, -_locked([receivable, wallet_of(organization)])[0])
    settled = min(owed, nano)
    entries = [(ledger.account(A.CASH, currency), -nano)]
    entries += [(receivable, settled)] if settled else []
    entries += [(wallet_of(organization), nano - settled)] if nano > settled else []
    return ledger.post(
        kind,
        key,
        entries,
        organization=organization,
        description=description,
        refers_to=refers_to,
    )


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

    `wholly`: only where the wallet has all of it. Once per key. Raises Overdrawn, KeyTaken.
    """
    if (posted := LedgerTransaction.objects.filter(key=key).first()) is not None:
        return posted
    currency = profile_of(organization).currency
    mine, receivable = wallet_of(organization), ledger.account(A.RECEIVABLE, currency, organization)
    left = max(0, _locked([mine, receivable])[0])
    part = nano if wholly else min(nano, left)
    entries = [(ledger.account(A.CASH, currency), nano), (mine, -part), (receivable, part - nano)]
    return ledger.post(
        kind,
        key,
        entries,
        organization=organization,
        description=description,
        refers_to=refers_to,
        not_below_zero=[mine],
    )


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
    """Give promotional credit, once per key."""
    currency = profile_of(organization).currency
    account = ledger.account(A.GRANT, currency, organization, reference=key[:64])
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
    return given


def expire_grants(now: datetime | None = None) -> int:
    """Take back what is left of grants whose time has passed; how many those were."""
    now = now or timezone.now()
    due = Grant.objects.filter(expires_at__lte=now, expired_at=None)
    over = list(due.select_related("account", "organization"))
    for given in over:
        with transaction.atomic():
            (left,) = _locked([given.account])
            if left > 0:
                house = ledger.account(A.PROMOTION, given.account.currency)
                ledger.post(
                    Kind.EXPIRY,
                    f"expiry:{given.id}",
                    {given.account: -left, house: left},
                    organization=given.organization,
                    description=given.reason,
                    refers_to={"grant": str(given.id)},
                )
            Grant.objects.filter(id=given.id).update(expired_at=now)
    return len(over)


def _sources(organization: Organization, currency: str) -> list[tuple[LedgerAccount, int]]:
    """The accounts that pay, in their order, each with its balance, locked until the end."""
    grants = Grant.objects.filter(
        Q(expires_at=None) | Q(expires_at__gt=timezone.now()),
        organization=organization,
        expired_at=None,
        account__currency=currency,
    )
    first = grants.order_by("expires_at", "id").select_related("account")
    accounts = [given.account for given in first] + [wallet_of(organization)]
    # What is owed too, though it pays nothing: two who lock in different orders wait for ever.
    owed = ledger.account(A.RECEIVABLE, currency, organization)
    return list(zip(accounts, _locked([*accounts, owed]), strict=False))


def _locked(accounts: list[LedgerAccount]) -> list[int]:
    """Their balances, which nobody else changes until the end of the transaction. Rows are locked
    in the order in which the ledger locks them."""
    ids = [account.id for account in accounts]
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT account_id, nano FROM billing_ledger_balance WHERE account_id = ANY(%s) "
            "ORDER BY account_id FOR UPDATE",
            [ids],
        )
        found = dict(cursor.fetchall())
    return [found.get(id_, 0) for id_ in ids]
