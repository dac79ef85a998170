"""Whatever is charged, paid, given, undone, repeated or cut off: the books hold.

A state machine posts for two organizations, repeats what it has posted, is killed in the midst of
it, lets grants lapse and days go by; after each step the whole ledger is audited, and what each has
is compared with what it should have by sums that are kept beside.

Ten thousand steps, after a change to the books (a quarter of an hour on a slow machine):

    EXAMPLES=400 pytest tests/billing/test_books_survive.py --timeout=7200
"""

import os
import random
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import date, timedelta
from typing import Any, ClassVar

import pytest
from django.db import connection, transaction
from django.utils import timezone
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from accounts.models import Organization
from billing import chain, holds, ledger, wallet
from billing.ledger import AlreadyReversed, KeyTaken, Kind, Overdrawn
from billing.models import Balance, Grant, LedgerAccount, LedgerTransaction
from tests.billing.ledger_days import problems, set_clock

A = LedgerAccount.Kind
QUICK = 6
EXAMPLES = int(os.environ.get("EXAMPLES", QUICK))
STEPS = 25
WHO = st.integers(0, 1)
NANO = st.integers(1, 100)
WHICH = st.integers(0, 10_000)
# The statement at which the process is killed the first time; mostly it is not.
KILLED_AT = st.one_of(st.none(), st.none(), st.integers(0, 25))


class Killed(BaseException):
    """As a process ends: what was not committed is undone."""


