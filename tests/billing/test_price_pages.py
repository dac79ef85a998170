"""What people read of prices."""

from datetime import timedelta

import pytest
from django.test import Client
from django.utils import timezone
from hypothesis import given

from accounts.models import Organization
from billing import price_list, wallet
from billing.models import PriceBook
from billing.price_choice import choose, possible
from tests.billing.pricing import TOKENS, a_price
from tests.billing.test_price_choice import NAMES, NOW, VERSIONS, V


def test_the_public_list_says_what_holds_and_what_comes(client: Client, db: None) -> None:
    book = PriceBook.of_house("USD")
    a_price()
    book.set_rates(TOKENS, model="Qwen/Qwen3-8B", engine="vllm")
    book.set_rates({"gpu_second": 2_490_000_000}, gpu_type="NVIDIA H100")
    book.set_rates(TOKENS | {"prompt": 0}, timezone.now() + timedelta(days=9))
    page = client.get("/pricing/")
    assert page.status_code == 200
    requests, time = page.context["requests"], page.context["gpu_time"]
    assert [(line.version.model, line.comes) for line in requests] == [
        ("Qwen/Qwen3-8B", False),
        ("", False),
        ("", True),
    ]
    assert [line.version.gpu_type for line in time] == ["NVIDIA H100"]
    words = page.content.decode()
    for word in ("Qwen/Qwen3-8B", "NVIDIA H100", "2.49", "on the engine vllm", "Comes"):
        assert word in words


def test_each_currency_has_its_list(client: Client, db: None) -> None:
    a_price()
    a_price("TWD", prompt=32_000_000_000)
    page = client.get("/pricing/?currency=TWD")
    assert page.context["currencies"] == ["USD", "TWD"]
    assert page.context["requests"][0].amounts[0] == 32
    assert client.get("/pricing/?currency=XXX").context["currency"] == "USD"


def test_an_organizations_own_prices_are_nobody_elses_business(
    client: Client, acme: Organization
) -> None:
    PriceBook.of_organization(acme, "USD").set_rates(TOKENS, model="secret")
    assert b"secret" not in client.get("/pricing/").content


def test_a_currency_in_use_without_a_price_is_told_to_the_operator(acme: Organization) -> None:
    a_price()
    assert price_list.unpriced() == []
    profile = wallet.profile_of(acme)
    profile.currency = "JPY"
    profile.save()
    assert price_list.unpriced() == ["JPY"]
    PriceBook.of_house("JPY").set_rates(TOKENS, timezone.now() + timedelta(days=1))
    assert price_list.unpriced() == ["JPY"]
    a_price("JPY")
    assert price_list.unpriced() == []


def test_of_a_model_only_what_may_hold_is_listed() -> None:
    everything, on_gpu = V(1), V(2, gpu_type="H100")
    model, on_engine = V(3, model="qwen"), V(4, model="qwen", engine="vllm")
    other = V(5, model="llama")
    versions = [everything, on_gpu, model, on_engine, other]
    assert possible(versions, NOW, model="qwen") == [on_engine, model]
    assert possible(versions, NOW, model="mistral") == [on_gpu, everything]
    assert set(possible(versions, NOW)) == set(versions)
    own = V(6, own=True)
    assert possible([*versions, own], NOW) == [own]


@given(VERSIONS, NAMES, NAMES, NAMES)
def test_what_holds_for_something_is_listed_and_nothing_else(versions, model, engine, gpu_type):
    listed = possible(versions, NOW, model=model)
    found = choose(versions, NOW, model=model, engine=engine, gpu_type=gpu_type)
    assert found is None or found in listed
    assert found is None or found in possible(versions, NOW)
    for version in listed:
        # Nobody else's engine and GPU type: then it holds just where it is for.
        asked = {"engine": version.engine or "?", "gpu_type": version.gpu_type or "?"}
        assert choose(versions, NOW, model=model, **asked) == version


@pytest.mark.parametrize(
    ("nano", "shown"),
    [(0, "0"), (150_000_000, "0.15"), (30 * 10**9, "30"), (1, "1E-9"), (100 * 10**9, "100")],
)
def test_amounts_are_exact_and_without_idle_zeros(nano: int, shown: str) -> None:
    assert str(price_list.amount(nano)) == shown
