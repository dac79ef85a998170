"""The catalogue's pages, with and without a hub that answers."""

from http import HTTPStatus
from pathlib import Path

import pytest
from django.test import Client
from django.utils import timezone

from accounts.models import Membership, Organization, User
from accounts.roles import Role
from inference import catalog, demo
from inference.fit import GIB
from inference.models import HubCredential, Node
from tests.cast import person, signed_in
from tests.fakes.hub import FakeHub, tiny_model
from tests.inference.test_hub_folders import put

NO_DEPLOY = 'type="button" disabled aria-describedby="why-not"'


@pytest.fixture
def node(db: None) -> Node:
    return Node.objects.create(
        name="desk",
        cpu_count=2,
        memory_bytes=24 * GIB,
        disk_free_bytes=100 * GIB,
        seen_at=timezone.now(),
    )


@pytest.fixture
def viewer_client(acme: Organization) -> Client:
    user = person("vera@acme.example")
    Membership.objects.create(organization=acme, user=user, role=Role.VIEWER)
    return signed_in(user)


def page(client: Client, path: str, status: int = 200, **headers: str) -> str:
    response = client.get(f"/o/acme/models/{path}", headers=headers)
    assert response.status_code == status, response.content.decode()[:500]
    return response.content.decode()


def test_models_on_this_machine_are_there_without_asking_the_hub(
    alice_client: Client, hub: FakeHub, model_folder: Path
) -> None:
    put(model_folder / "tiny", tiny_model())
    text = page(alice_client, "")
    assert text.index("demo") < text.index("tiny")
    assert "/o/acme/models/bundled/modelport/demo/" in text
    assert "/o/acme/models/local/tiny/" in text
    assert hub.requests == []
    assert 'hx-get="/o/acme/models/search/?q="' in text


def test_the_hubs_part_comes_alone_for_htmx_and_in_a_whole_page_without(
    alice_client: Client, hub: FakeHub
) -> None:
    hub.add("umbrella/chat-model", tiny_model())
    part = page(alice_client, "search/?q=chat", **{"HX-Request": "true"})
    assert "/o/acme/models/hub/umbrella/chat-model/" in part
    assert "<html" not in part
    whole = page(alice_client, "search/?q=chat")
    assert "<html" in whole
    assert "/o/acme/models/hub/umbrella/chat-model/" in whole


def test_the_query_narrows_what_is_on_this_machine_too(
    alice_client: Client, hub: FakeHub, model_folder: Path
) -> None:
    put(model_folder / "tiny", tiny_model())
    text = page(alice_client, "?q=tiny")
    assert "models/local/tiny/" in text
    assert "models/bundled/" not in text


def test_a_search_that_finds_nothing_says_so(alice_client: Client, hub: FakeHub) -> None:
    text = page(alice_client, "search/?q=nosuchthing%3Cb%3E")
    assert "No model on the hub has “nosuchthing&lt;b&gt;” in its name." in text
    assert "No model on this machine has “nosuchthing&lt;b&gt;” in its name." in text


def test_a_result_that_may_not_run_is_not_said_to_fit(
    alice_client: Client, hub: FakeHub, node: Node
) -> None:
    hub.add("umbrella/coded", tiny_model(auto_map={"AutoModel": "evil.Model"}))
    text = page(alice_client, "search/?q=coded", **{"HX-Request": "true"})
    assert "Cannot run here" in text
    assert 'data-s="ok"' not in text
    hub.add("umbrella/open", tiny_model())
    text = page(alice_client, "search/?q=open", **{"HX-Request": "true"})
    assert 'data-s="ok"' in text


@pytest.mark.parametrize("headers", [{}, {"HX-Request": "true"}])
def test_without_the_hub_a_clear_message_and_the_local_models(
    alice_client: Client, hub: FakeHub, headers: dict[str, str]
) -> None:
    hub.down = HTTPStatus.BAD_GATEWAY
    text = page(alice_client, "search/?q=", **headers)
    assert f"The model hub at {hub.url} cannot be reached from here." in text
    assert "Try again" in text
    assert ("models/bundled/modelport/demo/" in text) is not bool(headers)


def test_try_again_asks_at_once(alice_client: Client, hub: FakeHub) -> None:
    hub.add("umbrella/chat-model", tiny_model())
    hub.down = HTTPStatus.BAD_GATEWAY
    page(alice_client, "search/?q=chat")
    hub.down = None
    assert "cannot be reached" in page(alice_client, "search/?q=chat")
    assert "umbrella/chat-model" in page(alice_client, "search/?q=chat&again=1")