class Books(RuleBasedStateMachine):
    both: ClassVar[list[Organization]]

    def __init__(self) -> None:
        super().__init__()
        self.example = transaction.atomic()
        self.example.__enter__()
        self.net = [0, 0]  # what each has, less what it owes
        self.posted: dict[str, tuple[int, int]] = {}  # by key: whose, and what it changed
        self.verbs: list[tuple[str, Callable[[], Any], int]] = []  # what can be said again
        self.undone: set[str] = set()
        self.number = 0
        self.day = date(2026, 1, 1)
        self.new_day(0)

    def teardown(self) -> None:
        transaction.set_rollback(True)
        self.example.__exit__(None, None, None)

    # What happens

    @rule(who=WHO, nano=NANO, killed_at=KILLED_AT)
    def charge(self, who: int, nano: int, killed_at: int | None) -> None:
        acme, key = self.both[who], self.key("charge")
        before = wallet.funds(acme)
        self.say(who, -nano, key, lambda: wallet.charge(acme, nano, Kind.USAGE, key), killed_at)
        after = wallet.funds(acme)
        assert before.available - after.available == min(before.available, nano)
        if after.grants:  # given credit goes first
            assert after.wallet == before.wallet

    @rule(who=WHO, nano=NANO, killed_at=KILLED_AT)
    def pay_in(self, who: int, nano: int, killed_at: int | None) -> None:
        acme, key = self.both[who], self.key("pay in")
        before = wallet.funds(acme)
        self.say(who, nano, key, lambda: wallet.pay_in(acme, nano, Kind.TOPUP, key), killed_at)
        assert before.owed - wallet.funds(acme).owed == min(before.owed, nano)

    @rule(who=WHO, nano=NANO, killed_at=KILLED_AT)
    def is_disputed(self, who: int, nano: int, killed_at: int | None) -> None:
        acme, key = self.both[who], self.key("dispute")
        before = wallet.funds(acme)
        self.say(who, -nano, key, lambda: wallet.pay_out(acme, nano, Kind.DISPUTE, key), killed_at)
        assert before.wallet - wallet.funds(acme).wallet == min(before.wallet, nano)

    @rule(who=WHO, nano=NANO, killed_at=KILLED_AT)
    def refund(self, who: int, nano: int, killed_at: int | None) -> None:
        acme, key = self.both[who], self.key("refund")

        def verb() -> LedgerTransaction:
            return wallet.pay_out(acme, nano, Kind.REFUND, key, wholly=True)

        funds = wallet.funds(acme)
        if funds.wallet < nano or holds.available(acme) < nano:
            with pytest.raises(Overdrawn):
                verb()
        else:
            self.say(who, -nano, key, verb, killed_at)

    @rule(who=WHO, nano=NANO, hours=st.sampled_from([None, 1, 2]), killed_at=KILLED_AT)
    def grant(self, who: int, nano: int, hours: int | None, killed_at: int | None) -> None:
        acme, key = self.both[who], self.key("grant")
        until = timezone.now() + timedelta(hours=hours) if hours else None

        def verb() -> LedgerTransaction:
            given = wallet.grant(acme, nano, None, reason="x", key=key, expires_at=until)
            return LedgerTransaction.objects.get(key=f"grant:{given.id}")

        self.say(who, nano, key, verb, killed_at)

    @precondition(lambda self: Grant.objects.filter(expired_at=None).exists())
    @rule(which=WHICH)
    def lapses(self, which: int) -> None:
        """Its time is over, and nobody has taken back yet what is left."""
        living = Grant.objects.filter(expired_at=None).order_by("id")
        chosen = living[which % living.count()]
        past = timezone.now() - timedelta(seconds=1)
        Grant.objects.filter(id=chosen.id).update(expires_at=past)

    @rule()
    def grants_expire(self) -> None:
        now = timezone.now()
        over = Grant.objects.filter(expires_at__lte=now)
        for given in over:
            self.net[self.both.index(given.organization)] -= ledger.balance(given.account)
        wallet.expire_grants(now)
        assert not any(ledger.balance(given.account) for given in over)
        assert wallet.expire_grants(now) == 0

    @precondition(lambda self: self.posted)
    @rule(which=WHICH, killed_at=KILLED_AT)
    def undo(self, which: int, killed_at: int | None) -> None:
        of = sorted(self.posted)[which % len(self.posted)]
        who, change = self.posted[of]
        what = LedgerTransaction.objects.get(id=of)
        key = self.key("undo")

        def verb() -> LedgerTransaction:
            return wallet.undo(what, key)

        if of in self.undone:
            with pytest.raises(AlreadyReversed):
                verb()
        else:
            self.undone.add(of)
            self.say(who, -change, key, verb, killed_at)

    @precondition(lambda self: self.verbs)
    @rule(which=WHICH)
    def say_again(self, which: int) -> None:
        """Whoever did not hear the answer repeats it."""
        id_, verb, _ = self.verbs[which % len(self.verbs)]
        assert str(verb().id) == id_

    @precondition(lambda self: self.verbs)
    @rule(which=WHICH, nano=NANO)
    def mistake_the_key(self, which: int, nano: int) -> None:
        key = LedgerTransaction.objects.get(id=self.verbs[which % len(self.verbs)][0]).key
        with pytest.raises(KeyTaken):
            wallet.charge(self.both[0], 1000 + nano, Kind.GPU, key)

    @rule(days=st.integers(0, 2))
    def new_day(self, days: int) -> None:
        self.day += timedelta(days=days)
        set_clock(f"SELECT timestamptz ''{self.day} 12:00+00''")

    @rule()
    def seal(self) -> None:
        while chain.next_day() < chain.today():
            chain.seal(chain.next_day())

    # What always holds

    @invariant()
    def the_books_are_sound(self) -> None:
        assert problems() == []

    @invariant()
    def nothing_is_overdrawn(self) -> None:
        balances = Balance.objects.filter(account__organization__in=self.both)
        credit = balances.exclude(account__kind=A.RECEIVABLE)
        assert all(nano >= 0 for nano in credit.values_list("nano", flat=True))
        owed = balances.filter(account__kind=A.RECEIVABLE)
        assert all(nano <= 0 for nano in owed.values_list("nano", flat=True))

    @invariant()
    def each_has_what_it_should(self) -> None:
        for acme, net in zip(self.both, self.net, strict=True):
            mine = Balance.objects.filter(account__organization=acme)
            assert sum(mine.values_list("nano", flat=True)) == net
            funds = wallet.funds(acme)
            assert funds.available - funds.owed == net

    @invariant()
    def each_key_posted_once(self) -> None:
        expiries = LedgerTransaction.objects.filter(kind=Kind.EXPIRY).count()
        assert LedgerTransaction.objects.count() - expiries == len(self.verbs)

    # Helpers

    def key(self, what: str) -> str:
        self.number += 1
        return f"{what} of a long name, as others give it to what they call ours: {self.number}"

    def say(
        self,
        who: int,
        change: int,
        key: str,
        verb: Callable[[], LedgerTransaction],
        killed_at: int | None,
    ) -> None:
        """Do it; where it is killed nothing has happened, and it is done again."""
        if killed_at is not None and self.is_killed(verb, killed_at):
            self.each_has_what_it_should()
            self.each_key_posted_once()
        made = verb()
        assert verb() == made
        self.net[who] += change
        self.verbs.append((str(made.id), verb, change))
        self.posted[str(made.id)] = (who, change)

    def is_killed(self, verb: Callable[[], LedgerTransaction], at: int) -> bool:
        left = at

        def step(execute: Any, statement: str, *args: Any) -> Any:
            nonlocal left
            if not statement.startswith(("SAVEPOINT", "RELEASE", "ROLLBACK")):
                left -= 1
                if left < 0:
                    raise Killed
            return execute(statement, *args)

        with suppress(Killed), transaction.atomic():
            with connection.execute_wrapper(step):
                verb()
            raise Killed  # before it was committed
        return True


