"""What is spent first, what is owed, and what expires."""

from datetime import timedelta
from uuid import uuid4

import pytest
from django.utils import timezone
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.django import TestCase

from accounts.models import Organization, User
from billing import holds, ledger, wallet
from billing.ledger import AlreadyReversed, KeyTaken, Kind, LedgerProblem, Overdrawn
from billing.models import Balance, LedgerAccount
from billing.money import NANO

A = LedgerAccount.Kind


def used(acme: Organization, nano: int, key: str) -> None:
    wallet.charge(acme, nano, Kind.USAGE, key)


def test_promotional_credit_goes_first_and_what_expires_first_before_others(
    acme: Organization, alice: User
) -> None:
    now = timezone.now()
    wallet.pay_in(acme, 10, Kind.TOPUP, "paid")
    never = wallet.grant(acme, 5, alice, reason="hello", key="a")
    soon = wallet.grant(acme, 5, alice, reason="trial", key="b", expires_at=now + timedelta(days=1))
    used(acme, 7, "first")
    assert (ledger.balance(soon.account), ledger.balance(never.account)) == (0, 3)
    assert wallet.funds(acme).wallet == 10
    used(acme, 5, "second")
    assert wallet.funds(acme) == wallet.Funds("USD", 8, 0, 0)


def test_what_no_credit_covers_is_owed_and_paid_first(acme: Organization) -> None:
    used(acme, 7, "used")
    assert wallet.funds(acme) == wallet.Funds("USD", 0, 0, 7)
    wallet.pay_in(acme, 5, Kind.TOPUP, "some")
    assert wallet.funds(acme) == wallet.Funds("USD", 0, 0, 2)
    wallet.pay_in(acme, 5, Kind.TOPUP, "more")
    assert wallet.funds(acme) == wallet.Funds("USD", 3, 0, 0)


def test_what_is_left_of_a_grant_expires_once(acme: Organization, alice: User) -> None:
    soon = timezone.now() + timedelta(hours=1)
    wallet.grant(acme, 5, alice, reason="trial", key="a", expires_at=soon)
    used(acme, 2, "used")
    assert wallet.expire_grants() == 0
    assert wallet.expire_grants(soon) == 1
    assert wallet.expire_grants(soon) == 0
    assert wallet.funds(acme).available == 0
    assert ledger.balance(ledger.account(A.PROMOTION, "USD")) == -2


@pytest.mark.parametrize("verb", [wallet.charge, wallet.pay_in])
def test_the_same_key_counts_once(acme: Organization, verb) -> None:
    first = verb(acme, 5 * NANO, Kind.USAGE, "key")
    assert verb(acme, 5 * NANO, Kind.USAGE, "key") == first
    assert sum(Balance.objects.values_list("nano", flat=True)) == 0


@pytest.mark.parametrize("verb", [wallet.charge, wallet.pay_in, wallet.pay_out])
def test_a_key_that_says_something_else_is_refused(acme: Organization, verb) -> None:
    verb(acme, 5, Kind.USAGE, "key")
    with pytest.raises(KeyTaken):
        verb(acme, 6, Kind.USAGE, "key")
    with pytest.raises(KeyTaken):
        verb(acme, 5, Kind.GPU, "key")


@pytest.mark.parametrize("nano", [0, -1])
@pytest.mark.parametrize("verb", [wallet.charge, wallet.pay_in, wallet.pay_out])
def test_an_amount_is_more_than_nothing(acme: Organization, verb, nano: int) -> None:
    with pytest.raises(LedgerProblem):
        verb(acme, nano, Kind.USAGE, "key")


def test_grants_whose_keys_begin_alike_are_two(acme: Organization, alice: User) -> None:
    for end in "ab":
        wallet.grant(acme, 5, alice, reason="x", key="k" * 64 + end)
    assert wallet.funds(acme).grants == 10
    with pytest.raises(KeyTaken):
        wallet.grant(acme, 6, alice, reason="x", key="k" * 64 + "a")


