"""Rows and ledger in one: each request is charged once, by its version, its terms, its month."""

import threading
from datetime import UTC, date, datetime, timedelta
from uuid import UUID

import pytest
from django.db import DataError, connection
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.django import TestCase

from accounts.models import ApiKey, Organization, User
from billing import pricing, usage, wallet
from billing.ledger import Kind
from billing.models import (
    Allowance,
    Balance,
    Entry,
    LedgerTransaction,
    PriceBook,
    Terms,
    UsageEvent,
)
from billing.pricing import Free
from billing.rating import rates_of
from tests.billing.pricing import a_price, used

COST = 7 * 1000 + 9 * 4000 + 100  # of `used`, as it is


def us(moment: datetime) -> int:
    return int(moment.timestamp() * 1_000_000)


def in_books() -> int:
    """What all usage was charged, by the ledger; the books must balance."""
    assert sum(Balance.objects.values_list("nano", flat=True)) == 0
    return sum(Balance.objects.filter(account__kind="revenue").values_list("nano", flat=True))


def test_a_row_says_what_was_charged_and_where_it_is_booked(acme: Organization) -> None:
    usage.ingest([used(acme, a_price())])
    row = UsageEvent.objects.get()
    assert (row.cost_nano, row.currency) == (COST, "USD")
    posted = LedgerTransaction.objects.get(id=row.transaction_id)
    assert (posted.kind, posted.organization) == (Kind.USAGE, acme)
    assert posted.key == f"usage:{row.request_id}"
    assert posted.refers_to == {
        "requests": 1,
        "first": str(row.request_id),
        "last": str(row.request_id),
    }
    assert in_books() == COST
    assert wallet.funds(acme).owed == COST


def test_a_batch_is_one_transaction_for_each_organization(
    acme: Organization, umbrella: Organization
) -> None:
    price = a_price()
    wallet.pay_in(acme, 10**9, Kind.TOPUP, "paid")
    batch = [used(acme, price), used(umbrella, price), used(acme, price)]
    assert usage.ingest(batch) == 3
    charged = {t.organization: t for t in LedgerTransaction.objects.filter(kind=Kind.USAGE)}
    assert charged.keys() == {acme, umbrella}
    assert charged[acme].refers_to["requests"] == 2
    mine = UsageEvent.objects.for_organization(acme)
    assert {row.transaction_id for row in mine} == {charged[acme].id}
    assert wallet.funds(acme).wallet == 10**9 - 2 * COST
    assert wallet.funds(umbrella).owed == COST
    assert in_books() == 3 * COST


def test_a_replay_posts_nothing_and_what_is_new_beside_it_is_charged(acme: Organization) -> None:
    price = a_price()
    first, second = used(acme, price), used(acme, price)
    usage.ingest([first])
    assert usage.ingest([first, first]) == 0
    assert usage.ingest([second, first, second]) == 1
    assert LedgerTransaction.objects.filter(kind=Kind.USAGE).count() == 2
    assert in_books() == 2 * COST == sum(UsageEvent.objects.values_list("cost_nano", flat=True))


def test_what_costs_nothing_posts_nothing(acme: Organization) -> None:
    free = PriceBook.of_house("USD").versions.get()
    usage.ingest([used(acme, free), used(acme, a_price(), prompt=0, completion=0)])
    assert not LedgerTransaction.objects.exists()
    rows = UsageEvent.objects.values_list("cost_nano", "currency", "transaction_id")
    assert set(rows) == {(0, "USD", None)}


def test_what_was_used_keeps_its_price(acme: Organization) -> None:
    before, after = a_price(), a_price(prompt=9_000_000_000)
    usage.ingest([used(acme, after), used(acme, before)])
    assert [row.cost_nano for row in UsageEvent.objects.order_by("cost_nano")] == [
        COST,
        COST + 7 * 8000,
    ]


@pytest.mark.django_db(transaction=True)
def test_a_price_that_is_not_there_is_set_aside_and_holds_up_nobody(acme: Organization) -> None:
    price = a_price()
    lost, sound = used(acme, price), used(acme, price)
    lost[0].price_version = UUID(int=7).bytes
    with pytest.raises(DataError, match="no price version"):
        usage.ingest([lost])
    assert [bad for bad, _, _ in usage.ingest_or_set_aside([lost, sound])] == [lost[0]]
    assert in_books() == COST


def test_a_price_is_read_once(acme: Organization, django_assert_num_queries) -> None:
    price = a_price()
    rates_of(price.id.bytes)
    with django_assert_num_queries(0):
        assert rates_of(price.id.bytes).completion == 4_000_000_000


def test_the_row_knows_whose_key_it_was_and_the_callers_word(acme: Organization, bob: User) -> None:
    key, _ = ApiKey.issue(acme, bob, "server")
    request, final = used(acme, a_price())
    request.key_id, request.tag = key.id.bytes, "nightly"
    usage.ingest([(request, final)])
    row = UsageEvent.objects.get()
    assert row.membership_id == acme.memberships.get(user=bob).id
    assert row.tag == "nightly"


def test_another_organizations_key_is_nobodys(
    acme: Organization, umbrella: Organization, charlie: User
) -> None:
    key, _ = ApiKey.issue(umbrella, charlie, "theirs")
    request, final = used(acme, a_price())
    request.key_id = key.id.bytes
    usage.ingest([(request, final)])
    assert UsageEvent.objects.get().membership_id is None


