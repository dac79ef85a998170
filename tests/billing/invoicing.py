"""Usage of a chosen moment, booked as a gateway's records are."""

from datetime import UTC, datetime
from uuid import UUID

from accounts.models import Organization
from billing import invoices, usage
from billing.models import Invoice, PriceVersion
from billing.periods import Month
from billing.usage_record import Admit, Final
from portal.lib.ids import uuid7
from tests.billing.pricing import TOKENS, a_price
from tests.billing.records import admit, final

# Beside input and output tokens nothing costs anything, so that a token of input is 1,000 nano.
PLAIN = TOKENS | {"request": 0}
OCTOBER = datetime(2025, 10, 15, 12, tzinfo=UTC)


def request_at(
    organization: Organization,
    version: PriceVersion,
    moment: datetime,
    prompt: int,
    *,
    model: str = "demo",
    key: UUID | None = None,
) -> tuple[Admit, Final]:
    request = admit(organization, model=model, key=key or UUID(int=1))
    us = int(moment.timestamp() * 1_000_000)
    request.request_id = uuid7(us // 1000).bytes
    request.admitted_at_us = us
    request.price_version = version.id.bytes
    return request, final(request, prompt=prompt, completion=0)


def book(
    organization: Organization,
    version: PriceVersion,
    moment: datetime = OCTOBER,
    prompt: int = 10_000,
    **what: object,
) -> UUID:
    """One request; its id."""
    request = request_at(organization, version, moment, prompt, **what)
    assert usage.ingest([request]) == 1
    return UUID(bytes=request[0].request_id)


def an_invoice(organization: Organization, prompt: int = 1_234_000, **what: object) -> Invoice:
    """Of October, over one request; by default of 1.23 dollars."""
    book(organization, a_price(**PLAIN), prompt=prompt, **what)
    (invoice,) = invoices.draw(organization, Month(2025, 10))
    return invoice
