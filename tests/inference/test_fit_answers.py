"""What people are told: does it fit here, for how many users, and for how much."""

from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from html import unescape
from html.parser import HTMLParser
from typing import Any

import pytest
from django.conf import settings
from django.test import Client, override_settings
from django.utils import timezone

from accounts.models import Organization
from billing.models import PriceBook
from billing.money import NANO
from inference import memory_bar
from inference.fit import GIB, Hardware, estimate
from inference.fit_answers import House, places
from inference.fit_records import Corrections
from inference.models import Instance, Node
from tests.fakes.hub import FakeHub, tiny_model
from tests.inference.test_fit import card, gpus

H100, L4 = "NVIDIA H100 80GB HBM3", "NVIDIA L4"
LLAMA = {
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
    "vocab_size": 128256,
}
PARAMETERS = {"BF16": 8_030_261_248}
FIT = "/api/v1/organizations/acme/models/fit/"
ADDRESS = "/o/acme/models/hub/meta/llama/"
FORM = "/o/acme/instances/new/?source=hub&model=meta/llama"


def machine(name: str, gib: int, **gpus: int) -> Node:
    """A node with so many GPUs by type."""
    kinds = {"h100": (H100, 80), "l4": (L4, 24), "odd": ("Odd GPU", 24)}
    has = [kinds[kind] for kind, count in gpus.items() for _ in range(count)]
    return Node.objects.create(
        name=name,
        cpu_count=16,
        memory_bytes=gib * GIB,
        disk_free_bytes=1000 * GIB,
        gpus=[
            {"index": n, "name": gpu, "memory_bytes": size * GIB, "replica_id": ""}
            for n, (gpu, size) in enumerate(has)
        ],
        seen_at=timezone.now(),
    )


@pytest.fixture
def llama(hub: FakeHub) -> FakeHub:
    hub.add("meta/llama", tiny_model(**LLAMA), parameters=PARAMETERS)
    return hub


@pytest.fixture
def priced() -> Iterator[None]:
    with override_settings(ENV=replace(settings.ENV, gpu_hour_cost=Decimal("2.50"))):
        yield


def text_of(client: Client, address: str, **headers: str) -> str:
    answer = client.get(address, headers=headers)
    assert answer.status_code == 200
    return unescape(answer.content.decode()).replace("\xa0", " ")


def ask(client: Client, **wish: Any) -> Any:
    body = {"source": "hub", "model_id": "meta/llama"} | wish
    answer = client.post(FIT, body, content_type="application/json")
    assert answer.status_code == 200, answer.content
    return answer.json()


def test_kinds_of_hardware_are_told_apart_not_machines(acme: Organization) -> None:
    machine("a", 512, h100=2)
    machine("b", 512, h100=4, l4=1)
    machine("c", 64)
    found = {(place.title, place.nodes): place for place in places()}
    assert len(found[H100, ("a", "b")].hardware.gpu_memory_bytes) == 4
    assert len(found[L4, ("b",)].hardware.gpu_memory_bytes) == 1
    assert found["c", ("c",)].suits(None)
    assert not found["a", ("a",)].suits(None)
    assert found["a", ("a",)].suits(0)
    assert not found["c", ("c",)].suits(1)


def test_a_models_page_says_how_many_users_fit_on_each_kind_of_gpu(
    alice_client: Client, llama: FakeHub
) -> None:
    machine("a", 512, h100=1)
    machine("b", 64, l4=2)
    text = text_of(alice_client, ADDRESS)
    # (0.9 × 80 - 2 - 14.96) GiB of 1 GiB for each conversation of 8,192 tokens
    assert f"Fits on 1 × {H100}: 55 concurrent users at 8,192 tokens." in text
    assert "3 requests with the whole context of 131,072 tokens at a time" in text
    assert f"Fits on 2 × {L4}: 24 concurrent users at 8,192 tokens." in text
    assert "gpu_count=1" in text  # what the button suggests


def test_too_large_for_a_gpu_says_what_to_choose(alice_client: Client, llama: FakeHub) -> None:
    machine("b", 64, odd=2)
    chosen = "&gpu_count=1&setting_max_model_len=65536"
    text = text_of(alice_client, FORM + chosen, **{"HX-Request": "true"})
    assert "There is room for a context of 38,031 tokens; the model could use 65,536." in text
    assert (
        "The whole context fits with 2 GPUs, fp8 for the weights, or fp8 for the conversations."
        in text
    )
    llama.add("meta/larger", tiny_model(**LLAMA), parameters={"BF16": 13_000_000_000})
    larger = FORM.replace("llama", "larger") + "&gpu_count=1"
    text = text_of(alice_client, larger, **{"HX-Request": "true"})
    assert "Needs 26.2 GB, this GPU has 21.6 GB for it." in text
    assert "Choose 2 GPUs, or fp8 for the weights." in text


