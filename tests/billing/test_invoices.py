"""Invoices: their totals are the ledger's, to the last nano-unit; each is made once and stays."""

import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from django.conf import settings as django_settings
from django.db import DatabaseError, connection, transaction
from django.test import override_settings
from django.utils import timezone
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.django import TestCase

from accounts.models import ApiKey, Organization, User
from billing import invoice_lines, invoices, ledger, money, tasks, usage, wallet
from billing.ledger import Kind
from billing.models import (
    Balance,
    BillingProfile,
    Invoice,
    InvoiceLine,
    LedgerAccount,
    LedgerTransaction,
)
from billing.periods import Month
from portal.lib.errors import Conflict
from tests.billing.invoicing import OCTOBER, PLAIN, book, request_at
from tests.billing.pricing import a_price

M = Month(2025, 10)
CENT = 10_000_000  # nano


def taxed(rate: str, name: str = "VAT"):
    return override_settings(
        ENV=replace(django_settings.ENV, invoice_tax=(Decimal(rate), name), invoice_name="House")
    )


def a_plain_price(currency: str = "USD"):
    return a_price(currency, **PLAIN)


def in_zone(organization: Organization, zone: str, currency: str = "USD") -> None:
    BillingProfile.objects.update_or_create(
        organization=organization, defaults={"time_zone": zone, "currency": currency}
    )


def charged(organization: Organization) -> int:
    """Nano-units that its accounts have lost, less what was paid in."""
    mine = Balance.objects.filter(account__organization=organization)
    paid = Balance.objects.filter(account__kind="cash")
    assert sum(Balance.objects.values_list("nano", flat=True)) == 0
    return -sum(paid.values_list("nano", flat=True)) - sum(mine.values_list("nano", flat=True))


def test_a_month_becomes_one_invoice_whose_total_is_what_the_ledger_charged(
    acme: Organization, alice: User
) -> None:
    price = a_plain_price()
    wallet.pay_in(acme, 10**9, Kind.TOPUP, "paid")
    key, _ = ApiKey.issue(acme, alice, "server")
    book(acme, price, prompt=14_000, key=key.id)  # 1.4 cents
    book(acme, price, prompt=12_000, key=key.id)
    book(acme, price, prompt=13_000, model="other")
    (invoice,) = invoices.draw(acme, M)
    assert invoice.number == f"INV-{timezone.now().year}-000001"
    assert (invoice.status, invoice.currency) == ("final", "USD")
    demo, other = invoice.lines.all()
    assert (demo.what, demo.key_name, demo.requests, demo.quantity) == ("demo", "server", 2, 26_000)
    assert demo.member == "alice@acme.example"
    assert demo.unit_price == "1 · 0.5 · 4 · 4 · 0"
    assert (demo.minor, other.minor) == (3, 1)  # 2.6 and 1.3 cents
    assert invoice.total == 4
    assert invoice.nano == 39_000_000 == demo.nano + other.nano
    assert charged(acme) == 4 * CENT
    rounding = ledger.account("rounding", "USD")
    assert ledger.balance(rounding) == 1_000_000  # 0.1 cents more than was used
    assert invoice.transaction.key == f"invoice:{invoice.number}"


def test_drawing_twice_makes_one_and_a_month_without_anything_none(acme: Organization) -> None:
    book(acme, a_plain_price())
    assert invoices.draw(acme, M) == invoices.draw(acme, M)
    assert Invoice.objects.count() == 1
    assert invoices.draw(acme, M.following) == []
    assert LedgerTransaction.objects.filter(kind=Kind.INVOICE).count() == 0  # a whole cent


def test_what_was_free_alone_makes_no_invoice(acme: Organization) -> None:
    book(acme, a_price(**dict.fromkeys(PLAIN, 0)))
    assert invoices.draw(acme, M) == []


