"""The operator's price lists, the preview of a price, and an organization's terms."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from accounts.models import Organization, User
from billing import usage
from billing.models import GpuUsage, PriceBook, Terms
from inference.models import Instance, Replica, ServingInterval
from portal.ops.price_preview import effect
from tests.billing.pricing import TOKENS, a_price, used
from tests.inference.making import an_instance
from tests.ops.test_pages import operator

__all__ = ["operator"]
ADDRESS = "/ops/prices/"


def form(**fields: str) -> dict[str, str]:
    return {"prompt": "0.15", "completion": "0.6"} | fields


def newest(currency: str = "USD"):
    version = PriceBook.of_house(currency).versions.order_by("-created_at").first()
    assert version is not None
    return version


def test_a_price_for_a_model_on_an_engine_and_gpu_type(operator: Client) -> None:
    wanted = form(model="Qwen/Qwen3-8B", engine="vllm", gpu_type="NVIDIA H100", gpu_second="2.49")
    assert operator.post(ADDRESS, wanted).url == ADDRESS
    version = newest()
    assert (version.model, version.engine, version.gpu_type) == (
        "Qwen/Qwen3-8B",
        "vllm",
        "NVIDIA H100",
    )
    # What was left empty is like what it is a part of.
    assert version.nano == {
        "prompt": 150_000_000,
        "cached": 150_000_000,
        "completion": 600_000_000,
        "reasoning": 600_000_000,
        "request": 0,
        "gpu_second": 2_490_000_000,
    }
    rows = operator.get(ADDRESS).context["versions"]
    assert [row["holds"] for row in rows] == [True, True]


def test_gpu_time_alone_may_have_a_price_and_lose_it(operator: Client) -> None:
    operator.post(ADDRESS, {"gpu_type": "H100", "gpu_second": "1"})
    assert newest().nano == {"gpu_second": 10**9}
    operator.post(ADDRESS, {"gpu_type": "H100", "ends": "on"})
    assert newest().ends
    assert [row["holds"] for row in operator.get(ADDRESS).context["versions"]] == [
        False,
        False,
        True,
    ]


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"prompt": "1"},
        form(engine="steam"),
        form(prompt="-1"),
        form(ends="on"),
        {"ends": "on"},
        form(effective_at="2020-01-01T00:00"),
        form(effective_at="2020-01-01T00:00", preview="1", prompt=""),
    ],
)
def test_what_is_no_price_is_refused_with_a_word(operator: Client, wrong: dict[str, str]) -> None:
    page = operator.post(ADDRESS, wrong)
    assert page.status_code == 422 and page.context["form"].errors
    assert b'role="alert"' in page.content
    assert PriceBook.of_house("USD").versions.count() == 1


def test_price_lists_of_other_currencies_and_of_one_organization(
    operator: Client, acme: Organization
) -> None:
    address = reverse("ops-price-book")
    answer = operator.post(address, {"currency": "TWD"})
    twd = PriceBook.of_house("TWD")
    assert answer.url == f"{ADDRESS}?book={twd.id}"
    assert operator.post(answer.url, form()).url == answer.url
    assert newest("TWD").nano["prompt"] == 150_000_000
    operator.post(address, {"currency": "USD", "organization": "acme"})
    assert PriceBook.objects.get(organization=acme).currency == "USD"
    for wrong in ({"currency": "dollar"}, {"currency": "USD", "organization": "nobody"}):
        assert operator.post(address, wrong).status_code == 422
    page = operator.post(address, {"currency": "EUR", "organization": "acme"})
    assert page.status_code == 422 and b"in USD already" in page.content
    for strange in ("?book=x", "?book=00000000-0000-0000-0000-000000000000"):
        assert operator.get(ADDRESS + strange).status_code == 404


def test_terms_are_entered_and_shown(operator: Client, acme: Organization) -> None:
    address = reverse("ops-terms", args=[acme.id])
    wanted = {"discount": "12.5", "free_tokens": "1000", "free_amount": "0.5"}
    assert operator.post(address, wanted).url == address
    terms = Terms.objects.get()
    assert (terms.discount, terms.free_tokens, terms.free_nano) == (1_250, 1_000, 500_000_000)
    assert terms.created_by is not None
    words = operator.get(address).content.decode()
    assert "12.5 %" in words and "0.5 USD" in words
    for wrong in ({"discount": "101"}, {"effective_at": "2020-01-01T00:00"}, {"free_tokens": "-1"}):
        assert operator.post(address, wrong).status_code == 422
    assert Terms.objects.count() == 1


def test_prices_and_terms_are_for_operators_alone(alice_client: Client, acme: Organization) -> None:
    for address in (reverse("ops-price-book"), reverse("ops-terms", args=[acme.id])):
        assert alice_client.post(address, {}).status_code == 404
        assert Client().post(address, {}).url.startswith("/account/login/")
    assert not Terms.objects.exists()


# ------------------------------------------------------------------------------- the preview


@pytest.fixture
def demo(acme: Organization) -> Instance:
    return an_instance(acme, "demo")


@pytest.fixture
def replica(acme: Organization, demo: Instance) -> Replica:
    return Replica.objects.create(organization=acme, instance=demo, generation=1, gpu_type="H100")


def ingested(demo: Instance, replica: Replica, count: int = 1) -> None:
    batch: list[Any] = []
    price = a_price()
    for _ in range(count):
        request, final = used(demo.organization, price, prompt=100, completion=10)
        request.instance_id, request.replica_id = demo.id.bytes, replica.id.bytes
        batch.append((request, final))
    usage.ingest(batch)


ONE = 100 * 1000 + 10 * 4000 + 100  # what one of them was charged


def test_it_says_what_the_same_usage_would_have_cost(demo: Instance, replica: Replica) -> None:
    ingested(demo, replica, 3)
    book = PriceBook.of_house("USD")
    found = effect(book, {name: 2 * nano for name, nano in TOKENS.items()})
    assert (found.requests, found.tokens) == (3, 330)
    assert (found.before, found.after) == (3 * ONE, 6 * ONE)


def test_it_counts_only_what_the_price_would_be_for(
    demo: Instance, replica: Replica, acme: Organization
) -> None:
    ingested(demo, replica)
    book = PriceBook.of_house("USD")
    for scope in ({"model": "other"}, {"engine": "steam"}, {"gpu_type": "A100"}):
        assert effect(book, TOKENS, **scope).requests == 0
    for scope in ({"model": "demo"}, {"engine": "vllm"}, {"gpu_type": "H100"}):
        assert effect(book, TOKENS, **scope).requests == 1
    book.set_rates(TOKENS, model="demo")  # more specific than what comes
    assert effect(book, TOKENS, engine="vllm").requests == 0
    own = PriceBook.of_organization(acme, "USD")
    assert effect(own, TOKENS).requests == 1
    assert effect(PriceBook.of_house("TWD"), TOKENS).requests == 0


def test_an_end_brings_back_what_is_less_specific(demo: Instance, replica: Replica) -> None:
    book = PriceBook.of_house("USD")
    ingested(demo, replica)
    dear = book.set_rates({name: 5 * nano for name, nano in TOKENS.items()}, model="demo")
    assert dear.model == "demo"
    found = effect(book, {}, model="demo", ends=True)
    assert (found.requests, found.after) == (1, ONE)


def test_it_takes_off_todays_discount(demo: Instance, replica: Replica, alice: User) -> None:
    ingested(demo, replica)
    Terms.agree(demo.organization, alice, discount=5_000)
    assert effect(PriceBook.of_house("USD"), TOKENS).after == ONE // 2


def test_gpu_time_is_counted_within_the_days(demo: Instance, replica: Replica) -> None:
    now = timezone.now()
    for ago, lasted in ((40, 1), (2, 2)):
        start = now - timedelta(days=ago)
        ServingInterval.objects.create(
            organization=demo.organization,
            instance=demo,
            replica=replica,
            gpu_type="H100",
            gpu_count=2,
            started_at=start,
            ended_at=start + timedelta(hours=lasted),
        )
    interval = ServingInterval.objects.order_by("-started_at")[0]
    GpuUsage.objects.create(
        organization=demo.organization,
        interval_id=interval.id,
        from_second=0,
        seconds=7200,
        started_at=interval.started_at,
        instance_id=demo.id,
        model_id="demo",
        gpu_type="H100",
        gpu_count=2,
        price_version_id=interval.id,
        cost_nano=77,
        currency="USD",
    )
    book = PriceBook.of_house("USD")
    found = effect(book, {"gpu_second": 3 * 10**9}, gpu_type="H100")
    assert (found.gpu_seconds, found.before, found.after) == (14_400, 77, 2 * 2 * 3 * 10**9)
    assert effect(book, {"gpu_second": 1}, gpu_type="A100").gpu_seconds == 0


def test_the_page_shows_it_and_enters_nothing(
    operator: Client, demo: Instance, replica: Replica
) -> None:
    ingested(demo, replica)
    there = PriceBook.of_house("USD").versions.count()
    page = operator.post(ADDRESS, form(preview="1"))
    assert page.status_code == 200
    assert b"It would hold for 1 requests with 110 tokens" in page.content
    assert PriceBook.of_house("USD").versions.count() == there
    assert page.context["form"]["prompt"].value() == "0.15"


def test_an_announced_price_comes(operator: Client) -> None:
    soon = datetime.now(UTC) + timedelta(days=2)
    operator.post(ADDRESS, form(effective_at=soon.strftime("%Y-%m-%dT%H:%M")))
    rows = operator.get(ADDRESS).context["versions"]
    assert [(row["holds"], row["comes"]) for row in rows] == [(False, True), (True, False)]