@pytest.mark.parametrize(
    ("chosen", "sentence"),
    [
        ("", f"Fits on 1 × {H100}: 55 concurrent users at 8,192 tokens."),
        ("&setting_kv_cache_dtype=fp8", "110 concurrent users at 8,192 tokens."),
        ("&setting_quantization=fp8", "61 concurrent users at 8,192 tokens."),
        ("&setting_dtype=float32", "20 concurrent users at 8,192 tokens."),
        ("&setting_gpu_memory_utilization=0.5", "23 concurrent users at 8,192 tokens."),
        ("&setting_preset=latency", "16 concurrent users at 8,192 tokens."),
        ("&gpu_count=2&setting_data_parallel=2", f"Fits on 2 × {H100}: 110 concurrent users"),
        ("&gpu_count=2", f"Fits on 2 × {H100}: 125 concurrent users"),
        ("&gpu_count=2&setting_pipeline_parallel=2", f"Fits on 2 × {H100}: 125 concurrent users"),
        ("&gpu_count=2&setting_tensor_parallel=4", "cannot be shared evenly by 2 GPUs"),
        ("&gpu_count=8", f"no machine here has more than 2 × {H100}"),
        ("&setting_max_model_len=nonsense", "55 concurrent users"),
    ],
)
def test_the_form_answers_for_what_is_chosen(
    alice_client: Client, llama: FakeHub, chosen: str, sentence: str
) -> None:
    machine("a", 512, h100=2)
    part = text_of(alice_client, FORM + chosen, **{"HX-Request": "true"})
    assert "<html" not in part
    assert sentence in part


def test_what_does_not_fit_is_refused_where_it_was_chosen(
    alice_client: Client, llama: FakeHub
) -> None:
    llama.add("meta/llama", tiny_model(**LLAMA), parameters={"BF16": 60_000_000_000})
    machine("a", 512, h100=2)
    wanted = {"source": "hub", "model": "meta/llama", "name": "llama", "gpu_count": "1"}
    answer = alice_client.post("/o/acme/instances/new/", wanted)
    assert answer.status_code == 422
    assert "it needs" in answer.content.decode()
    assert "disabled" not in answer.content.decode().split("<p><button")[1].split(">")[0]
    assert not Instance.objects.exists()
    answer = alice_client.post("/o/acme/instances/new/", wanted | {"gpu_count": "2"})
    assert answer.status_code == 302


def test_a_price_is_told_by_the_hour_and_by_the_token(
    alice_client: Client, llama: FakeHub, priced: None
) -> None:
    machine("a", 512, h100=1)
    machine("b", 64, odd=2)
    machine("c", 64)
    text = text_of(alice_client, ADDRESS)
    assert "2.50 USD per hour." in text
    # 55 tokens for 16.06 GB + 55 × 1.07 GB, read at 0.8 × 3.35 TB/s: 1962 tokens/s
    assert "At full load at least 0.354 USD per million output tokens." in text
    assert "5 USD per hour." in text
    assert "How fast these GPUs are is not known here: no price per token." in text
    assert "It runs on the machine's processors, which have no price by the hour." in text


def test_the_price_list_comes_before_the_house_s_own_cost(
    alice_client: Client, llama: FakeHub, priced: None
) -> None:
    machine("a", 512, h100=1)
    book = PriceBook.of_house("USD")
    book.set_rates({"gpu_second": 3 * NANO}, gpu_type=Node.objects.get().gpus[0]["name"])
    assert "3 USD per hour." in text_of(alice_client, ADDRESS)


def test_without_a_price_nothing_is_said_to_be_free(alice_client: Client, llama: FakeHub) -> None:
    machine("a", 512, h100=1)
    text = text_of(alice_client, ADDRESS)
    assert "The operator has not said what a GPU costs" in text
    assert "per hour." not in text
    with override_settings(ENV=replace(settings.ENV, gpu_hour_cost=Decimal(0))):
        assert "The operator has not said what a GPU costs" in text_of(alice_client, ADDRESS)
        assert ask(alice_client)["fits"][0]["price_per_hour"] is None


