"""Credit that is spoken for: the only writer of leases, of what running instances need, and of
whether an organization is suspended. Amounts are nano-units of the organization's currency.

What an organization may spend is what it has (who pays later: what may still be owed), less what
gateways hold in their leases and have not spent, less what its instances will need. Whoever takes
some of it, or wants to take money out, does so under the lock of its wallet, so it is never given
twice. Usage is charged and counted as spent in one transaction: that moves what is held into what
is gone and changes nothing for others.
"""

from collections.abc import Iterable, Mapping
from datetime import timedelta
from functools import partial
from typing import NamedTuple
from uuid import UUID

from django.conf import settings
from django.db import connection, transaction
from django.dispatch import Signal
from django.utils import timezone

from accounts.models import Organization
from billing import ledger
from billing.models import BillingProfile, CreditLease, LedgerAccount, RunningHold, UsageEvent
from billing.signals import organization_resumed, organization_suspended
from billing.usage_record import Admit, Final

SHARE = 4  # a lease beyond what is needed at once takes one part in so many of what there is
HOLD = timedelta(minutes=15)  # of running instances, that is reserved
LAST = timedelta(minutes=5)  # of them; with less they are stopped, and have this to finish
WARNING = timedelta(hours=1)  # of them; with less people are told
CALM = timedelta(hours=2)  # of them; with more they may be told again

# Credit that has expired is there until it is taken back, for what was let in while it had not:
# nobody is given any of it, and it is spent first.
_STANDING = """
    SELECT
        COALESCE(sum(b.nano), 0)::bigint,
        COALESCE(sum(b.nano) FILTER (WHERE g.expires_at <= now()), 0)::bigint,
        (SELECT COALESCE(sum(granted - spent), 0)::bigint FROM billing_credit_lease
            WHERE organization_id = %(id)s AND closed_at IS NULL),
        (SELECT COALESCE(sum(nano), 0)::bigint FROM billing_running_hold
            WHERE organization_id = %(id)s)
    FROM billing_ledger_account a
    JOIN billing_ledger_balance b ON b.account_id = a.id
    LEFT JOIN billing_grant g ON g.account_id = a.id
    WHERE a.organization_id = %(id)s AND a.currency = %(currency)s
        AND a.kind IN ('wallet', 'grant', 'receivable')
"""
_SPEND = """
    UPDATE billing_credit_lease AS l SET spent = l.spent + s.nano
    FROM unnest(%s::uuid[], %s::bigint[]) AS s (organization_id, nano)
    WHERE l.organization_id = s.organization_id AND l.writer = %s
"""


class Standing(NamedTuple):
    """How an organization's credit is spoken for."""

    has: int  # less what it owes
    expired: int  # of it, and not taken back yet
    leased: int  # held by gateways, and not spent as far as that is known
    running: int  # held for its instances
    line: int  # that it may owe

    @property
    def held(self) -> int:
        return self.leased + self.running

    @property
    def available(self) -> int:
        """For whoever comes next; less than nothing where a dispute or a refund took it away."""
        return self.has + self.line - max(self.held, self.expired)


class Taken(NamedTuple):
    nano: int
    left: int  # that nobody holds


class Outlook(NamedTuple):
    """How long running instances can go on."""

    time: timedelta | None  # None: nothing that costs is running
    warn: bool  # it is short, and nobody was told yet
    suspended: bool


def standing(organization: Organization | UUID) -> Standing:
    """One look, so that what moves from held to gone is seen in one place."""
    return _standing(_id(organization), _profile(_id(organization)))


def available(organization: Organization | UUID) -> int:
    """What may be let go of: for new leases, and for money to be paid out. Under `lock` it stays
    so until the end of the transaction, but for what is paid in."""
    return standing(organization).available


def lock(organization: Organization | UUID) -> None:
    """Be the only one who takes from the organization's credit, until the transaction ends."""
    id_ = _id(organization)
    wallet = ledger.account(LedgerAccount.Kind.WALLET, _profile(id_).currency, id_)
    ledger.lock([wallet])


# leases of gateways


