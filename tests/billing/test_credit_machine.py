"""Wallet, leases, settlements, refunds and crashes in any order: usage overdraws nothing, and the
books balance. `MODELPORT_STEPS` says how many steps; 10,000 take some minutes."""

import os
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.db import connection
from django.db.models import Sum
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

from accounts.models import Organization, User
from billing import bound, holds, ledger, usage, wallet
from billing.ledger import Kind
from billing.models import (
    Balance,
    CreditLease,
    Entry,
    Grant,
    LedgerAccount,
    PriceBook,
    RunningHold,
    Terms,
)
from billing.usage_record import Admit, Checkpoint, Final, Usage, settle
from inference.gateway.errors import Refusal
from inference.gateway.limits import Limiter, Permit
from inference.gateway.purse import CREDIT, Purse
from inference.gateway.tables import Credit, Price
from tests.billing.records import admit, final

QUICK = 300
STEPS = int(os.environ.get("MODELPORT_STEPS", QUICK))
IN_A_ROW = 100
RATES = {"prompt": 3, "cached": 1, "completion": 7, "reasoning": 9, "request": 5}
MACHINE = uuid4()
A = LedgerAccount.Kind

AMOUNT = st.integers(1, 1000)  # a request may cost about as much: there is seldom enough
WHICH = st.integers(0, 99)


class Gateway:
    """A real limiter, its journal in memory, and a meter that answers when told to."""

    def __init__(self, organization: Organization, clock: "CreditMachine") -> None:
        self.organization, self.clock = organization, clock
        self.writer = uuid4().hex
        self.limiter = Limiter(self)
        self.credit = Credit(organization.id.bytes, currency="USD")
        self.asked: list[tuple[Purse, int, int]] = []
        self.inside: list[tuple[Permit, Admit, Checkpoint | None, bound.Size]] = []
        self.journal: list[tuple[Admit, Final]] = []
        self.processes = 1

    # what a limiter needs of its broker

    def now(self) -> float:
        return self.clock.seconds

    def ask(self, lease: Any, want: int, *, least: int = 0, **_: Any) -> None:
        self.asked.append((lease, want, least))

    def give(self, lease: Any, units: int) -> None:
        holds.give_back(self.organization, self.writer, held=lease.granted)

    def later(self, seconds: float, call: Any) -> Any:
        return lambda: None

    # what happens to it

    @property
    def purse(self) -> Purse | None:
        return self.limiter._purses.get(self.credit.id)

    def enter(self, size: bound.Size, price: Price) -> bool:
        """Whether it is let in."""
        later: list[Permit | Refusal] = []
        nano = bound.most(size, price)
        try:
            permit = self.limiter.enter(
                (),
                key_id=b"",
                tokens=0,
                queue=None,
                ready=later.append,
                credit=self.credit,
                nano=nano,
            )
        except Refusal:
            return False
        if permit is None:
            self.answer()
            if not later:
                self.limiter.forget(later.append)
            elif isinstance(later[0], Permit):
                permit = later[0]
        if permit is not None:
            record = admit(self.organization)
            record.price_version, record.held = price.version_id, nano
            self.inside.append((permit, record, None, size))
        return permit is not None

    def answer(self, *, lost: bool = False) -> None:
        asked, self.asked = self.asked, []
        for purse, want, least in asked:
            taken = holds.take(
                self.organization,
                self.writer,
                machine=MACHINE,
                held=purse.granted,
                want=want,
                least=least,
            )
            if lost:
                self.limiter.ask_again()
            else:
                self.limiter.granted(purse.limit.id, CREDIT, taken.nano, taken.left)

    def ship(self) -> None:
        usage.ingest(self.journal, self.writer)