def test_the_books_hold_whatever_happens(acme: Organization, umbrella: Organization) -> None:
    Books.both = [acme, umbrella]
    for each in Books.both:  # as pages do before anything else
        wallet.profile_of(each)
    run_state_machine_as_test(
        Books,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            derandomize=EXAMPLES == QUICK,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("seed", range(max(2, EXAMPLES // 40)))
def test_what_is_said_twice_at_the_same_time_counts_once(acme: Organization, seed: int) -> None:
    """Six threads; everything is said by two of them, in orders of their own, about one wallet that
    is mostly too small. None fails, none waits for ever."""
    wallet.pay_in(acme, 20, Kind.TOPUP, "first")
    draw = random.Random(seed)  # noqa: S311
    said: list[tuple[str, int, str]] = [
        (draw.choice(["charge", "pay in", "dispute", "grant", "undo"]), draw.randint(1, 9), str(n))
        for n in range(20)
    ]
    failed: list[BaseException] = []

    def say(verb: str, nano: int, key: str) -> None:
        match verb:
            case "charge":
                wallet.charge(acme, nano, Kind.USAGE, key)
            case "pay in":
                wallet.pay_in(acme, nano, Kind.TOPUP, key)
            case "dispute":
                wallet.pay_out(acme, nano, Kind.DISPUTE, key)
            case "grant":
                wallet.grant(acme, nano, None, reason="x", key=key)
            case "undo":
                made = wallet.charge(acme, nano, Kind.USAGE, f"to undo {key}")
                wallet.undo(made, key)

    def run(mine: list[tuple[str, int, str]]) -> None:
        try:
            for each in mine:
                say(*each)
        except BaseException as error:  # noqa: BLE001  told below
            failed.append(error)
        finally:
            connection.close()

    threads = []
    for n in range(6):
        mine = said[n // 2 :: 3]
        draw.shuffle(mine)
        threads.append(threading.Thread(target=run, args=(mine,)))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert problems() == []
    sign = {"charge": -1, "pay in": 1, "dispute": -1, "grant": 1, "undo": 0}
    funds = wallet.funds(acme)
    assert funds.available - funds.owed == 20 + sum(sign[verb] * nano for verb, nano, _ in said)
    assert funds.wallet >= 0 and funds.grants >= 0