class Bars(HTMLParser):
    """The drawings of a page, and what stands for them in words."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.labels: list[str] = []
        self.widths: list[int] = []
        self.styles = 0
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        said = dict(attrs)
        self.styles += "style" in said
        if tag == "svg" and said.get("role") == "img":
            self.labels.append(said.get("aria-label") or "")
        if tag == "rect" and "x" in said and "class" in said:
            self.widths.append(int(said["width"] or 0))


def test_the_bar_has_its_sizes_in_words_and_no_style(alice_client: Client, llama: FakeHub) -> None:
    machine("a", 512, h100=1)
    page = alice_client.get(ADDRESS).content.decode()
    bars = Bars(page)
    (label,) = [label for label in bars.labels if label.startswith("Memory: ")]
    plain = label.replace("\xa0", " ")
    assert (
        plain == "Memory: Weights 15.0 GB, Conversations (KV cache) 55.0 GB, "
        "Engine 2.0 GB, Spare 8.0 GB"
    )
    assert bars.styles == 0
    assert sum(bars.widths) == memory_bar.WIDTH
    assert page.count("Conversations (KV cache)") == 2  # and in the legend


def test_what_does_not_run_has_no_bar() -> None:
    assert memory_bar.parts(estimate(card("Qwen/Qwen3-8B"), gpus(1, 8))) == []
    parts = memory_bar.parts(estimate(card("Qwen/Qwen3-8B"), Hardware(memory_bytes=64 * GIB)))
    assert sum(part.width for part in parts) == memory_bar.WIDTH


def test_settings_of_an_instance_are_answered_for_as_they_are_filled_in(
    alice_client: Client, acme: Organization, llama: FakeHub
) -> None:
    machine("a", 512, h100=2)
    made = {"source": "hub", "model": "meta/llama", "name": "llama", "gpu_count": "1"}
    assert alice_client.post("/o/acme/instances/new/", made).status_code == 302
    address = f"{Instance.objects.get().get_absolute_url()}settings/"
    assert f'hx-get="{address}fit/?engine=vllm"' in alice_client.get(address).content.decode()
    part = text_of(alice_client, f"{address}fit/?gpu_count=1&setting_kv_cache_dtype=fp8")
    assert "110 concurrent users at 8,192 tokens." in part
    llama.down = 503
    Instance.objects.update(model_id="meta/other")
    assert "cannot be reached from here" in text_of(alice_client, f"{address}fit/?gpu_count=1")


def test_over_rest_the_same_in_numbers_and_sentences(
    alice_client: Client, llama: FakeHub, priced: None
) -> None:
    machine("a", 512, h100=2)
    body = ask(alice_client, gpu_count=2, settings={"kv_cache_dtype": "fp8"})
    (fit,) = body["fits"]
    assert (fit["gpu_type"], fit["nodes"], fit["verdict"]) == (H100, ["a"], "fits")
    assert (fit["gpu_count"], fit["kv_bytes_per_token"]) == (2, 65_536)
    assert {"context": 8192, "count": 250} in fit["users"]
    assert fit["weight_bytes"] == 2 * 8_030_261_248
    assert (fit["currency"], Decimal(fit["price_per_hour"])) == ("USD", 5)
    assert Decimal(fit["price_per_million_tokens"]) > 0
    assert f"Fits on 2 × {H100}: 250 concurrent users at 8,192 tokens." in fit["sentences"]
    assert "5 USD per hour." in fit["sentences"]
    assert body["obstacle"] == ""


def test_over_rest_without_a_number_of_gpus_few_are_taken(
    alice_client: Client, llama: FakeHub
) -> None:
    machine("a", 512, h100=2)
    assert [fit["gpu_count"] for fit in ask(alice_client)["fits"]] == [1]
    (memory,) = ask(alice_client, gpu_count=0)["fits"]
    assert (memory["gpu_type"], memory["nodes"]) == ("", ["a"])


@pytest.mark.parametrize(
    ("wish", "status"),
    [
        ({"settings": {"max_model_len": 1}}, 400),
        ({"settings": {"trust_remote_code": True}}, 400),
        ({"settings": {"tensor_parallel": 3}, "gpu_count": 2}, 400),
        ({"engine": "nonsense"}, 400),
        ({"source": "cloud"}, 400),
        ({"gpu_count": -1}, 400),
        ({"model_id": "meta/absent"}, 404),
    ],
)
def test_over_rest_bad_questions_are_told(
    alice_client: Client, llama: FakeHub, wish: dict[str, Any], status: int
) -> None:
    body = {"source": "hub", "model_id": "meta/llama"} | wish
    assert alice_client.post(FIT, body, content_type="application/json").status_code == status


def test_an_instance_that_does_not_fit_so_is_refused_over_rest(
    alice_client: Client, llama: FakeHub
) -> None:
    llama.add("meta/llama", tiny_model(**LLAMA), parameters={"BF16": 60_000_000_000})
    machine("a", 16, h100=2)
    url = "/api/v1/organizations/acme/instances/"
    body = {"name": "llama", "model_source": "hub", "model_id": "meta/llama", "gpu_count": 1}
    answer = alice_client.post(url, body, content_type="application/json")
    assert answer.status_code == 400
    assert answer.json()["errors"][0]["pointer"] == "#/model_id"
    more = alice_client.post(url, body | {"gpu_count": 2}, content_type="application/json")
    assert more.status_code == 201
    fp8 = body | {"name": "small", "settings": {"quantization": "fp8"}}
    assert alice_client.post(url, fp8, content_type="application/json").status_code == 201


def test_a_page_of_models_asks_for_the_house_once(
    acme: Organization, django_assert_max_num_queries: Any
) -> None:
    machine("a", 512, h100=1, l4=1)
    with django_assert_max_num_queries(6):  # machines, what was measured, prices in three
        house = House.of(acme)
        assert isinstance(house.corrections, Corrections)
        for _ in range(20):
            house.answers(card("Qwen/Qwen3-8B"))