class CreditMachine(RuleBasedStateMachine):
    taken = let_in = refused = 0  # steps and requests, over all runs

    def __init__(self) -> None:
        super().__init__()
        self.seconds = 1_000_000.0
        name = uuid4().hex
        self.owner = User.objects.create_user(f"{name}@acme.example")
        self.acme = Organization.objects.create(name="Acme", slug=name)
        version = PriceBook.of_organization(self.acme, "USD").set_rates(
            {meter: nano * 10**6 for meter, nano in RATES.items() if meter != "request"}
            | {"request": RATES["request"]}
        )
        self.price = Price(
            version.id.bytes, *(RATES[each] * 10**6 for each in list(RATES)[:4]), request=5
        )
        self.gateways = [Gateway(self.acme, self) for _ in range(3)]
        self.disputed = 0

    def key(self) -> str:
        return uuid4().hex

    # money

    @rule(nano=st.integers(1, 20_000))
    def pay_in(self, nano: int) -> None:
        wallet.pay_in(self.acme, nano, Kind.TOPUP, self.key())
        self.disputed = max(0, self.disputed - nano)

    @rule(nano=AMOUNT, expires=st.booleans())
    def grant(self, nano: int, expires: bool) -> None:
        at = timezone.now() + timedelta(hours=1) if expires else None
        wallet.grant(self.acme, nano, None, reason="gift", key=self.key(), expires_at=at)

    @rule()
    def time_of_grants_passes(self) -> None:
        grants = Grant.objects.filter(organization=self.acme, expires_at__isnull=False)
        grants.update(expires_at=timezone.now() - timedelta(days=1))

    @rule()
    def expire(self) -> None:
        wallet.expire_grants()

    @rule(nano=AMOUNT)
    def refund(self, nano: int) -> None:
        """As whoever pays money out has to: no more than nobody holds."""
        holds.lock(self.acme)
        paid = wallet.wallet_of(self.acme)
        part = min(nano, holds.available(self.acme), ledger.balance(paid))
        if part > 0:
            cash = ledger.account(A.CASH, "USD")
            entries = {paid: -part, cash: part}
            ledger.post(Kind.REFUND, self.key(), entries, not_below_zero=[paid])

    @rule(nano=AMOUNT)
    def dispute(self, nano: int) -> None:
        owed = ledger.account(A.RECEIVABLE, "USD", self.acme)
        cash = ledger.account(A.CASH, "USD")
        ledger.post(Kind.DISPUTE, self.key(), {owed: -nano, cash: nano})
        self.disputed += nano

    @rule(discount=st.integers(0, 10_000))
    def agree(self, discount: int) -> None:
        Terms.agree(self.acme, self.owner, discount=discount)

    # requests

    @rule(
        which=WHICH,
        count=st.integers(1, 6),
        prompt=st.integers(0, 30),
        answers=st.integers(1, 3),
        most=st.integers(0, 30),
        hidden=st.booleans(),
    )
    def enter(
        self, which: int, count: int, prompt: int, answers: int, most: int, hidden: bool
    ) -> None:
        size = bound.Size(prompt, 1, answers, most, 40, hidden=hidden)
        for _ in range(count):
            let_in = self.gateways[which % 3].enter(size, self.price)
            CreditMachine.let_in += let_in
            CreditMachine.refused += not let_in
            self.seconds += 0.3

    @rule(
        count=st.integers(4, 12),
        most=st.integers(1, 30),
        share=st.floats(0, 1.5),
        cached=st.booleans(),
    )
    def be_busy(self, count: int, most: int, share: float, cached: bool) -> None:
        """Requests of all gateways at a time, to their ends; then all journals come in."""
        for which in range(3):
            self.enter(which, count, 9, 1, most, hidden=False)
        for which in range(3):
            self.leave(which, 0, count, share, cached)
            self.ship(which)
            self.seconds += 1

    @rule(which=WHICH, one=WHICH, share=st.floats(0, 1), cached=st.booleans())
    def advance(self, which: int, one: int, share: float, cached: bool) -> None:
        """A stream goes on: its gateway writes down what it has used so far."""
        gateway = self.gateways[which % 3]
        if gateway.inside:
            at = one % len(gateway.inside)
            permit, record, _, size = gateway.inside[at]
            used = self._used(size, share, cached)
            checkpoint = Checkpoint(record.request_id, used)
            gateway.inside[at] = (permit, record, checkpoint, size)

    @rule(
        which=WHICH,
        one=WHICH,
        count=st.integers(1, 9),
        share=st.floats(0, 1.5),
        cached=st.booleans(),
    )
    def leave(self, which: int, one: int, count: int, share: float, cached: bool) -> None:
        gateway = self.gateways[which % 3]
        for _ in range(min(count, len(gateway.inside))):
            permit, record, _, size = gateway.inside.pop(one % len(gateway.inside))
            end = final(record)
            end.usage = self._used(size, share, cached)
            end.spent = permit.leave(end.usage, self.price)
            gateway.journal.append((record, end))

    def _used(self, size: bound.Size, share: float, cached: bool) -> Usage:
        """More than the whole is what an engine makes that counts otherwise."""
        prompt, completion = (int(each * share) for each in bound.tokens(size))
        return Usage(prompt, completion, prompt if cached else 0, completion // 2)

    @rule(which=WHICH)
    def ship(self, which: int) -> None:
        """All of the journal: most of it again."""
        self.gateways[which % 3].ship()

    @rule(which=WHICH, lost=st.booleans())
    def answer(self, which: int, lost: bool) -> None:
        self.gateways[which % 3].answer(lost=lost)

    @rule(which=WHICH)
    def recall(self, which: int) -> None:
        self.gateways[which % 3].limiter.recall(self.acme.id.bytes, CREDIT)

    @rule(seconds=st.integers(1, 700))
    def time_passes(self, seconds: int) -> None:
        self.seconds += seconds
        for gateway in self.gateways:
            gateway.limiter.look_after_credit()

    @rule(which=WHICH)
    def kill(self, which: int) -> None:
        """With requests under way, and an answer of the meter that it never hears."""
        gateway = self.gateways[which % 3]
        gateway.answer(lost=True)
        for _, record, checkpoint, _ in gateway.inside:
            gateway.journal.append((record, settle(record, checkpoint, record.admitted_at_us)))
        gateway.ship()
        gateway.ship()
        holds.close({gateway.writer})
        gateway.answer()  # a question that was on its way
        self.gateways[which % 3] = Gateway(self.acme, self)

    # instances

    @rule(nano_per_hour=st.integers(0, 4000))
    def watch(self, nano_per_hour: int) -> None:
        holds.keep_running(self.acme, nano_per_hour)

    @precondition(lambda self: RunningHold.objects.filter(organization=self.acme, nano__gt=0))
    @rule(share=st.floats(0, 1))
    def charge_hours(self, share: float) -> None:
        hold = RunningHold.objects.get(organization=self.acme)
        if part := int(hold.nano * share):
            wallet.charge(self.acme, part, Kind.GPU, self.key())
            hold.nano -= part
            hold.save()

    # what always holds

    @invariant()
    def usage_overdraws_nothing(self) -> None:
        funds = wallet.funds(self.acme)
        assert funds.wallet >= 0
        mine = Balance.objects.filter(account__organization=self.acme)
        assert not mine.filter(account__kind=A.GRANT, nano__lt=0).exists()
        assert funds.owed == self.disputed

    @invariant()
    def leases_cover_what_is_used(self) -> None:
        leases = {lease.writer: lease for lease in CreditLease.objects.all()}
        for gateway in self.gateways:
            if (purse := gateway.purse) is not None:
                assert purse.used <= purse.granted
                assert purse.used == purse.spent + sum(each[0].nano for each in gateway.inside)
                lease = leases.get(gateway.writer)
                assert purse.granted <= (lease.granted if lease else 0)
        assert all(lease.spent <= lease.granted for lease in leases.values())

    @invariant()
    def books_balance(self) -> None:
        CreditMachine.taken += 1
        connection.check_constraints()
        assert sum(Balance.objects.values_list("nano", flat=True)) == 0
        sums = Entry.objects.values("account_id").annotate(nano=Sum("nano"))
        entries: dict[UUID, int] = {each["account_id"]: each["nano"] for each in sums}
        for account_id, nano in Balance.objects.values_list("account_id", "nano"):
            assert entries.get(account_id, 0) == nano


@pytest.mark.django_db
@pytest.mark.timeout(3600)
def test_usage_overdraws_nothing_whatever_happens() -> None:
    run_state_machine_as_test(
        CreditMachine,
        settings=settings(
            max_examples=max(1, STEPS // IN_A_ROW),
            stateful_step_count=IN_A_ROW,
            deadline=None,
            database=None,
            derandomize=STEPS == QUICK,  # so that the few steps of every day are steps that tell
            phases=[Phase.generate],  # making it shorter takes longer than reading it
            suppress_health_check=list(HealthCheck),
        ),
    )
    print(f"{CreditMachine.taken} steps, {CreditMachine.let_in} let in", end=" ")
    print(f"and {CreditMachine.refused} refused")
    assert CreditMachine.let_in > STEPS // 10 and CreditMachine.refused > STEPS // 10
