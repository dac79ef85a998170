"""Pay later: Stripe's invoice comes to what the books say, to the minor unit."""

from datetime import UTC, datetime, timedelta
from unittest import mock

import pytest
from django.utils import timezone
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.extra.django import TestCase

from accounts.models import Organization
from billing import ledger, wallet
from billing.ledger import Kind
from billing.models import (
    BillingProfile,
    LedgerAccount,
    LedgerTransaction,
    MeterReport,
    Subscription,
)
from billing.money import NANO, minor
from billing.payments import outbox, postpaid
from portal.lib.errors import Conflict
from tests.fakes.stripe import LocalStripe, local_stripe

BACK = "http://localhost:8000/o/acme/billing/"


def pays_later(organization: Organization, currency: str = "USD") -> None:
    wallet.profile_of(organization)
    BillingProfile.objects.filter(organization=organization).update(
        postpaid=True, currency=currency
    )


def since(hours: int) -> datetime:
    """Let the subscription have begun so many hours ago; its first hour."""
    first = timezone.now().astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    first -= timedelta(hours=hours)
    Subscription.objects.update(since=first)
    return first


def use(acme, nano: int, at: datetime, key: str) -> None:
    with mock.patch("django.utils.timezone.now", lambda: at):
        wallet.charge(acme, nano, Kind.USAGE, key)


def end_month(stripe: LocalStripe, acme) -> dict:
    """The invoice, with the hours of the subscription within its period."""
    item = stripe.newest("subscription_item")
    start = int((timezone.now() - timedelta(days=20)).timestamp())
    stripe.world.save(item | {"current_period_start": start})
    subscription = stripe.newest("subscription")
    subscription["items"]["data"] = [item | {"current_period_start": start}]
    stripe.world.save(subscription)
    return stripe.act("end_period", id=subscription["id"])


@pytest.fixture
def billed(stripe: LocalStripe, acme) -> None:
    pays_later(acme)
    postpaid.start(acme)


def test_only_whom_an_operator_trusts_pays_later(stripe: LocalStripe, acme, alice) -> None:
    with pytest.raises(Conflict):
        postpaid.start(acme)
    with pytest.raises(Conflict):
        postpaid.begin(acme, alice.email, BACK)


def test_a_month_is_billed_as_the_books_say_and_paid_once(stripe, acme, billed) -> None:
    first = since(5)
    use(acme, 1_234_567_890, first + timedelta(minutes=1), "a")  # 1.23 and some
    use(acme, 2_000_004_000, first + timedelta(hours=1), "b")
    use(acme, 1_000, first + timedelta(hours=3), "c")
    assert postpaid.tell() > 0
    outbox.work()
    invoice = end_month(stripe, acme)
    owed = wallet.funds(acme).owed
    assert invoice["total"] == minor(owed, "USD")[0] == 323
    assert invoice["status"] == "open"
    stripe.direct.api.call(
        "POST",
        f"/v1/invoices/{invoice['id']}/pay",
        {"authorization": "Bearer sk_test_x"},
        "paid_out_of_band=true",
    )
    stripe.deliver()
    stripe.deliver()
    assert wallet.funds(acme).owed == owed - 3_230_000_000
    assert LedgerTransaction.objects.filter(key=f"invoice:{invoice['id']}").count() == 1


def test_telling_again_changes_nothing_and_a_late_record_corrects_its_hour(
    stripe, acme, billed
) -> None:
    first = since(5)
    use(acme, 5 * NANO, first, "a")
    use(acme, 7 * NANO, first + timedelta(hours=2), "b")
    assert postpaid.tell() == 2
    assert postpaid.tell() == 0
    outbox.work()
    use(acme, 3 * NANO, first, "late")
    assert postpaid.tell() == 1
    assert postpaid.tell() == 0
    outbox.work()
    assert list(MeterReport.objects.values_list("amount", flat=True)) == [700, 800]
    assert end_month(stripe, acme)["total"] == 1500


def test_a_correction_waits_for_the_report_before_it(stripe, acme, billed) -> None:
    first = since(5)
    use(acme, 5 * NANO, first, "a")
    assert postpaid.tell() == 1  # not sent yet
    use(acme, 3 * NANO, first, "late")
    assert postpaid.tell() == 0
    outbox.work()
    assert postpaid.tell() == 1
    outbox.work()
    assert end_month(stripe, acme)["total"] == 800


