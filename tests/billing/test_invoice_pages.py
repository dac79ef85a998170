"""Invoices as people see them: pages, documents, files; for those who manage billing alone."""

import base64
import csv
import io
import re
import zlib

import pytest
from django.test import Client

from accounts.models import ApiKey, Membership, Organization, User
from accounts.roles import Role
from billing import invoice_pdf, invoices
from billing.models import BillingProfile, GpuUsage, Invoice
from portal.lib.ids import uuid7
from tests.billing.invoicing import OCTOBER, PLAIN, an_invoice, book
from tests.billing.pricing import a_price
from tests.cast import person, signed_in

LIST = "/o/acme/billing/invoices/"


def words(document: bytes) -> str:
    """The text of a PDF's pages, each piece that was drawn on a line of its own."""
    said = []
    for stream in re.findall(rb"stream\r?\n(.*?)endstream", document, re.S):
        try:
            page = zlib.decompress(base64.a85decode(stream.strip(), adobe=False))
        except ValueError:
            page = zlib.decompress(base64.a85decode(b"<~" + stream.strip(), adobe=True))
        for piece in re.findall(rb"\(((?:\\.|[^\\)])*)\) Tj", page):
            plain = re.sub(rb"\\([0-7]{3})", lambda m: bytes([int(m[1], 8)]), piece)
            said.append(re.sub(rb"\\(.)", rb"\1", plain).decode("cp1252", "replace"))
    return "\n".join(said)


def text(client: Client, path: str, status: int = 200) -> str:
    answer = client.get(path)
    assert answer.status_code == status
    return answer.content.decode()


def pdf(invoice: Invoice) -> bytes:
    return invoice_pdf.render(invoice, list(invoice.lines.all()))


def test_the_list_has_the_running_month_and_what_was_issued(
    alice_client: Client, acme: Organization
) -> None:
    assert "No invoice yet" in text(alice_client, LIST)
    invoice = an_invoice(acme)
    page = text(alice_client, LIST)
    assert invoice.number in page
    assert "1.23 USD" in page
    assert "2025-10-01 – 2025-10-31" in page


def test_a_line_leads_to_its_requests_by_the_id_that_the_client_saw(
    alice_client: Client, acme: Organization, alice: User
) -> None:
    price = a_price(**PLAIN)
    key, _ = ApiKey.issue(acme, alice, "server")
    mine = book(acme, price, key=key.id)
    other = book(acme, price, model="other")
    (invoice,) = invoices.draw(acme, invoices.Month(2025, 10))
    page = text(alice_client, f"{LIST}{invoice.number}/")
    assert f"{LIST}{invoice.number}/lines/1/" in page
    assert "alice@acme.example" in page
    beneath = text(alice_client, f"{LIST}{invoice.number}/lines/1/")
    assert f"/o/acme/usage/?id={mine}" in beneath
    assert str(other) not in beneath
    assert "0.01" in beneath
    text(alice_client, f"{LIST}{invoice.number}/lines/3/", 404)


def test_the_requests_of_a_line_go_on_by_key(alice_client: Client, acme: Organization) -> None:
    price = a_price(**PLAIN)
    ids = {str(book(acme, price)) for _ in range(53)}
    (invoice,) = invoices.draw(acme, invoices.Month(2025, 10))
    address = f"{LIST}{invoice.number}/lines/1/"
    first = alice_client.get(address)
    second = alice_client.get(f"{address}?after={first.context['next']}")
    seen = {str(row.request_id) for page in (first, second) for row, _ in page.context["rows"]}
    assert seen == ids
    assert second.context["next"] is None


def test_the_running_month_has_a_statement_with_its_requests(
    alice_client: Client, acme: Organization
) -> None:
    from django.utils import timezone  # noqa: PLC0415

    id_ = book(acme, a_price(**PLAIN), timezone.now(), prompt=5_000_000)
    assert "5.00" in text(alice_client, f"{LIST}current/")
    assert str(id_) in text(alice_client, f"{LIST}current/lines/1/")
    document = alice_client.get(f"{LIST}current/pdf/").content
    assert "USD 5.00" in words(document)
    assert "Draft, not an invoice" in words(document)
    text(alice_client, f"{LIST}current/?currency=XXX", 404)
    assert not Invoice.objects.exists()