def test_a_month_that_is_not_over_is_not_drawn(acme: Organization) -> None:
    now = timezone.now()
    book(acme, a_plain_price(), now)
    with pytest.raises(Conflict):
        invoices.draw(acme, Month.at(now, ZoneInfo("UTC")))
    (draft,) = invoices.statements(acme)
    assert (draft.status, draft.number, draft.subtotal) == ("draft", None, 1)
    assert [line.what for line in draft.drawn] == ["demo"]
    assert not Invoice.objects.exists()


@pytest.mark.parametrize(
    ("zone", "moment", "month"),
    [
        ("Asia/Taipei", "2026-10-31T23:30:00+00:00", Month(2026, 11)),
        ("UTC", "2026-10-31T23:30:00+00:00", Month(2026, 10)),
        # Clocks go back on 25 October: midnight of 1 November is 23:00 UTC, of 1 October 22:00.
        ("Europe/Berlin", "2026-10-31T22:59:59+00:00", Month(2026, 10)),
        ("Europe/Berlin", "2026-10-31T23:00:00+00:00", Month(2026, 11)),
        ("Europe/Berlin", "2026-09-30T21:59:59+00:00", Month(2026, 9)),
        ("Europe/Berlin", "2026-09-30T22:00:00+00:00", Month(2026, 10)),
        # Here they went forward at midnight of 1 April.
        ("Asia/Amman", "2011-03-31T21:59:59+00:00", Month(2011, 3)),
        ("America/New_York", "2026-11-01T03:59:59+00:00", Month(2026, 10)),
    ],
)
def test_a_month_is_the_organizations_own(zone: str, moment: str, month: Month) -> None:
    at = datetime.fromisoformat(moment)
    there = ZoneInfo(zone)
    assert Month.at(at, there) == month
    assert month.start(there) <= at < month.end(there)


def test_a_request_late_on_the_last_day_is_next_months_in_taipei(
    acme: Organization, umbrella: Organization
) -> None:
    in_zone(acme, "Asia/Taipei")
    price = a_plain_price()
    night = datetime(2025, 9, 30, 23, 30, tzinfo=UTC)
    # Both in one batch, so in one transaction of the ledger: the rows decide.
    usage.ingest([request_at(acme, price, night, 20_000)])
    usage.ingest(
        [request_at(umbrella, price, night, 20_000), request_at(umbrella, price, OCTOBER, 50_000)]
    )
    assert invoices.draw(acme, Month(2025, 9)) == []
    (october,) = invoices.draw(acme, M)
    assert october.total == 2
    assert october.period_start == datetime(2025, 9, 30, 16, tzinfo=UTC)
    (september,) = invoices.draw(umbrella, Month(2025, 9))
    assert september.total == 2
    assert [invoice.total for invoice in invoices.draw(umbrella, M)] == [5]


def test_amounts_without_decimals(acme: Organization) -> None:
    in_zone(acme, "Asia/Taipei", "TWD")
    book(acme, a_plain_price("TWD"), prompt=2_500_000)
    (invoice,) = invoices.draw(acme, M)
    assert (invoice.subtotal, invoice.currency) == (2, "TWD")  # half to even
    assert charged(acme) == 2 * money.NANO


def test_tax_is_charged_with_the_invoice(acme: Organization) -> None:
    book(acme, a_plain_price(), prompt=100_000_000)
    with taxed("5"):
        (invoice,) = invoices.draw(acme, M)
    assert (invoice.subtotal, invoice.tax, invoice.total) == (10_000, 500, 10_500)
    assert (invoice.tax_name, invoice.issuer_name) == ("VAT", "House")
    assert charged(acme) == 10_500 * CENT
    assert ledger.balance(ledger.account("tax", "USD")) == 500 * CENT


