"""What is spent first, what is owed, and what expires."""

from datetime import timedelta

import pytest
from django.utils import timezone
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.django import TestCase

from accounts.models import Organization, User
from billing import ledger, wallet
from billing.ledger import Kind
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