def test_gpu_time_is_a_line_of_its_own_with_its_stretches(
    alice_client: Client, acme: Organization
) -> None:
    price = a_price(gpu_second=2_500_000_000)
    instance = uuid7()
    for first in (0, 3600):
        GpuUsage.objects.create(
            organization=acme,
            interval_id=instance,
            from_second=first,
            seconds=1800,
            started_at=OCTOBER,
            instance_id=instance,
            model_id="org/model",
            gpu_type="NVIDIA H100",
            gpu_count=2,
            price_version_id=price.id,
            cost_nano=2_500_000_000,
            currency="USD",
        )
    book(acme, price)
    (invoice,) = invoices.draw(acme, invoices.Month(2025, 10))
    line = invoice.lines.get(kind="gpu")
    assert (line.quantity, line.unit, line.unit_price) == (7200, "gpu_seconds", "2.5")
    assert line.minor == 500
    page = text(alice_client, f"{LIST}{invoice.number}/lines/{line.position}/")
    assert page.count("org/model") == 2
    assert "GPU time: NVIDIA H100" in words(pdf(invoice))


def test_the_document_says_what_is_to_be_paid_by_whom_to_whom(acme: Organization) -> None:
    BillingProfile.objects.create(
        organization=acme,
        currency="USD",
        legal_name="Acme (Holdings) GmbH",
        address="Straße 1\n10115 Berlin",
        tax_id="DE123456789",
        purchase_order="PO-7",
    )
    invoice = an_invoice(acme, prompt=1_234_567_000)
    said = words(pdf(invoice))
    for wanted in (
        "Invoice",
        invoice.number,
        "USD 1,234.57",
        "Acme (Holdings) GmbH",
        "Straße 1",
        "Tax id: DE123456789",
        "PO-7",
        "2025-10-01 – 2025-10-31 (UTC)",
        "1,234,567,000 tokens",
        "1 / 1",
    ):
        assert wanted in said


def test_the_document_is_the_same_bytes_each_time(acme: Organization) -> None:
    invoice = an_invoice(acme)
    assert pdf(invoice) == pdf(Invoice.objects.get())


@pytest.mark.parametrize(
    ("country", "font"), [("TW", "MSung-Light"), ("CN", "STSong-Light"), ("JP", "HeiseiMin-W3")]
)
def test_chinese_and_japanese_are_set_in_their_own_fonts(
    acme: Organization, country: str, font: str
) -> None:
    BillingProfile.objects.create(
        organization=acme, currency="USD", country=country, legal_name="國立清華大學 Acme"
    )
    document = pdf(an_invoice(acme))
    assert font.encode() in document
    assert "Acme" in words(document)


def test_a_long_invoice_goes_on_on_further_pages(acme: Organization) -> None:
    price = a_price(**PLAIN)
    for number in range(60):
        book(acme, price, model=f"model-{number:02d}")
    (invoice,) = invoices.draw(acme, invoices.Month(2025, 10))
    said = words(pdf(invoice))
    assert all(f"model-{number:02d}" in said for number in range(60))
    assert "3 / 3" in said
    assert said.count("USD 0.60") == 1


def test_files_have_every_line_and_every_request(alice_client: Client, acme: Organization) -> None:
    price = a_price(**PLAIN)
    ids = [str(book(acme, price, model=model)) for model in ("=a", "b", "b")]
    (invoice,) = invoices.draw(acme, invoices.Month(2025, 10))

    def rows(name: str) -> list[dict[str, str]]:
        answer = alice_client.get(f"{LIST}{invoice.number}/{name}.csv")
        return list(csv.DictReader(io.StringIO(answer.getvalue().decode())))

    lines = rows("lines")
    assert [(r["what"], r["amount"], r["exact_amount"]) for r in lines] == [
        ("'=a", "0.01", "0.01"),
        ("b", "0.02", "0.02"),
    ]
    requests = rows("requests")
    assert [(r["line"], r["request_id"]) for r in requests] == [
        ("1", ids[0]),
        *(("2", id_) for id_ in sorted(ids[1:])),
    ]
    assert sum(int(r["cost_nano"]) for r in requests) == invoice.nano