def test_money_that_goes_back_and_is_spent_already_is_owed(acme: Organization) -> None:
    wallet.pay_in(acme, 10, Kind.TOPUP, "paid")
    used(acme, 7, "used")
    with pytest.raises(Overdrawn):
        wallet.pay_out(acme, 10, Kind.REFUND, "refund", wholly=True)
    assert wallet.funds(acme) == wallet.Funds("USD", 3, 0, 0)
    wallet.pay_out(acme, 10, Kind.DISPUTE, "dispute")
    assert wallet.funds(acme) == wallet.Funds("USD", 0, 0, 7)


def test_money_that_a_gateway_holds_is_not_paid_out(acme: Organization) -> None:
    wallet.pay_in(acme, 10, Kind.TOPUP, "paid")
    holds.take(acme, "gateway", machine=uuid4(), held=0, want=4, least=4)
    with pytest.raises(Overdrawn):
        wallet.pay_out(acme, 7, Kind.REFUND, "all", wholly=True)
    wallet.pay_out(acme, 6, Kind.REFUND, "what is free", wholly=True)
    assert wallet.funds(acme).wallet == 4


def test_undoing_a_top_up_that_is_spent_leaves_a_debt(acme: Organization) -> None:
    paid = wallet.pay_in(acme, 10, Kind.TOPUP, "paid")
    used(acme, 7, "used")
    undone = wallet.undo(paid, "undo")
    assert wallet.undo(paid, "undo") == undone
    assert wallet.funds(acme) == wallet.Funds("USD", 0, 0, 7)
    with pytest.raises(AlreadyReversed):
        wallet.undo(paid, "once more")


def test_undoing_what_was_owed_and_has_been_paid_gives_it_back(acme: Organization) -> None:
    owed = wallet.charge(acme, 7, Kind.USAGE, "used")
    wallet.pay_in(acme, 5, Kind.TOPUP, "paid")
    wallet.undo(owed, "undo")
    assert wallet.funds(acme) == wallet.Funds("USD", 5, 0, 0)


def test_what_comes_back_to_a_grant_that_expired_expires(acme: Organization, alice: User) -> None:
    soon = timezone.now() + timedelta(hours=1)
    wallet.grant(acme, 5, alice, reason="trial", key="a", expires_at=soon)
    spent = wallet.charge(acme, 4, Kind.USAGE, "used")
    later = soon + timedelta(hours=1)
    wallet.expire_grants(later)
    wallet.undo(spent, "undo")
    assert wallet.expire_grants(later) == 1
    assert wallet.expire_grants(later) == 0
    assert ledger.balance(ledger.account(A.PROMOTION, "USD")) == 0
    assert wallet.funds(acme).available == 0


MOVES = st.lists(
    st.tuples(st.sampled_from(["charge", "pay_in", "grant"]), st.integers(1, 100)), max_size=30
)


class Books(TestCase):
    @given(moves=MOVES)
    @settings(max_examples=25, deadline=None)
    def test_books_balance_and_credit_is_never_negative(self, moves: list[tuple[str, int]]) -> None:
        acme = Organization.objects.create(name="Acme", slug="acme-books")
        paid = spent = 0
        for number, (verb, nano) in enumerate(moves):
            if verb == "grant":
                wallet.grant(acme, nano, None, reason="x", key=str(number))
                paid += nano
            elif verb == "pay_in":
                wallet.pay_in(acme, nano, Kind.TOPUP, str(number))
                paid += nano
            else:
                wallet.charge(acme, nano, Kind.USAGE, str(number))
                spent += nano
            funds = wallet.funds(acme)
            assert funds.wallet >= 0 and funds.grants >= 0 and funds.owed >= 0
            assert funds.available - funds.owed == paid - spent
            assert sum(Balance.objects.values_list("nano", flat=True)) == 0
