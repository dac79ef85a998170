"""Prices: there is one from the start, and what was once in force never changes."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from django.core.exceptions import ValidationError
from django.db import DatabaseError, IntegrityError, transaction
from django.utils import timezone

from accounts.models import Organization, User
from billing import usage, wallet
from billing.models import BillingProfile, PriceBook, PriceVersion, Rate, Terms, UsageEvent
from billing.models.price import PER_REQUEST
from tests.billing.pricing import TOKENS
from tests.billing.records import admit, final

pytestmark = pytest.mark.django_db


def in_currency(organization: Organization, currency: str) -> BillingProfile:
    profile = wallet.profile_of(organization)
    profile.currency = currency
    profile.save()
    return profile


def test_everything_has_a_price_from_the_start_and_it_is_zero() -> None:
    version = PriceVersion.objects.get()
    assert (version.model, version.engine, version.gpu_type) == ("", "", "")
    assert (version.book.organization, version.book.currency) == (None, "USD")
    assert version.nano == dict.fromkeys(PER_REQUEST, 0)


def test_a_currency_that_comes_into_use_is_free_as_long_as_nothing_costs_anything(
    acme: Organization,
) -> None:
    in_currency(acme, "TWD")
    assert PriceBook.of_house("TWD").versions.get().nano == dict.fromkeys(PER_REQUEST, 0)


def test_once_there_are_prices_another_currency_has_none_until_it_is_given_some(
    acme: Organization,
) -> None:
    PriceBook.of_house("USD").set_rates(TOKENS)
    in_currency(acme, "JPY")
    assert not PriceBook.of_house("JPY").versions.exists()


@pytest.mark.parametrize(
    "change",
    [
        lambda: PriceVersion.objects.update(effective_at=datetime(2030, 1, 1, tzinfo=UTC)),
        lambda: PriceVersion.objects.update(model="other"),
        lambda: Rate.objects.update(nano=1),
        lambda: Rate.objects.all().delete(),
        lambda: PriceVersion.objects.all()._raw_delete("default"),
        lambda: Terms.objects.update(discount=10_000),
        lambda: Terms.objects.all().delete(),
    ],
)
def test_what_was_in_force_never_changes(
    acme: Organization, alice: User, change: Callable[[], object]
) -> None:
    Terms.agree(acme, alice, discount=5)
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


def test_of_a_currency_there_is_one_book_of_the_house() -> None:
    assert PriceBook.of_house("EUR") == PriceBook.of_house("EUR") != PriceBook.of_house("USD")
    with pytest.raises(IntegrityError, match="one_house_book"), transaction.atomic():
        PriceBook.objects.create(name="Other", currency="EUR")


def test_an_organization_has_one_book_of_its_own_in_one_currency(acme: Organization) -> None:
    own = PriceBook.of_organization(acme, "TWD")
    assert PriceBook.of_organization(acme, "TWD") == own
    with pytest.raises(ValidationError, match="TWD already"):
        PriceBook.of_organization(acme, "EUR")


@pytest.mark.parametrize(
    ("rates", "also", "words"),
    [
        ({}, {}, "at least one"),
        ({"prompt": 1}, {"model": "x"}, "all rates"),
        ({}, {"ends": True}, "cannot end"),
        (TOKENS, {"ends": True, "model": "x"}, "no rates"),
        (TOKENS, {"effective_at": timezone.now() - timedelta(hours=1)}, "used already"),
    ],
)
def test_a_version_that_says_nothing_sure_is_refused(rates, also, words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        PriceBook.of_house("USD").set_rates(rates, **also)
    assert PriceVersion.objects.count() == 1


def test_a_version_may_price_gpu_time_alone_or_end() -> None:
    book = PriceBook.of_house("USD")
    assert book.set_rates({"gpu_second": 5}, gpu_type="H100").nano == {"gpu_second": 5}
    assert book.set_rates({}, gpu_type="H100", ends=True).ends


def test_a_row_of_usage_names_the_price_that_it_fell_under(acme: Organization) -> None:
    request = admit(acme)
    version = PriceVersion.objects.get()
    request.price_version = version.id.bytes
    usage.ingest([(request, final(request))])
    assert UsageEvent.objects.get().price_version_id == version.id


def test_terms_are_agreed_for_what_comes_and_within_reason(acme: Organization, alice: User) -> None:
    past = timezone.now() - timedelta(minutes=1)
    for wrong in ({"effective_at": past}, {"discount": 10_001}, {"free_tokens": -1}):
        with pytest.raises(ValidationError):
            Terms.agree(acme, alice, **wrong)
    assert not Terms.objects.exists()


def test_who_agreed_may_be_forgotten(acme: Organization, bob: User) -> None:
    Terms.agree(acme, bob, discount=5)
    bob.delete()
    assert Terms.objects.get().created_by is None
