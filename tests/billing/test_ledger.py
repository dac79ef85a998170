"""The books balance, whatever is posted, and nothing in them changes."""

import threading

import pytest
from django.db import Error, connection, transaction
from django.db.models import Sum

from accounts.models import Organization
from billing import ledger
from billing.ledger import (
    AlreadyReversed,
    KeyTaken,
    Kind,
    LedgerProblem,
    Overdrawn,
    account,
    balance,
    post,
    reverse,
)
from billing.models import Balance, Entry, LedgerAccount, LedgerTransaction
from billing.money import NANO

A = LedgerAccount.Kind


@pytest.fixture
def wallet(acme: Organization) -> LedgerAccount:
    return account(A.WALLET, "USD", acme)


@pytest.fixture
def cash() -> LedgerAccount:
    return account(A.CASH, "USD")


@pytest.fixture
def revenue() -> LedgerAccount:
    return account(A.REVENUE, "USD")


def pay_in(wallet: LedgerAccount, cash: LedgerAccount, key: str = "in", nano: int = 10 * NANO):
    return post(Kind.TOPUP, key, {cash: -nano, wallet: nano}, organization=wallet.organization_id)


def test_a_balance_is_the_sum_of_its_entries(wallet, cash, revenue) -> None:
    pay_in(wallet, cash)
    post(Kind.USAGE, "used", {wallet: -3 * NANO, revenue: 3 * NANO})
    assert balance(wallet) == 7 * NANO
    for each in (wallet, cash, revenue):
        assert balance(each) == each.entries.aggregate(Sum("nano"))["nano__sum"]
    assert sum(Balance.objects.values_list("nano", flat=True)) == 0


def test_the_same_key_posts_once(wallet, cash) -> None:
    assert pay_in(wallet, cash) == pay_in(wallet, cash)
    assert balance(wallet) == 10 * NANO
    with pytest.raises(KeyTaken):
        pay_in(wallet, cash, nano=11 * NANO)
    assert balance(wallet) == 10 * NANO


def test_what_does_not_sum_to_nothing_or_mixes_currencies_is_refused(wallet, cash, acme) -> None:
    with pytest.raises(LedgerProblem):
        post(Kind.TOPUP, "a", {cash: -1, wallet: 2})
    yen = account(A.WALLET, "JPY", acme)
    with pytest.raises(LedgerProblem):
        post(Kind.TOPUP, "b", {cash: -1, yen: 1})
    with pytest.raises(LedgerProblem):
        post(Kind.TOPUP, "c", {cash: 0, wallet: 0})
    assert not LedgerTransaction.objects.exists()


def test_a_guarded_account_does_not_go_below_nothing(wallet, cash, revenue) -> None:
    pay_in(wallet, cash)
    with pytest.raises(Overdrawn):
        post(
            Kind.USAGE,
            "much",
            {wallet: -10 * NANO - 1, revenue: 10 * NANO + 1},
            not_below_zero=[wallet],
        )
    assert balance(wallet) == 10 * NANO
    assert not LedgerTransaction.objects.filter(key="much").exists()
    post(Kind.USAGE, "all", {wallet: -10 * NANO, revenue: 10 * NANO}, not_below_zero=[wallet])
    assert balance(wallet) == 0


def test_a_reversal_undoes_once(wallet, cash) -> None:
    paid = pay_in(wallet, cash)
    assert reverse(paid, "undo") == reverse(paid, "undo")
    assert balance(wallet) == 0
    assert paid.reversed_by.kind == Kind.REVERSAL


def test_undone_under_another_key_is_refused(wallet, cash) -> None:
    paid = pay_in(wallet, cash)
    reverse(paid, "undo")
    with pytest.raises(AlreadyReversed):
        reverse(paid, "once more")
    assert balance(wallet) == 0


def test_entries_of_an_organization_come_newest_first_page_by_page(wallet, cash, acme) -> None:
    for number in range(5):
        pay_in(wallet, cash, key=str(number), nano=number + 1)
    first = ledger.entries_of(acme, limit=2)
    assert [entry.nano for entry in first] == [5, 4]
    assert first[0].transaction.key == "4"
    assert [e.nano for e in ledger.entries_of(acme, before=first[-1].id)] == [3, 2, 1]
    assert ledger.entries_of(acme, before=0) == []


def test_entries_of_others_are_not_shown(wallet, cash, umbrella: Organization) -> None:
    pay_in(wallet, cash)
    assert ledger.entries_of(umbrella) == []


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE billing_ledger_entry SET nano = nano + 1",
        "DELETE FROM billing_ledger_entry",
        "UPDATE billing_ledger_transaction SET description = 'x'",
        "DELETE FROM billing_ledger_transaction",
    ],
)
def test_the_database_lets_nobody_change_what_was_posted(wallet, cash, statement: str) -> None:
    pay_in(wallet, cash)
    with pytest.raises(Error, match="append-only"), transaction.atomic():
        connection.cursor().execute(statement)


@pytest.mark.django_db(transaction=True)
def test_the_database_refuses_entries_that_do_not_sum_to_nothing(acme) -> None:
    wallet, cash = account(A.WALLET, "USD", acme), account(A.CASH, "USD")
    paid = pay_in(wallet, cash)
    with pytest.raises(Error, match="does not sum to 0"), transaction.atomic():
        Entry.objects.create(transaction=paid, account=wallet, nano=1, day="2026-11-28")
    assert balance(wallet) == 10 * NANO


@pytest.mark.django_db(transaction=True)
def test_posts_at_the_same_time_lose_nothing_and_overdraw_nothing(acme) -> None:
    wallet, revenue = account(A.WALLET, "USD", acme), account(A.REVENUE, "USD")
    pay_in(wallet, account(A.CASH, "USD"), nano=50)
    refused = []

    def spend(thread: int) -> None:
        for turn in range(10):
            # Every key comes twice, from different threads; half as much is there as is asked for.
            key = f"{thread // 2}-{turn}"
            try:
                post(Kind.USAGE, key, {revenue: 2, wallet: -2}, not_below_zero=[wallet])
            except Overdrawn:
                refused.append(key)
        connection.close()

    threads = [threading.Thread(target=spend, args=(n,)) for n in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert balance(wallet) == 0
    assert LedgerTransaction.objects.filter(kind=Kind.USAGE).count() == 25
    assert refused
    assert ledger.balance(revenue) == 50