def test_what_is_booked_late_stands_on_the_next_invoice_with_its_own_month(
    acme: Organization,
) -> None:
    price = a_plain_price()
    book(acme, price, OCTOBER - timedelta(days=31))
    (september,) = invoices.draw(acme, Month(2025, 9))
    late = book(acme, price, OCTOBER - timedelta(days=31), prompt=70_000)
    inside = book(acme, price, OCTOBER)
    (october,) = invoices.draw(acme, M)
    own, other = october.lines.all()
    assert (own.minor, other.minor, other.period_end) == (1, 7, october.period_start)
    window = invoices.window_of(october)
    assert [r.request_id for r in invoice_lines.requests_of(window, own)] == [inside]
    assert [r.request_id for r in invoice_lines.requests_of(window, other)] == [late]
    (line,) = september.lines.all()
    beneath = invoice_lines.requests_of(invoices.window_of(september), line)
    assert sum(row.cost_nano for row in beneath) == line.nano  # not what came later


def test_a_correction_of_usage_is_a_line_below_nothing(acme: Organization) -> None:
    book(acme, a_plain_price(), timezone.now(), prompt=30_000)
    charge = LedgerTransaction.objects.get(kind=Kind.USAGE)
    ledger.reverse(charge, "wrong", description="Counted twice")
    (draft,) = invoices.statements(acme)
    assert [(line.what, line.minor) for line in draft.drawn] == [("demo", 3), ("Counted twice", -3)]
    assert draft.total == 0


def test_an_invoice_that_was_issued_does_not_change(acme: Organization, alice: User) -> None:
    book(acme, a_plain_price())
    (invoice,) = invoices.draw(acme, M)
    line = invoice.lines.get()
    for change in (
        lambda: Invoice.objects.filter(id=invoice.id).update(total=9, subtotal=9),
        lambda: Invoice.objects.filter(id=invoice.id).update(status="draft"),
        lambda: Invoice.objects.filter(id=invoice.id).update(status="void", legal_name="x"),
        lambda: Invoice.objects.filter(id=invoice.id).delete(),
        lambda: InvoiceLine.objects.filter(id=line.id).update(minor=9),
        lambda: InvoiceLine.objects.filter(id=line.id).delete(),
        lambda: InvoiceLine(
            invoice=invoice,
            position=9,
            kind="other",
            what="more",
            period_start=OCTOBER,
            period_end=OCTOBER,
            nano=1,
            minor=0,
        ).save(force_insert=True),
    ):
        with pytest.raises(DatabaseError), transaction.atomic():
            change()
    invoices.void(invoice, alice, "Wrong name")
    with pytest.raises(DatabaseError), transaction.atomic():
        Invoice.objects.filter(id=invoice.id).update(status="final")


def test_a_void_invoice_gives_back_what_it_posted_and_is_drawn_anew(
    acme: Organization, alice: User
) -> None:
    book(acme, a_plain_price(), prompt=14_000)
    with taxed("5"):
        (wrong,) = invoices.draw(acme, M)
    invoices.void(wrong, alice, "Wrong name")
    assert charged(acme) == 14_000_000
    BillingProfile.objects.filter(organization=acme).update(legal_name="Acme Inc.")
    (right,) = invoices.draw(acme, M)
    assert (right.number[-6:], right.legal_name) == ("000002", "Acme Inc.")
    assert charged(acme) == right.total * CENT
    wrong.refresh_from_db()
    assert (wrong.status, wrong.reason, wrong.legal_name) == ("void", "Wrong name", "Acme")


def test_an_invoice_that_others_build_on_cannot_become_void(
    acme: Organization, alice: User
) -> None:
    price = a_plain_price()
    book(acme, price, OCTOBER - timedelta(days=31))
    (first,) = invoices.draw(acme, Month(2025, 9))
    book(acme, price)
    (second,) = invoices.draw(acme, M)
    with pytest.raises(Conflict):
        invoices.void(first, alice, "no")
    invoices.credit(second, alice, 1, "Goodwill")
    with pytest.raises(Conflict):
        invoices.void(second, alice, "no")
    with pytest.raises(Conflict):
        invoices.draw(acme, Month(2025, 8))