@pytest.mark.parametrize(
    ("query", "address"),
    [
        ("Qwen/Qwen3-8B", "/o/acme/models/hub/Qwen/Qwen3-8B/"),
        ("https://huggingface.co/Qwen/Qwen3-8B", "/o/acme/models/hub/Qwen/Qwen3-8B/"),
        (
            "https://huggingface.co/Qwen/Qwen3-8B/tree/v1.0",
            "/o/acme/models/hub/Qwen/Qwen3-8B/?revision=v1.0",
        ),
    ],
)
def test_a_pasted_address_or_id_leads_to_the_model(
    alice_client: Client, query: str, address: str
) -> None:
    response = alice_client.get("/o/acme/models/", {"q": query})
    assert (response.status_code, response["Location"]) == (302, address)


def test_another_address_is_explained(alice_client: Client, hub: FakeHub) -> None:
    text = page(alice_client, "?q=https://huggingface.co/datasets/openai/gsm8k")
    assert "is not the address of a model on the hub" in text


def test_a_models_page_says_what_it_is_and_leads_to_an_instance(
    alice_client: Client, hub: FakeHub, node: Node
) -> None:
    tiny = hub.add("umbrella/tiny", tiny_model())
    text = page(alice_client, "hub/umbrella/tiny/")
    for fact in ("LlamaForCausalLM", "bfloat16", "2,048 tokens", "apache-2.0", tiny.commit):
        assert fact in text
    assert "desk" in text
    assert "Fits" in text
    assert f"source=hub&amp;model=umbrella%2Ftiny&amp;revision={tiny.commit}" in text
    assert NO_DEPLOY not in text


def test_a_base_models_page_says_that_it_cannot_chat(
    alice_client: Client, hub: FakeHub, node: Node
) -> None:
    hub.add("acme/base", tiny_model() | {"tokenizer_config.json": b"{}"})
    hub.add("acme/chat", tiny_model())

    base, chat = (page(alice_client, f"hub/acme/{name}/") for name in ("base", "chat"))

    assert "This model has no chat template" in base
    assert "no chat template" not in chat


def test_the_bundled_model_has_a_page(alice_client: Client, node: Node) -> None:
    text = page(alice_client, "bundled/modelport/demo/")
    assert demo.model_revision() in text
    assert NO_DEPLOY not in text


def test_a_local_model_has_a_page(alice_client: Client, model_folder: Path, node: Node) -> None:
    put(model_folder / "Qwen" / "tiny", tiny_model())
    text = page(alice_client, "local/Qwen/tiny/")
    assert "LlamaForCausalLM" in text
    assert str(model_folder) not in text  # where things lie is the operator's business


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("hub/acme/missing/", "There is no model acme/missing"),
        ("hub/umbrella/tiny/?revision=v9", "umbrella/tiny has no revision v9."),
        ("local/absent/", "There is no model absent on this machine."),
        ("bundled/other/", "There is no model other on this machine."),
        ("bundled/modelport/demo/?revision=old", "have changed"),
    ],
)
def test_what_is_not_there_is_named(
    alice_client: Client, hub: FakeHub, path: str, sentence: str
) -> None:
    hub.add("umbrella/tiny", tiny_model())
    assert sentence in page(alice_client, path, status=404)


def test_a_model_page_without_the_hub_says_so(alice_client: Client, hub: FakeHub) -> None:
    hub.down = HTTPStatus.SERVICE_UNAVAILABLE
    text = page(alice_client, "hub/umbrella/tiny/")
    assert "cannot be reached from here" in text
    assert "?again=1" in text


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ({"config.json": b"{}", "pytorch_model.bin": b"\x80"}, "Its weights are pickles"),
        (tiny_model(auto_map={"AutoModel": "evil.Model"}), "It brings Python code of its own"),
        ({"README.md": b""}, "no weights in safetensors format, and no GGUF file"),
        (
            {"model.safetensors": tiny_model()["model.safetensors"]},
            "no config.json that names an architecture",
        ),
    ],
)
def test_a_model_that_may_not_run_has_its_reason_and_no_deploy(
    alice_client: Client, hub: FakeHub, files: dict[str, bytes], sentence: str
) -> None:
    hub.add("umbrella/odd", files)
    text = page(alice_client, "hub/umbrella/odd/")
    assert sentence in text
    assert NO_DEPLOY in text
    assert "source=hub" not in text