def test_terms_hold_from_their_moment_on(acme: Organization, alice: User) -> None:
    price = a_price()
    terms = Terms.agree(acme, alice, discount=5_000)
    before, after = used(acme, price), used(acme, price)
    before[0].admitted_at_us = us(terms.effective_at) - 1
    after[0].admitted_at_us = us(terms.effective_at)
    usage.ingest([after, before])
    assert [row.cost_nano for row in UsageEvent.objects.order_by("cost_nano")] == [COST // 2, COST]


def test_what_is_free_is_free_once_a_month(acme: Organization, alice: User) -> None:
    price = a_price()
    Terms.agree(acme, alice, free_tokens=20, free_nano=1000)
    first, second = used(acme, price), used(acme, price)
    usage.ingest([first, first, second])
    usage.ingest([second, first])
    allowance = Allowance.objects.get()
    assert (allowance.tokens, allowance.nano) == (20, 1000)
    # Of the second only 4 tokens of the input were left: 3 and 9 are paid, and both requests.
    assert in_books() == 3 * 1000 + 9 * 4000 + 200 - 1000


def test_months_are_those_of_the_organizations_time_zone(acme: Organization, alice: User) -> None:
    profile = wallet.profile_of(acme)
    profile.time_zone = "Asia/Taipei"
    profile.save()
    Terms.objects.create(
        organization=acme, effective_at=datetime(2026, 1, 1, tzinfo=UTC), free_tokens=16
    )
    price = a_price()
    batch = []
    for moment in (
        datetime(2026, 3, 31, 15, 59, tzinfo=UTC),  # a minute to midnight in Taipei
        datetime(2026, 3, 31, 16, 0, tzinfo=UTC),
        datetime(2026, 3, 31, 16, 1, tzinfo=UTC),
    ):
        request, final = used(acme, price)
        request.admitted_at_us = us(moment)
        batch.append((request, final))
    usage.ingest(batch)
    months = {a.month: a.tokens for a in Allowance.objects.all()}
    assert months == {date(2026, 3, 1): 16, date(2026, 4, 1): 16}
    assert sorted(UsageEvent.objects.values_list("cost_nano", flat=True)) == [100, 100, COST]


def test_a_batch_that_fails_leaves_neither_rows_nor_entries(
    acme: Organization, alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    Terms.agree(acme, alice, free_tokens=20)
    price = a_price()

    def broken(charges: object) -> None:
        raise RuntimeError

    with monkeypatch.context() as patched:
        patched.setattr(wallet, "charge_new", broken)
        with pytest.raises(RuntimeError):
            usage.ingest([used(acme, price), used(acme, price)])
    assert not UsageEvent.objects.exists() and not Entry.objects.exists()
    assert not Allowance.objects.exists()


@pytest.mark.parametrize("free_tokens", [0, 100])
@pytest.mark.django_db(transaction=True)
def test_batches_that_come_at_the_same_time_charge_each_request_once(
    acme: Organization, umbrella: Organization, alice: User, free_tokens: int
) -> None:
    price = a_price()
    Terms.agree(acme, alice, free_tokens=free_tokens)
    for organization in (acme, umbrella):
        wallet.pay_in(organization, 10**6, Kind.TOPUP, f"paid {organization.id}")
    requests = [used((acme, umbrella)[n % 2], price) for n in range(60)]
    batches = [requests[n : n + 30] for n in (0, 10, 20, 30)] + [requests[::-1]]
    errors: list[Exception] = []

    def work(batch: list[object]) -> None:
        try:
            usage.ingest(batch)
        except Exception as error:
            errors.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=work, args=(batch,)) for batch in batches]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert UsageEvent.objects.count() == 60
    assert sum(Allowance.objects.values_list("tokens", flat=True)) == free_tokens
    charged = sum(UsageEvent.objects.values_list("cost_nano", flat=True))
    assert in_books() == charged
    assert (
        sum(wallet.funds(o).available - wallet.funds(o).owed for o in (acme, umbrella))
        == 2 * 10**6 - charged
    )


MONTHS = [datetime(2026, 3, 15, tzinfo=UTC), datetime(2026, 4, 15, tzinfo=UTC)]
REQUESTS = st.lists(
    st.tuples(st.sampled_from(MONTHS), st.integers(0, 50), st.integers(0, 50)), max_size=20
)


class Months(TestCase):
    @given(
        requests=REQUESTS,
        discount=st.integers(0, 10_000),
        tokens=st.integers(0, 500),
        nano=st.integers(0, 10**6),
        cut=st.integers(0, 20),
    )
    @settings(max_examples=25, deadline=None)
    def test_however_they_are_batched_the_rows_are_what_the_rule_says(
        self, requests, discount: int, tokens: int, nano: int, cut: int
    ) -> None:
        acme = Organization.objects.create(name="Acme", slug="acme-months")
        Terms.objects.create(
            organization=acme,
            effective_at=MONTHS[0] - timedelta(days=1),
            discount=discount,
            free_tokens=tokens,
            free_nano=nano,
        )
        price = a_price()
        batch, expected = [], []
        left = dict.fromkeys(MONTHS, Free(tokens, nano))
        for month, prompt, completion in requests:
            request, final = used(acme, price, prompt, completion)
            request.admitted_at_us = us(month)
            batch.append((request, final))
            rates = rates_of(price.id.bytes)
            paid, taken = pricing.charge(final.usage, rates, discount, left[month])
            left[month] = Free(left[month].tokens - taken.tokens, left[month].nano - taken.nano)
            expected.append(paid)
        ids = [request.request_id for request, _ in batch]
        usage.ingest(batch[:cut])
        usage.ingest(batch[: cut + 3])
        usage.ingest(batch)
        assert list(
            UsageEvent.objects.order_by("request_id").values_list("cost_nano", flat=True)
        ) == [paid for _, paid in sorted(zip(ids, expected, strict=True))]
        assert in_books() == sum(expected)