def test_a_credit_note_gives_back_no_more_than_the_invoice(acme: Organization, alice: User) -> None:
    book(acme, a_plain_price(), prompt=333_000)  # 33.3 cents
    with taxed("5"):
        (invoice,) = invoices.draw(acme, M)
    assert (invoice.subtotal, invoice.tax) == (33, 2)
    note = invoices.credit(invoice, alice, 11, "Outage", invoice.lines.get())
    assert (note.number[:3], note.corrects, note.subtotal, note.tax) == ("CN-", invoice, -11, -1)
    assert [line.minor for line in note.lines.all()] == [-11]
    assert charged(acme) == (35 - 12) * CENT
    for wrong in (0, -1, 23):
        with pytest.raises(Conflict):
            invoices.credit(invoice, alice, wrong, "More")
    rest = invoices.credit(invoice, alice, 22, "All")
    assert (rest.tax, charged(acme)) == (-1, 0)
    with pytest.raises(Conflict):
        invoices.credit(note, alice, 1, "A note of a note")


def test_months_that_were_missed_are_caught_up_once_they_have_settled(
    acme: Organization, monkeypatch: pytest.MonkeyPatch
) -> None:
    def clock(text: str) -> datetime:
        now = datetime.fromisoformat(text)
        monkeypatch.setattr(timezone, "now", lambda: now)
        return now

    in_zone(acme, "Asia/Taipei")
    price = a_plain_price()
    for month in (8, 10):
        book(acme, price, clock(f"2025-{month:02d}-15T12:00:00+00:00"))
    clock("2025-10-31T16:30:00+00:00")  # half past midnight of 1 November there
    assert [i.period_end.month for i in invoices.draw_due(acme)] == [8]
    clock("2025-10-31T18:00:00+00:00")
    assert [i.period_end.day for i in invoices.draw_due(acme)] == [31]
    assert invoices.draw_due(acme) == []
    assert Invoice.objects.count() == 2
    assert set(Invoice.objects.values_list("number", flat=True)) == {
        "INV-2025-000001",
        "INV-2025-000002",
    }


def test_months_meet_where_the_time_zone_changes(acme: Organization) -> None:
    price = a_plain_price()
    in_zone(acme, "Asia/Taipei")
    book(acme, price, OCTOBER - timedelta(days=31))
    invoices.draw(acme, Month(2025, 9))
    between = book(acme, price, datetime(2025, 9, 30, 20, tzinfo=UTC))
    in_zone(acme, "UTC")
    (october,) = invoices.draw(acme, M)
    assert october.period_start == datetime(2025, 9, 30, 16, tzinfo=UTC)
    window = invoices.window_of(october)
    (row,) = invoice_lines.requests_of(window, october.lines.get())
    assert row.request_id == between


