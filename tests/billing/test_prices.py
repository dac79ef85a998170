"""Prices: there is one from the start, and what was once in force never changes."""

from collections.abc import Callable
from datetime import UTC, datetime
from uuid import UUID

import pytest
from django.db import DatabaseError, transaction

from accounts.models import Organization
from billing import usage
from billing.models import PriceBook, PriceVersion, Rate, UsageEvent
from billing.models.price import FREE_BOOK, FREE_VERSION
from tests.billing.records import admit, final

pytestmark = pytest.mark.django_db


def test_everything_has_a_price_from_the_start_and_it_is_zero() -> None:
    version = PriceVersion.objects.get()
    assert (str(version.id), str(version.book_id)) == (FREE_VERSION, FREE_BOOK)
    assert (version.model, version.book.organization) == ("", None)
    rates = dict(version.rates.values_list("meter", "nano"))
    assert rates == dict.fromkeys(Rate.Meter.values, 0)


@pytest.mark.parametrize(
    "change",
    [
        lambda: PriceVersion.objects.update(effective_at=datetime(2030, 1, 1, tzinfo=UTC)),
        lambda: PriceVersion.objects.update(model="other"),
        lambda: Rate.objects.update(nano=1),
        lambda: Rate.objects.all().delete(),
        lambda: PriceVersion.objects.all()._raw_delete("default"),
    ],
)
def test_a_price_that_was_in_force_never_changes(change: Callable[[], object]) -> None:
    with pytest.raises(DatabaseError, match="never changes"), transaction.atomic():
        change()


def test_a_rate_is_set_once_and_is_not_negative() -> None:
    version = PriceVersion.objects.get()
    with pytest.raises(DatabaseError, match="one_rate_per_meter"), transaction.atomic():
        version.rates.create(meter=Rate.Meter.PROMPT, nano=5)
    newer = PriceVersion.objects.create(
        book=version.book, effective_at=datetime(2030, 1, 1, tzinfo=UTC)
    )
    newer.rates.create(meter=Rate.Meter.PROMPT, nano=5)
    with pytest.raises(DatabaseError, match="rate_is_not_negative"), transaction.atomic():
        newer.rates.create(meter=Rate.Meter.CACHED, nano=-1)


def test_an_organizations_own_book_comes_before_the_houses(acme: Organization) -> None:
    assert str(PriceBook.of(acme).id) == FREE_BOOK
    own = PriceBook.objects.create(name="Acme", currency="TWD", organization=acme)
    PriceBook.objects.create(name="House", currency="EUR")
    assert PriceBook.of(acme) == own


def test_a_row_of_usage_names_the_price_that_it_fell_under(acme: Organization) -> None:
    request = admit(acme)
    request.price_version = UUID(FREE_VERSION).bytes
    usage.ingest([(request, final(request))])
    assert PriceVersion.objects.get(id=UsageEvent.objects.get().price_version_id)