def test_the_hour_that_goes_on_is_not_told(stripe, acme, billed) -> None:
    since(5)
    wallet.charge(acme, 5 * NANO, Kind.USAGE, "now")
    assert postpaid.tell() == 0


def test_credit_is_used_before_anything_is_owed(stripe, acme, billed) -> None:
    first = since(5)
    wallet.pay_in(acme, 4 * NANO, Kind.CREDIT, "by the operator")
    use(acme, 5 * NANO, first, "a")
    assert postpaid.tell() == 1
    assert MeterReport.objects.get().amount == 100


def test_what_our_own_invoice_rounds_and_taxes_is_owed_too(stripe, acme, billed) -> None:
    first = since(5)
    use(acme, 5 * NANO, first, "a")
    tax = ledger.account(LedgerAccount.Kind.TAX, "USD")
    with mock.patch("django.utils.timezone.now", lambda: first + timedelta(hours=1)):
        wallet.settle(acme, {tax: NANO}, Kind.INVOICE, "invoice:2026-000001")
    postpaid.tell()
    outbox.work()
    invoice = end_month(stripe, acme)
    assert invoice["total"] == 600
    stripe.direct.api.call(
        "POST",
        f"/v1/invoices/{invoice['id']}/pay",
        {"authorization": "Bearer sk_test_x"},
        "paid_out_of_band=true",
    )
    stripe.deliver()
    assert wallet.funds(acme).owed == 0
    assert postpaid.tell(timezone.now() + timedelta(hours=2)) == 0


def test_a_card_is_charged_every_month(stripe: LocalStripe, acme, alice) -> None:
    pays_later(acme)
    stripe.pay(postpaid.begin(acme, alice.email, BACK))
    stripe.deliver()
    assert Subscription.objects.get().status == "active"
    first = since(3)
    use(acme, 5 * NANO, first, "a")
    postpaid.tell()
    outbox.work()
    assert end_month(stripe, acme)["status"] == "paid"
    stripe.deliver()
    assert wallet.funds(acme).owed == 0


def test_a_subscription_that_ends_is_told_no_more(stripe, acme, billed) -> None:
    first = since(3)
    use(acme, 5 * NANO, first, "a")
    subscription = Subscription.objects.get().stripe_id
    stripe.direct.api.call(
        "DELETE", f"/v1/subscriptions/{subscription}", {"authorization": "Bearer sk_test_x"}
    )
    stripe.deliver()
    assert Subscription.objects.get().status == "canceled"
    assert postpaid.tell() == 0


def test_an_invoice_of_another_subscription_is_not_ours(stripe, acme, billed) -> None:
    invoice = end_month(stripe, acme)
    invoice["parent"]["subscription_details"]["subscription"] = "sub_another"
    invoice["parent"]["subscription_details"]["metadata"] = {}
    stripe.world.save(invoice)
    assert set(stripe.deliver()) == {200}
    with pytest.raises(postpaid.NotOurs):
        postpaid.settle_invoice(invoice["id"])


class Hours(TestCase):
    @given(
        amounts=st.lists(
            st.tuples(st.integers(0, 30), st.integers(1, 3 * NANO)), min_size=1, max_size=12
        ),
        currency=st.sampled_from(["USD", "JPY", "TWD"]),
    )
    @hypothesis_settings(max_examples=15, deadline=None)
    def test_hours_add_up_to_the_rounded_sum(
        self, amounts: list[tuple[int, int]], currency: str
    ) -> None:
        with local_stripe() as stripe:
            acme = Organization.objects.create(name="Acme", slug="acme-hours")
            pays_later(acme, currency)
            postpaid.start(acme)
            first = since(40)
            for number, (hour, nano) in enumerate(amounts):
                use(acme, nano, first + timedelta(hours=hour), str(number))
                if number % 3 == 0:
                    postpaid.tell()
                    outbox.work()
            while postpaid.tell():
                outbox.work()
            whole = minor(sum(nano for _, nano in amounts), currency)[0]
            assert sum(MeterReport.objects.values_list("amount", flat=True)) == whole
            total = end_month(stripe, acme)["total"]
            assert total == whole * (100 if currency == "TWD" else 1)