@pytest.mark.django_db(transaction=True)
def test_numbers_have_no_gap_and_no_double_however_many_draw_at_once(alice: User) -> None:
    price = a_plain_price()
    organizations = [Organization.found(f"Firm {n}", alice) for n in range(6)]
    for organization in organizations:
        book(organization, price, prompt=14_000)
    failing = organizations[0]
    errors: list[Exception] = []

    def work(organization: Organization, fail: bool) -> None:
        try:
            with transaction.atomic():
                invoices.draw(organization, M)
                if fail:
                    raise ValueError
        except ValueError:
            pass
        except Exception as error:
            errors.append(error)
        finally:
            connection.close()

    jobs = [(each, False) for each in organizations for _ in range(2)] + [(failing, True)] * 2
    threads = [threading.Thread(target=work, args=job) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    numbers = sorted(int(i.number[-6:]) for i in Invoice.objects.all())
    assert numbers == [1, 2, 3, 4, 5, 6]
    assert {i.organization_id for i in Invoice.objects.all()} == {o.id for o in organizations}


@pytest.mark.django_db(transaction=True)
def test_what_is_booked_while_an_invoice_is_drawn_is_on_it_or_on_the_next(
    acme: Organization,
) -> None:
    price = a_plain_price()
    book(acme, price)
    batches = [
        [request_at(acme, price, OCTOBER, 3_000 + n, model=f"m{n % 3}") for n in range(5)]
        for _ in range(12)
    ]
    errors: list[Exception] = []

    def work(mine: list[object]) -> None:
        try:
            for batch in mine:
                usage.ingest(batch)
        except Exception as error:
            errors.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=work, args=(batches[n::3],)) for n in range(3)]
    for thread in threads:
        thread.start()
    (october,) = invoices.draw(acme, M)
    for thread in threads:
        thread.join()
    assert errors == []
    book(acme, price, OCTOBER + timedelta(days=30))
    (november,) = invoices.draw(acme, M.following)
    revenue = ledger.account(LedgerAccount.Kind.REVENUE, "USD")
    assert october.nano + november.nano == ledger.balance(revenue)
    for invoice in (october, november):
        window = invoices.window_of(invoice)
        for line in invoice.lines.all():
            beneath = invoice_lines.requests_of(window, line)
            assert sum(row.cost_nano for row in beneath) == line.nano


def test_the_task_draws_what_is_due_and_nothing_twice(
    acme: Organization, monkeypatch: pytest.MonkeyPatch
) -> None:
    book(acme, a_plain_price(), timezone.now())
    later = timezone.now() + timedelta(days=62)
    monkeypatch.setattr(timezone, "now", lambda: later)
    (number,) = tasks.draw_invoices_of(str(acme.id))
    assert number == Invoice.objects.get().number
    assert tasks.draw_invoices_of(str(acme.id)) == []


AMOUNTS = st.lists(
    st.tuples(st.integers(0, 10_000_000), st.sampled_from(["a", "b", "c"]), st.integers(1, 3)),
    min_size=1,
    max_size=15,
)


class Sums(TestCase):
    @given(
        amounts=AMOUNTS,
        currency=st.sampled_from(["USD", "TWD"]),
        rate=st.sampled_from(["0", "5", "7.7", "19"]),
        paid=st.integers(0, 20 * money.NANO),
    )
    @settings(max_examples=25, deadline=None)
    def test_lines_and_what_rounding_left_over_are_the_ledger(
        self, amounts, currency: str, rate: str, paid: int
    ) -> None:
        acme = Organization.objects.create(name="Acme", slug="acme-sums")
        BillingProfile.objects.create(organization=acme, currency=currency)
        if paid:
            wallet.pay_in(acme, paid, Kind.TOPUP, "paid")
        price = a_plain_price(currency)
        usage.ingest(
            [
                request_at(acme, price, OCTOBER, tokens, model=model, key=UUID(int=key))
                for tokens, model, key in amounts
            ]
        )
        used = sum(tokens for tokens, *_ in amounts) * 1000
        revenue = ledger.account(LedgerAccount.Kind.REVENUE, currency)
        assert ledger.balance(revenue) == used == charged(acme)
        with taxed(rate):
            made = invoices.draw(acme, M)
        if not used:
            assert made == []
            return
        (invoice,) = made
        lines = list(invoice.lines.all())
        assert sum(line.nano for line in lines) == used == invoice.nano
        assert sum(line.minor for line in lines) == invoice.subtotal
        rest = used - money.nano_of_minor(invoice.subtotal, currency)
        assert ledger.balance(ledger.account("rounding", currency)) == -rest
        assert charged(acme) == money.nano_of_minor(invoice.total, currency)
        window = invoices.window_of(invoice)
        for line in lines:
            beneath = invoice_lines.requests_of(window, line)
            assert sum(row.cost_nano for row in beneath) == line.nano
            assert len(beneath) == line.requests
