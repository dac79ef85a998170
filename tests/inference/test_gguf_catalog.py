"""GGUF files from the catalogue to an instance: found, told apart, one of them chosen."""

import json
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.test import Client

from accounts.models import ApiKey, Organization, User
from inference.folders import folders, local_card
from inference.hub import ModelNotFound, describe, search
from inference.model_card import ModelFile, Refusal, editions, quantization_in
from inference.models import Instance
from tests.fakes.gguf import tiny_gguf
from tests.fakes.hub import FakeHub, tiny_model
from tests.inference.test_hub_folders import put

Q4, Q8 = "tiny-Q4_K_M.gguf", "tiny-Q8_0.gguf"
FILES = {Q4: tiny_gguf(), Q8: tiny_gguf() + bytes(4096), "mmproj-F16.gguf": tiny_gguf()}
NEW = "/o/acme/instances/new/"
URL = "/api/v1/organizations/acme/instances/"


@pytest.fixture
def bearer(acme: Organization, alice: User) -> dict[str, str]:
    _, key = ApiKey.issue(acme, alice, "ci", kind=ApiKey.Kind.MANAGEMENT)
    return {"Authorization": f"Bearer {key}"}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Qwen3-8B-Q4_K_M.gguf", "Q4_K_M"),
        ("Meta-Llama-3.1-8B.IQ2_XXS.gguf", "IQ2_XXS"),
        ("gpt-oss-20b-mxfp4.gguf", "MXFP4"),
        ("BF16/big-BF16-00001-of-00003.gguf", "BF16"),
        ("model-UD-Q2_K_XL.gguf", "UD-Q2_K_XL"),
        ("Q8_0.gguf", "Q8_0"),
        ("mistral.gguf", ""),
    ],
)
def test_the_name_of_a_file_says_how_it_is_quantized(name: str, said: str) -> None:
    assert quantization_in(name) == said


def test_the_parts_of_a_large_file_are_one_edition() -> None:
    sizes = {"Q8/b-Q8_0-00002-of-00002.gguf": 5, "Q8/b-Q8_0-00001-of-00002.gguf": 7, Q4: 3}
    sizes |= {"mmproj-model.gguf": 1, "imatrix.gguf": 1, "config.json": 1}

    found = editions(ModelFile(name, size) for name, size in sizes.items())

    assert [(e.path, e.size_bytes) for e in found] == [
        (Q4, 3),
        ("Q8/b-Q8_0-00001-of-00002.gguf", 12),
    ]


def test_a_search_finds_both_formats_the_most_used_first(hub: FakeHub) -> None:
    hub.add("acme/tiny", tiny_model(), downloads=5)
    said = {"architecture": "llama", "total": 2048, "context_length": 4096}
    hub.add("quants/tiny-GGUF", FILES, downloads=50, gguf=said)
    hub.add("both/tiny", tiny_model() | FILES, downloads=1)

    found = search("tiny")

    assert [card.model_id for card in found] == ["quants/tiny-GGUF", "acme/tiny", "both/tiny"]
    assert found[0].refusal is Refusal.CHOOSE_FILE
    assert (found[0].architecture, found[0].parameters, found[0].context_length) == (
        "llama",
        2048,
        4096,
    )
    assert found[2].refusal is None  # its safetensors are the model, unless somebody chooses


def test_a_repository_of_editions_says_which_there_are(hub: FakeHub) -> None:
    hub.add("quants/tiny-GGUF", FILES)

    card = describe("quants/tiny-GGUF")

    assert [(e.path, e.quantization) for e in card.editions] == [(Q4, "Q4_K_M"), (Q8, "Q8_0")]
    assert (card.refusal, card.model_file) == (Refusal.CHOOSE_FILE, "")
    assert (card.architecture, card.context_length, card.chat_template) == ("llama", 4096, True)


def test_a_chosen_edition_is_a_model_of_its_own(hub: FakeHub) -> None:
    hub.add("quants/tiny-GGUF", FILES)

    card = describe("quants/tiny-GGUF", model_file=Q8)

    assert (card.model_file, card.quantization, card.refusal) == (Q8, "Q8_0", None)
    assert card.weight_bytes == len(FILES[Q8]) == card.size_bytes
    assert card.shape is not None
    assert (card.shape.layers, card.shape.kv_heads, card.shape.head_dim) == (2, 2, 16)
    assert [file.path for file in card.files if file.fetched] == [Q8]


def test_of_a_large_file_the_beginning_is_read(hub: FakeHub) -> None:
    hub.add("quants/big", {"big-Q4_0.gguf": tiny_gguf() + bytes(9_000_000)})

    assert describe("quants/big", model_file="big-Q4_0.gguf").architecture == "llama"
    assert hub.sent["big-Q4_0.gguf"] <= 1024 * 1024


def test_a_file_that_is_not_there_is_named(hub: FakeHub) -> None:
    hub.add("quants/tiny-GGUF", FILES)

    for name in ("other.gguf", "mmproj-F16.gguf", "config.json"):
        with pytest.raises(ModelNotFound) as raised:
            describe("quants/tiny-GGUF", model_file=name)
        assert raised.value.sentence == f"quants/tiny-GGUF has no GGUF file {name}."


def test_a_gated_edition_asks_for_the_licence_first(hub: FakeHub) -> None:
    hub.add("quants/gated", FILES, gated=True)

    assert describe("quants/gated").refusal is Refusal.NEEDS_TOKEN
    assert describe("quants/gated", model_file=Q4).refusal is Refusal.NEEDS_TOKEN
    hub.tokens["hf_alice"] = {"quants/gated"}
    assert describe("quants/gated", token="hf_alice", model_file=Q4).refusal is None