@transaction.atomic
def take(
    organization: Organization | UUID,
    writer: str,
    *,
    machine: UUID,
    held: int,
    want: int,
    least: int = 0,
) -> Taken:
    """Grant a gateway up to `want` more; of a scarce credit no more than its share, or `least`.

    `held` is what it has been granted in all, less what it handed back: grants that never reached
    it are void. One whose journal has come in to its end gets nothing.
    """
    id_ = _id(organization)
    lock(id_)
    profile = _profile(id_)
    lease, _new = CreditLease.objects.select_for_update().get_or_create(
        organization_id=id_, writer=writer, defaults={"machine": machine}
    )
    if lease.closed_at is not None:
        return Taken(0, max(_standing(id_, profile).available, 0))
    there = max(_standing(id_, profile).available + lease.granted - held, 0)
    units = 0 if profile.suspended_at else min(want, there, max(least, there // SHARE))
    lease.granted = held + units
    lease.save(update_fields=["granted"])
    return Taken(units, there - units)


def give_back(organization: Organization | UUID, writer: str, *, held: int) -> None:
    """A gateway holds no more than that in all."""
    leases = CreditLease.objects.filter(organization_id=_id(organization), writer=writer)
    leases.filter(closed_at=None, granted__gt=held).update(granted=held)


def spent_by_new(finished: Iterable[tuple[Admit, Final]]) -> dict[UUID, int]:
    """What gateways have counted as spent for these requests, by organization: of those of which
    there is no usage yet."""
    costly = {final.request_id: (admit, final) for admit, final in finished if final.spent}
    if not costly:
        return {}
    ids = [UUID(bytes=id_) for id_ in costly]
    old = UsageEvent.objects.filter(request_id__in=ids).values_list("request_id", flat=True)
    for id_ in old:
        del costly[id_.bytes]
    spent: dict[UUID, int] = {}
    for admit, final in costly.values():
        organization = UUID(bytes=admit.organization_id)
        spent[organization] = spent.get(organization, 0) + final.spent
    return spent


def settle(writer: str, spent: Mapping[UUID, int]) -> None:
    """So much of a gateway's leases was spent, by organization, in the very transaction that
    charges it. It is what the gateway has counted: what is charged may be less, never more."""
    if spent:
        with connection.cursor() as cursor:
            cursor.execute(_SPEND, [list(spent), list(spent.values()), writer])


def close(writers: set[str]) -> int:
    """These gateways are dead, and all that they have spent is known: the rest is free again."""
    leases = CreditLease.objects.filter(writer__in=writers, closed_at=None)
    return leases.update(closed_at=timezone.now())


def open_writers(machine: UUID) -> set[str]:
    """The gateways of a machine that have leases."""
    leases = CreditLease.objects.filter(machine=machine, closed_at=None)
    return set(leases.values_list("writer", flat=True).distinct())


# running instances


@transaction.atomic
def keep_running(organization: Organization, nano_per_hour: int, accrued: int = 0) -> Outlook:
    """Reserve what its running instances will need, and what they have used and were not charged
    for. Where not even the `LAST` of it is to be had, the organization is suspended. To be called
    every minute."""
    lock(organization)
    profile = _profile(organization.id)
    hold, _new = RunningHold.objects.get_or_create(organization=organization)
    there = _standing(organization.id, profile).available + hold.nano
    hold.nano = min(max(there, 0), accrued + cost(nano_per_hour, HOLD))
    there -= accrued
    time = timedelta(hours=there / nano_per_hour) if nano_per_hour else None
    warn = time is not None and time < WARNING and hold.warned_at is None
    if warn:
        hold.warned_at = timezone.now()
    elif time is None or time > CALM:
        hold.warned_at = None
    suspended = profile.suspended_at is not None
    if not suspended:
        hold.nano_per_hour = nano_per_hour
    hold.save()
    if not suspended and there < cost(nano_per_hour, LAST):
        _suspend(profile)
        suspended = True
    elif suspended and there > cost(hold.nano_per_hour, HOLD):
        _resume(profile)  # what has stopped could run on: the operator has raised the credit line
        suspended = False
    return Outlook(time, warn, suspended)


def credited(organization: Organization) -> None:
    """Money has come in: who was suspended goes on, as far as it reaches. In the transaction that
    books it."""
    profile = BillingProfile.objects.filter(organization=organization).first()
    if profile is not None and profile.suspended_at is not None and available(organization) > 0:
        _resume(profile)


def _suspend(profile: BillingProfile) -> None:
    waiting = BillingProfile.objects.filter(pk=profile.pk, suspended_at=None)
    if waiting.update(suspended_at=timezone.now()):
        _tell(organization_suspended, profile.organization)


def _resume(profile: BillingProfile) -> None:
    suspended = BillingProfile.objects.filter(pk=profile.pk, suspended_at__isnull=False)
    if suspended.update(suspended_at=None):
        _tell(organization_resumed, profile.organization)


def _tell(signal: Signal, organization: Organization) -> None:
    """Whoever hears it, and however that ends: the change itself holds."""
    tell = partial(signal.send_robust, BillingProfile, organization=organization)
    transaction.on_commit(tell)


def cost(nano_per_hour: int, time: timedelta) -> int:
    """Nano-units for that time."""
    return nano_per_hour * int(time.total_seconds()) // 3600


def _standing(id_: UUID, profile: BillingProfile) -> Standing:
    with connection.cursor() as cursor:
        cursor.execute(_STANDING, {"id": id_, "currency": profile.currency})
        has, expired, leased, running = cursor.fetchone()
    line = profile.credit_line_nano if profile.postpaid else 0
    return Standing(has, expired, leased, running, line)


def _profile(id_: UUID) -> BillingProfile:
    """What holds for who has not entered anything yet is not written down."""
    found = BillingProfile.objects.filter(organization_id=id_).first()
    return found or BillingProfile(organization_id=id_, currency=settings.ENV.currency)


def _id(organization: Organization | UUID) -> UUID:
    return organization.id if isinstance(organization, Organization) else organization
