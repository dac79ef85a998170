"""Balance, ledger and billing details: what they show, and to whom."""

import csv
import io
from datetime import timedelta
from decimal import Decimal
from uuid import UUID

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from accounts.models import Membership, Organization, User
from accounts.roles import Role
from billing import book, ledger, payment_page, tax_ids, usage, wallet, wallet_pages
from billing.ledger import Kind
from billing.models import LedgerTransaction
from billing.money import NANO, exact, shown
from tests.billing.pricing import a_price, used
from tests.cast import person, signed_in

READERS = frozenset({Role.OWNER, Role.ADMIN, Role.BILLING})
MANAGERS = frozenset({Role.OWNER, Role.BILLING})
DETAILS = {"currency": "TWD", "time_zone": "Asia/Taipei"}
SPACE = "\N{NO-BREAK SPACE}"


def entered(acme: Organization, nano: int = 5 * NANO, key: str = "paid") -> LedgerTransaction:
    return wallet.pay_in(acme, nano, Kind.CREDIT, key, description="PO 4711")


@pytest.mark.parametrize(
    ("nano", "currency", "rounded", "whole"),
    [
        (1_250 * NANO, "USD", "1,250.00 USD", "1,250.00 USD"),
        (1_250 * NANO, "TWD", "1,250 TWD", "1,250 TWD"),
        (3_500, "USD", "0.00 USD", "0.0000035 USD"),
        (-NANO // 2, "JPY", "0 JPY", "-0.5 JPY"),
        (0, "USD", "0.00 USD", "0.00 USD"),
    ],
)
def test_amounts_as_people_read_them(nano: int, currency: str, rounded: str, whole: str) -> None:
    assert shown(nano, currency).replace(SPACE, " ") == rounded
    assert exact(nano, currency).replace(SPACE, " ") == whole


def test_the_page_shows_what_there_is_and_until_when(
    acme: Organization, alice: User, alice_client: Client
) -> None:
    entered(acme)
    until = timezone.now() + timedelta(days=30)
    wallet.grant(acme, 2 * NANO, alice, reason="Trial", key="t", expires_at=until)
    page = alice_client.get("/o/acme/billing/").content.decode()
    assert f"7.00{SPACE}USD" in page
    assert f"until {until:%Y-%m-%d %H:%M} UTC" in page
    assert "insufficient_quota" in page  # what happens at zero
    assert "PO 4711" in page


def test_runway_is_by_what_was_charged_lately(acme: Organization) -> None:
    entered(acme, 20 * NANO)
    now = timezone.now()
    assert book.runway(acme, wallet.funds(acme), now) is None
    wallet.charge(acme, 2 * NANO, Kind.USAGE, "used")
    first = LedgerTransaction.objects.get(key="used").created_at
    funds = wallet.funds(acme)
    # One day is the shortest over which a rate is worked out: 2 a day of 18.
    assert book.runway(acme, funds, first + timedelta(hours=1)) == pytest.approx(9)
    assert book.runway(acme, funds, first + timedelta(days=4)) == pytest.approx(36)
    assert book.runway(acme, funds, first + timedelta(days=8)) is None


def test_what_is_paid_in_is_not_spending(acme: Organization) -> None:
    wallet.charge(acme, NANO, Kind.USAGE, "used")
    entered(acme)
    assert book.spent(acme, "USD", timezone.now() - timedelta(hours=1)) == NANO


def test_preset_amounts_lead_to_the_payment(
    alice_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = alice_client.get("/o/acme/billing/").content.decode()
    assert "Your operator adds credit by hand" in closed
    monkeypatch.setattr(payment_page, "address", lambda organization: "/o/acme/billing/top-up/")
    page = alice_client.get("/o/acme/billing/").content.decode()
    assert 'action="/o/acme/billing/top-up/"' in page
    assert 'name="amount" value="50"' in page
    assert "Your operator adds credit by hand" not in page


def test_without_payments_there_is_no_way_to_them(acme: Organization) -> None:
    assert payment_page.address(acme) == ""


def test_the_ledger_goes_on_by_key(
    acme: Organization, alice_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wallet_pages, "PAGE", 2)
    made = [entered(acme, NANO, str(number)) for number in range(3)]
    first = alice_client.get("/o/acme/billing/ledger/")
    assert [line.transaction for line in first.context["lines"]] == [made[2], made[1]]
    second = alice_client.get(f"/o/acme/billing/ledger/?after={first.context['next']}")
    assert [line.transaction for line in second.context["lines"]] == [made[0]]
    assert second.context["next"] is None
    assert alice_client.get("/o/acme/billing/ledger/?after=nonsense").status_code == 200


def test_the_file_has_every_entry_and_sums_to_the_balance(
    acme: Organization, alice: User, alice_client: Client
) -> None:
    entered(acme, 7 * NANO)
    wallet.grant(acme, 2 * NANO, alice, reason="=1+1", key="t")
    wallet.charge(acme, 3 * NANO + 1, Kind.USAGE, "used")
    answer = alice_client.get("/o/acme/billing/ledger/export/")
    rows = list(csv.DictReader(io.StringIO(answer.getvalue().decode())))
    total = sum(Decimal(row["amount"]) * NANO for row in rows)
    assert total == wallet.funds(acme).available == 6 * NANO - 1
    assert {row["account"] for row in rows} == {"wallet", "grant"}
    assert "'=1+1" in {row["description"] for row in rows}


def test_a_transaction_leads_to_the_requests_that_it_charges_for(
    acme: Organization, alice_client: Client
) -> None:
    finished = used(acme, a_price())
    usage.ingest([finished])
    charged = LedgerTransaction.objects.get(kind=Kind.USAGE)
    page = alice_client.get(f"/o/acme/billing/ledger/{charged.id}/").content.decode()
    assert page.count(f"?id={UUID(bytes=finished[0].request_id)}") == 1


def test_queries_do_not_grow_with_entries(acme: Organization, alice_client: Client) -> None:
    def queries() -> int:
        with CaptureQueriesContext(connection) as captured:
            alice_client.get("/o/acme/billing/ledger/")
        return len(captured)

    entered(acme)
    queries()
    few = queries()
    for number in range(9):
        entered(acme, NANO, str(number))
    assert queries() == few


PAGES = [
    ("", "get", READERS),
    ("ledger/", "get", READERS),
    ("ledger/export/", "get", READERS),
    ("ledger/{transaction}/", "get", READERS),
    ("profile/", "get", READERS),
    ("profile/", "post", MANAGERS),
]


@pytest.mark.parametrize(("path", "method", "passes"), PAGES)
@pytest.mark.parametrize("role", list(Role))
def test_members_by_role(
    acme: Organization, role: Role, path: str, method: str, passes: frozenset[Role]
) -> None:
    who = person("somebody@acme.example")
    Membership.objects.create(organization=acme, user=who, role=role)
    a_price("TWD")
    where = f"/o/acme/billing/{path}".format(transaction=entered(acme).id)
    answer = getattr(signed_in(who), method)(where, DETAILS if method == "post" else None)
    assert answer.status_code in ({200, 302} if role in passes else {403})


@pytest.mark.parametrize(("path", "method", "_passes"), PAGES)
def test_strangers_find_nothing(
    acme: Organization, charlie_client: Client, path: str, method: str, _passes: object
) -> None:
    where = f"/o/acme/billing/{path}".format(transaction=entered(acme).id)
    assert getattr(charlie_client, method)(where).status_code == 404
    assert getattr(Client(), method)(where).status_code == 302
    own = where.replace("acme", "umbrella")
    if "{transaction}" in path:
        assert charlie_client.get(own).status_code == 404


def test_details_are_kept(acme: Organization, alice_client: Client) -> None:
    a_price("TWD")
    sent = DETAILS | {
        "legal_name": "Acme 股份有限公司",
        "country": "tw",
        "tax_id_kind": "tw_vat",
        "tax_id": "0459-5257",
        "invoice_email": "ap@acme.example",
    }
    assert alice_client.post("/o/acme/billing/profile/", sent).status_code == 302
    profile = wallet.profile_of(acme)
    assert (profile.currency, profile.time_zone, profile.country) == ("TWD", "Asia/Taipei", "TW")
    assert (profile.tax_id_kind, profile.tax_id) == ("tw_vat", "04595257")


def test_the_currency_stays_once_something_is_booked(
    acme: Organization, alice_client: Client
) -> None:
    a_price("TWD")
    entered(acme)
    alice_client.post("/o/acme/billing/profile/", DETAILS)
    profile = wallet.profile_of(acme)
    assert (profile.currency, profile.time_zone) == ("USD", "Asia/Taipei")


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"tax_id_kind": "tw_vat", "tax_id": "04595258"}, "tax_id"),
        ({"tax_id_kind": "eu_vat", "tax_id": "DE12"}, "tax_id"),
        ({"tax_id_kind": "eu_vat"}, "tax_id"),
        ({"tax_id": "04595257"}, "tax_id_kind"),
        ({"country": "Taiwan"}, "country"),
        ({"country": "台灣"}, "country"),
        ({"time_zone": "Mars/Olympus"}, "time_zone"),
        ({"currency": "EUR"}, "currency"),
        ({"invoice_email": "nobody"}, "invoice_email"),
    ],
)
def test_wrong_details_are_said_beside_their_field(
    alice_client: Client, wrong: dict[str, str], field: str
) -> None:
    a_price("TWD")
    answer = alice_client.post("/o/acme/billing/profile/", DETAILS | wrong)
    assert answer.status_code == 422
    assert set(answer.context["form"].errors) == {field}


@pytest.mark.parametrize("number", ["04595257", "22099131", "10458575", "00501503"])
def test_known_business_numbers_pass(number: str) -> None:
    assert tax_ids.is_ubn(number)


@pytest.mark.parametrize("number", ["04595258", "0459525", "045952570", "abcdefgh", "٠٤٥٩٥٢٥٧"])
def test_numbers_that_are_none_do_not(number: str) -> None:
    assert not tax_ids.is_ubn(number)


def test_european_numbers_are_told_by_their_form() -> None:
    good = ["DE123456789", "ATU12345678", "FRXX999999999", "NL123456789B01", "IE1234567WA"]
    assert all(tax_ids.is_eu_vat(number) for number in good)
    assert not any(tax_ids.is_eu_vat(number) for number in ["DE12345678", "US123456789", "", "D"])


def test_a_settled_debt_is_two_entries_on_one_line(acme: Organization) -> None:
    wallet.charge(acme, 2 * NANO, Kind.USAGE, "used")
    entered(acme)
    newest = book.lines(acme, most=1)[0]
    assert newest.nano == 5 * NANO
    assert [entry.nano for entry in newest.entries].count(2 * NANO) == 1
    assert ledger.balance(wallet.wallet_of(acme)) == 3 * NANO