def test_folders_with_gguf_files_are_models_too(model_folder: Path) -> None:
    put(model_folder / "quants" / "tiny", FILES)
    put(model_folder / "tiny", tiny_model())
    put(model_folder / "models--quants--cached" / "snapshots" / "1", FILES)

    assert list(folders()) == ["quants/cached", "quants/tiny", "tiny"]
    card, chosen = local_card("quants/tiny"), local_card("quants/tiny", Q4)
    assert card is not None and chosen is not None
    assert (card.refusal, card.architecture) == (Refusal.CHOOSE_FILE, "llama")
    assert (chosen.refusal, chosen.parameters, chosen.quantization) == (None, 2048, "Q4_K_M")
    assert chosen.revision == card.revision
    assert chosen.licence == "apache-2.0"
    assert local_card("quants/tiny", "../tiny/model.safetensors") is None


def test_another_file_in_its_place_is_another_revision(model_folder: Path) -> None:
    put(model_folder / "tiny", {Q4: tiny_gguf()})
    before = local_card("tiny", Q4)
    put(model_folder / "tiny", {Q4: tiny_gguf(**{"llama.block_count": 3})})
    after = local_card("tiny", Q4)

    assert before is not None and after is not None and before.revision != after.revision


def test_a_file_that_is_none_in_spite_of_its_name_is_refused(model_folder: Path) -> None:
    put(model_folder / "tiny", {Q4: b"PK\x03\x04" + bytes(100)})

    card = local_card("tiny", Q4)

    assert card is not None and card.refusal is Refusal.BAD_WEIGHTS


def test_the_page_leads_from_the_editions_to_the_form(alice_client: Client, hub: FakeHub) -> None:
    hub.add("quants/tiny-GGUF", FILES)
    page = alice_client.get("/o/acme/models/hub/quants/tiny-GGUF/")

    assert "Choose one of them" in page.content.decode()
    rows = page.context["editions"]
    assert [row["edition"].path for row in rows] == [Q4, Q8]
    chosen = alice_client.get(rows[0]["address"])
    assert f"file={Q4}" in chosen.context["deploy_query"]
    assert chosen.context["obstacle"] == ""
    form = alice_client.get(f"{NEW}?{chosen.context['deploy_query']}")
    assert f'<input type="hidden" name="file" value="{Q4}">' in form.content.decode()


def test_the_form_asks_for_the_chosen_file_in_llama_cpp(alice_client: Client, hub: FakeHub) -> None:
    hub.add("quants/tiny-GGUF", FILES)
    wanted = {"source": "hub", "model": "quants/tiny-GGUF", "file": Q4, "name": "tiny"}

    answer = alice_client.post(NEW, wanted | {"setting_max_model_len": "512"})

    made = Instance.objects.get()
    assert answer.url == made.get_absolute_url()
    assert (made.engine, made.model_file) == ("llama_cpp", Q4)
    assert made.settings == {"max_model_len": 512}
    assert made.revisions.get().model_file == Q4


def test_without_a_choice_the_form_says_what_is_missing(alice_client: Client, hub: FakeHub) -> None:
    hub.add("quants/tiny-GGUF", FILES)

    answer = alice_client.post(NEW, {"source": "hub", "model": "quants/tiny-GGUF", "name": "a"})

    assert answer.status_code == 422
    assert "Choose one of them" in answer.content.decode()
    assert not Instance.objects.exists()


def test_rest_takes_the_file_and_finds_the_engine(
    client: Client, bearer: dict[str, str], model_folder: Path
) -> None:
    put(model_folder / "tiny", FILES)
    model = {"model_source": "local", "model_id": "tiny"}

    made = post(client, {"name": "a", "model_file": Q8} | model, bearer)
    unchosen = post(client, {"name": "b", "engine": "llama_cpp"} | model, bearer)
    wrong = post(client, {"name": "c", "model_file": Q8, "engine": "vllm"} | model, bearer)
    absent = post(client, {"name": "d", "model_file": "no.gguf"} | model, bearer)

    assert made.status_code == 201, made.content
    assert (made.json()["engine"], made.json()["model_file"]) == ("llama_cpp", Q8)
    assert "Choose one of them" in unchosen.content.decode()
    assert "vLLM loads no GGUF files." in wrong.content.decode()
    assert "tiny has no GGUF file no.gguf." in absent.content.decode()
    shown = client.get(f"{URL.replace('instances', 'models')}local/tiny/?file={Q8}", headers=bearer)
    assert [e["path"] for e in shown.json()["editions"]] == [Q4, Q8]
    assert (shown.json()["model_file"], shown.json()["refusal"]) == (Q8, None)


def test_an_engine_of_safetensors_is_not_given_a_gguf_later(
    acme: Organization, alice: User
) -> None:
    instance = Instance.request(
        acme, alice, name="a", model_source="local", model_id="tiny", model_revision="1",
        model_file=Q4, engine="llama_cpp",
    )  # fmt: skip

    for change in ({"engine": "vllm"}, {"model_file": ""}):
        with pytest.raises(ValidationError, match="GGUF"):
            instance.change(alice, settings={}, **change)


def post(client: Client, body: object, headers: dict[str, str]) -> Any:
    return client.post(URL, json.dumps(body), content_type="application/json", headers=headers)
