"""Checks the whole ledger, believing nothing that it says of itself: every day's hash is found anew
from what was posted, every sum from its entries. Reads only, and needs nothing but the database."""

from collections import defaultdict, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import groupby

from billing import ledger_rows
from billing.chain import Tally
from billing.ledger_format import NOTHING_BEFORE
from billing.ledger_rows import EntryRow, Posted, TransactionRow
from billing.models import Balance, LedgerDay


@dataclass
class Read:
    """How much was looked at."""

    transactions: int = 0
    entries: int = 0
    sealed: int = 0  # days
    last_sealed: date | None = None
    hash: str = NOTHING_BEFORE  # of the last day, sealed or not: where all is well, of everything


class Audit:
    """One look at all of it. `problems` gives sentences as they are found; `read` is complete when
    there are no more."""

    def __init__(self, heads: Mapping[date, str] | None = None) -> None:
        self.read = Read()
        self._heads = heads or {}  # as they were exported
        self._sums: defaultdict[str, int] = defaultdict(int)
        self._accounts: dict[str, ledger_rows.Account] = {}
        self._days: dict[date, LedgerDay] = {}

    def problems(self) -> Iterator[str]:
        with ledger_rows.snapshot():
            self._accounts = ledger_rows.accounts()
            self._days = {day.day: day for day in LedgerDay.objects.order_by("day")}
            self.read.sealed = len(self._days)
            self.read.last_sealed = max(self._days, default=None)
            yield from self._exported()
            yield from self._linked()
            yield from self._posted()
            yield from self._balances()

    def _exported(self) -> Iterator[str]:
        for day, hash_ in sorted(self._heads.items()):
            if day not in self._days:
                yield f"{day}: was sealed as {hash_[:16]}…, and is not in the chain any more."
            elif self._days[day].hash != hash_:
                yield (
                    f"{day}: was sealed as {hash_[:16]}…, and the chain says "
                    f"{self._days[day].hash[:16]}…: it was made anew."
                )

    def _linked(self) -> Iterator[str]:
        """Days follow each other, each with the hash of the one before."""
        before: LedgerDay | None = None
        for day in self._days.values():
            if before is None:
                if day.previous != NOTHING_BEFORE:
                    yield f"{day.day}: is the first of the chain, and names one before it."
            elif day.day != before.day + timedelta(days=1):
                first, last = before.day + timedelta(days=1), day.day - timedelta(days=1)
                span = f"{first}" if first == last else f"{first} to {last}"
                yield f"{span}: missing from the chain."
            elif day.previous != before.hash:
                yield f"{day.day}: names another hash of the day before than that day has."
            before = day

    def _posted(self) -> Iterator[str]:
        unseen = deque(self._days.values())
        for day, posted in groupby(ledger_rows.posted(), key=_day):
            while unseen and unseen[0].day < day:
                yield from self._empty(unseen.popleft())
            sealed = unseen.popleft() if unseen and unseen[0].day == day else None
            yield from self._one_day(sealed, day, posted)
        for empty in unseen:
            yield from self._empty(empty)

    def _empty(self, sealed: LedgerDay) -> Iterator[str]:
        yield from self._one_day(sealed, sealed.day, iter(()))

    def _one_day(
        self, sealed: LedgerDay | None, day: date, posted: Iterator[Posted]
    ) -> Iterator[str]:
        # By what it says of the day before, so that one changed day is one problem.
        if sealed is not None:
            found = Tally(sealed.day, sealed.previous, sealed.sealed_at)
        else:
            found = Tally(day, self.read.hash, None)
        yield from self._sums_of(day, posted, found)
        if sealed is not None:
            yield from self._checked(sealed, found)
        elif self.read.last_sealed is not None and day < self.read.last_sealed:
            yield f"{day}: has transactions, and is not sealed though later days are."
        self.read.hash = found.hash

    def _sums_of(self, day: date, posted: Iterator[Posted], found: Tally) -> Iterator[str]:
        for each in posted:
            self.read.entries += len(each.entries)
            for entry in each.entries:
                self._sums[entry.account] += entry.nano
            if each.transaction is None:
                yield from (_stray(entry) for entry in each.entries)
            else:
                self.read.transactions += 1
                yield from self._sound(each.transaction, each.entries)
            try:
                found.add(each, self._accounts)
            except KeyError as missing:
                yield f"{day}: account {missing.args[0]} is missing, and the ledger names it."

    def _sound(self, of: TransactionRow, entries: list[EntryRow]) -> Iterator[str]:
        name = f"{of.day}: transaction {of.id} ({of.kind} {of.key})"
        if not entries:
            yield f"{name} has no entries."
        if total := sum(entry.nano for entry in entries):
            yield f"{name} sums to {total} instead of 0."
        for entry in entries:
            known = self._accounts.get(entry.account)
            if known is not None and known.currency != of.currency:
                yield (
                    f"{name} is in {of.currency}, and its entry {entry.id} is on an account in "
                    f"{known.currency}."
                )

    def _checked(self, sealed: LedgerDay, found: Tally) -> Iterator[str]:
        """The day as it was sealed, beside what is there."""
        for noun, then, now in (
            ("transactions", sealed.transactions, found.transactions),
            ("entries", sealed.entries, found.entries),
        ):
            if then != now:
                yield f"{sealed.day}: was sealed with {then} {noun}, and there are {now}."
        if (sealed.first_entry, sealed.last_entry) != (found.first_entry, found.last_entry):
            yield (
                f"{sealed.day}: was sealed with entries from {sealed.first_entry} to "
                f"{sealed.last_entry}, and there are those from {found.first_entry} to "
                f"{found.last_entry}."
            )
        if sealed.hash != found.hash:
            yield (
                f"{sealed.day}: its hash is not the sealed one. Something of this day was changed, "
                "added or taken out after it was sealed, in a transaction, an entry, an account or "
                "the day itself; a backup tells what."
            )

    def _balances(self) -> Iterator[str]:
        balances = {
            str(account): nano for account, nano in Balance.objects.values_list("account", "nano")
        }
        for account in sorted(balances.keys() | self._sums.keys()):
            balance, total = balances.get(account), self._sums.get(account, 0)
            if balance is None:
                yield f"Account {account}: has no balance, and its entries sum to {total}."
            elif balance != total:
                yield f"Account {account}: its balance is {balance}, its entries sum to {total}."


def _day(posted: Posted) -> date:
    return posted.transaction.day if posted.transaction else posted.entries[0].day


def _stray(entry: EntryRow) -> str:
    return (
        f"{entry.day}: entry {entry.id} belongs to transaction {entry.transaction}, which is not "
        "there on that day."
    )