@pytest.mark.parametrize("rest", ["", "{n}/", "{n}/lines/1/", "{n}/pdf/", "{n}/lines.csv"])
@pytest.mark.parametrize("role", list(Role))
def test_who_may_see_them(acme: Organization, role: Role, rest: str) -> None:
    number = an_invoice(acme).number
    who = person("somebody@acme.example")
    Membership.objects.create(organization=acme, user=who, role=role)
    may = role in {Role.OWNER, Role.BILLING}
    answer = signed_in(who).get(LIST + rest.format(n=number))
    assert answer.status_code == (200 if may else 403)


def test_a_strangers_invoice_is_not_there(charlie_client: Client, acme: Organization) -> None:
    number = an_invoice(acme).number
    text(charlie_client, f"{LIST}{number}/", 404)
    text(charlie_client, f"/o/umbrella/billing/invoices/{number}/", 404)
    text(charlie_client, f"/o/umbrella/billing/invoices/{number}/pdf/", 404)


@pytest.fixture
def operator(db: None) -> Client:
    user = person("olga@operator.example")
    user.is_staff = True
    user.save()
    return signed_in(user)


def test_an_operator_writes_a_credit_note_and_makes_an_invoice_void(
    operator: Client, alice_client: Client, acme: Organization
) -> None:
    invoice = an_invoice(acme)
    address = f"/ops/invoices/{invoice.id}/"
    assert invoice.number in text(operator, "/ops/invoices/?q=acme")
    for amount in ("1.24", "nothing", "0", "0.001"):
        said = {"verb": "credit", "credit-amount": amount, "credit-reason": "Outage"}
        assert operator.post(address, said).status_code == 422
    said = {"verb": "credit", "credit-amount": "0.23", "credit-reason": "Outage"}
    assert operator.post(address, said | {"credit-position": "7"}).status_code == 422
    assert operator.post(address, {"verb": "void", "void-reason": ""}).status_code == 422
    assert operator.post(address, said).status_code == 302
    note = Invoice.objects.get(kind="credit_note")
    assert (note.total, note.decided_by.email) == (-23, "olga@operator.example")
    assert operator.post(address, {"verb": "void", "void-reason": "x"}).status_code == 422
    assert note.number in text(alice_client, f"{LIST}{invoice.number}/")
    page = text(alice_client, f"{LIST}{note.number}/")
    assert "Outage" in page and "-0.23" in page
    text(alice_client, f"{LIST}{note.number}/lines/1/")
    assert f"Corrects invoice\n{invoice.number}" in words(pdf(note))


def test_a_void_invoice_says_so(operator: Client, alice_client: Client, acme: Organization) -> None:
    invoice = an_invoice(acme)
    said = {"verb": "void", "void-reason": "Wrong address"}
    assert operator.post(f"/ops/invoices/{invoice.id}/", said).status_code == 302
    assert "Wrong address" in text(alice_client, f"{LIST}{invoice.number}/")
    assert "Void" in words(pdf(Invoice.objects.get(id=invoice.id)))


def test_others_do_not_find_the_operators_pages(alice_client: Client, acme: Organization) -> None:
    invoice = an_invoice(acme)
    text(alice_client, "/ops/invoices/", 404)
    said = {"verb": "void", "void-reason": "x"}
    assert alice_client.post(f"/ops/invoices/{invoice.id}/", said).status_code == 404
    assert Invoice.objects.get().status == "final"


def test_programs_read_invoices_and_their_lines(alice_client: Client, acme: Organization) -> None:
    invoice = an_invoice(acme)
    ground = "/api/v1/organizations/acme/invoices/"
    (listed,) = alice_client.get(ground).json()["results"]
    assert listed == alice_client.get(f"{ground}{invoice.number}/").json()
    assert (listed["total"], listed["currency"], listed["corrects"]) == (123, "USD", None)
    (line,) = alice_client.get(f"{ground}{invoice.number}/lines/").json()["results"]
    assert (line["what"], line["nano"], line["minor"]) == ("demo", 1_234_000_000, 123)
    assert alice_client.get(f"{ground}?status=void").json()["results"] == []
    assert alice_client.get(f"{ground}{invoice.number}/lines/?cursor=x").status_code == 400