def test_a_gated_model_says_how_to_open_it(
    alice_client: Client, acme: Organization, alice: User, hub: FakeHub, node: Node
) -> None:
    hub.add("meta/gated", tiny_model(), gated=True)
    hub.tokens["hf_acme"] = set()
    text = page(alice_client, "hub/meta/gated/")
    assert "enter a hub token of your organization" in text.replace("\n", " ")
    assert f'href="{hub.url}/meta/gated"' in text
    assert NO_DEPLOY in text

    HubCredential.keep(acme, "hf_acme", by=alice)
    assert "accept its licence on the hub with that account" in page(
        alice_client, "hub/meta/gated/"
    )
    hub.tokens["hf_acme"] = {"meta/gated"}
    text = page(alice_client, "hub/meta/gated/")
    assert NO_DEPLOY not in text
    assert "Gated" in text


def test_a_wrong_hub_token_is_named(
    alice_client: Client, acme: Organization, alice: User, hub: FakeHub
) -> None:
    hub.add("umbrella/tiny", tiny_model())
    HubCredential.keep(acme, "hf_wrong", by=alice)
    text = page(alice_client, "hub/umbrella/tiny/")
    assert "refuses your organization&#x27;s hub token" in text
    assert "hf_wrong" not in text


def test_a_model_that_does_not_fit_says_what_it_needs(
    alice_client: Client, hub: FakeHub, node: Node
) -> None:
    hub.add("meta/huge", tiny_model(), parameters={"BF16": 70_553_706_496})
    text = page(alice_client, "hub/meta/huge/").replace("\xa0", " ")
    assert "it needs 135.4 GB, and the largest has 24.0 GB" in text
    assert NO_DEPLOY in text


def test_a_model_that_fits_with_less_context_is_deployed_with_less(
    alice_client: Client, hub: FakeHub, node: Node
) -> None:
    # one token takes 2 × 32 layers × 8 heads × 128 × 2 bytes = 128 KiB; a CPU has 1 GiB for them
    hub.add(
        "meta/long",
        tiny_model(
            hidden_size=4096,
            num_hidden_layers=32,
            num_attention_heads=32,
            num_key_value_heads=8,
            max_position_embeddings=131072,
        ),
    )
    text = page(alice_client, "hub/meta/long/")
    assert "There is room for a context of 8,192 tokens; the model could use 131,072." in text
    assert "max_model_len=8192" in text


def test_a_viewer_may_look_and_is_told_why_not_more(
    viewer_client: Client, hub: FakeHub, node: Node
) -> None:
    hub.add("meta/gated", tiny_model(), gated=True)
    hub.add("umbrella/tiny", tiny_model())
    assert "Your role may look at models" in page(viewer_client, "hub/umbrella/tiny/")
    assert "An owner or admin of your organization can enter the hub token." in page(
        viewer_client, "hub/meta/gated/"
    )


@pytest.mark.parametrize("path", ["", "search/", "bundled/modelport/demo/"])
def test_a_stranger_sees_nothing(charlie_client: Client, acme: Organization, path: str) -> None:
    page(charlie_client, path, status=404)


def test_an_unknown_source_is_no_page(alice_client: Client) -> None:
    page(alice_client, "cloud/some/model/", status=404)


def test_no_machine_yet_is_said(alice_client: Client, hub: FakeHub) -> None:
    hub.add("umbrella/tiny", tiny_model())
    assert "No machine has reported yet." in page(alice_client, "hub/umbrella/tiny/")


def test_paths_are_given_for_what_lies_here_and_nothing_else(model_folder: Path) -> None:
    put(model_folder / "tiny", tiny_model())
    assert catalog.model_path("local", "tiny") == model_folder / "tiny"
    assert catalog.model_path("bundled", demo.MODEL_ID) == demo.MODEL_PATH
    assert catalog.model_path("hub", "Qwen/Qwen3-8B") is None
    for source, model_id in (("local", "../x"), ("bundled", "tiny"), ("local", demo.MODEL_ID)):
        with pytest.raises(catalog.FolderNotFound):
            catalog.model_path(source, model_id)


def test_a_token_that_cannot_be_read_any_more_counts_as_none(
    acme: Organization, alice: User
) -> None:
    HubCredential.keep(acme, "hf_alice", by=alice)
    assert catalog.hub_token(acme) == "hf_alice"
    HubCredential.objects.filter(organization=acme).update(encrypted=b"\x00" * 64)
    assert catalog.hub_token(acme) is None
