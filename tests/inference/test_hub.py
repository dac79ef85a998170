"""What the hub says becomes a card or a sentence, and never a page that hangs."""

import json
import socket
import time
from http import HTTPStatus

import pytest

from inference import hub as hub_module
from inference.hub import (
    GatedModel,
    HubUnreachable,
    ModelNotFound,
    TokenRefused,
    describe,
    search,
)
from inference.model_card import Refusal
from portal.lib.env import environment
from tests.fakes.hub import FakeHub, safetensors, tiny_model


def test_a_model_is_described_and_pinned_to_its_commit(hub: FakeHub) -> None:
    tiny = hub.add("acme/tiny", tiny_model(), downloads=7)
    card = describe("acme/tiny")
    assert card.revision == tiny.commit
    assert (card.architecture, card.parameters, card.dtype) == (
        "LlamaForCausalLM",
        3072,
        "bfloat16",
    )
    assert (card.context_length, card.licence, card.downloads) == (2048, "apache-2.0", 7)
    assert card.chat_template
    assert card.refusal is None
    assert not card.gated
    assert card.size_bytes == sum(
        len(content) for name, content in tiny_model().items() if name != "README.md"
    )


def test_a_commit_may_be_asked_for(hub: FakeHub) -> None:
    tiny = hub.add("acme/tiny", tiny_model())
    assert describe("acme/tiny", tiny.commit).revision == tiny.commit


def test_parameters_are_read_from_the_weights_where_a_mirror_does_not_count(hub: FakeHub) -> None:
    hub.add("acme/tiny", tiny_model(), says_parameters=False)
    assert describe("acme/tiny").parameters == 3072


def test_an_unknown_model_or_revision_is_named(hub: FakeHub) -> None:
    hub.add("acme/tiny", tiny_model())
    with pytest.raises(ModelNotFound) as missing:
        describe("acme/missing")
    assert "acme/missing" in missing.value.sentence
    with pytest.raises(ModelNotFound) as revision:
        describe("acme/tiny", "0" * 40)
    assert "0" * 40 in revision.value.sentence
    with pytest.raises(ModelNotFound):
        describe("not a model's name")


def test_a_gated_model_shows_what_everyone_may_know(hub: FakeHub) -> None:
    hub.add("acme/gated", tiny_model(), gated=True, licence="llama3.1")
    card = describe("acme/gated")
    assert (card.gated, card.refusal) == (True, Refusal.NEEDS_TOKEN)
    assert (card.licence, card.parameters, card.architecture) == (
        "llama3.1",
        3072,
        "LlamaForCausalLM",
    )
    assert card.context_length is None


def test_a_token_whose_owner_has_not_accepted_says_so(hub: FakeHub) -> None:
    hub.add("acme/gated", tiny_model(), gated=True)
    hub.tokens["hf_bob"] = set()
    assert describe("acme/gated", token="hf_bob").refusal is Refusal.NOT_ACCEPTED
    hub.tokens["hf_bob"] = {"acme/gated"}  # accepted meanwhile: seen at once
    card = describe("acme/gated", token="hf_bob")
    assert (card.refusal, card.gated, card.context_length) == (None, True, 2048)


def test_one_organizations_private_model_is_not_kept_for_another(hub: FakeHub) -> None:
    hub.add("acme/hidden", tiny_model(), private=True)
    hub.tokens["hf_alice"] = {"acme/hidden"}
    hub.tokens["hf_charlie"] = set()
    assert describe("acme/hidden", token="hf_alice").parameters == 3072
    assert [card.model_id for card in search("hidden", "hf_alice")] == ["acme/hidden"]
    for token in (None, "hf_charlie"):
        with pytest.raises(ModelNotFound):
            describe("acme/hidden", token=token)
        assert search("hidden", token) == []


def test_a_wrong_token_is_told_from_a_hub_that_is_away(hub: FakeHub) -> None:
    hub.add("acme/tiny", tiny_model())
    with pytest.raises(TokenRefused):
        describe("acme/tiny", token="hf_expired")
    with pytest.raises(TokenRefused):
        search("tiny", token="hf_expired")
    assert describe("acme/tiny").parameters == 3072  # others are not kept from asking


@pytest.mark.parametrize(
    ("files", "refusal"),
    [
        ({"config.json": b"{}", "pytorch_model.bin": b"\x80\x02"}, Refusal.PICKLE_ONLY),
        ({"model-Q4_K_M.gguf": b"GGUF"}, Refusal.CHOOSE_FILE),
        (tiny_model(auto_map={"AutoModelForCausalLM": "evil.Model"}), Refusal.NEEDS_CODE),
        (
            tiny_model() | {"processor_config.json": b'{"auto_map": {"AutoProcessor": "x.Y"}}'},
            Refusal.NEEDS_CODE,
        ),
        (tiny_model() | {"config.json": b"[" * 10_000}, Refusal.NO_CONFIG),
        (tiny_model() | {"config.json": b"{" + b" " * 9_000_000}, Refusal.NO_CONFIG),
    ],
)
def test_models_that_may_not_run_here_are_refused(
    hub: FakeHub, files: dict[str, bytes], refusal: Refusal
) -> None:
    hub.add("acme/odd", files)
    assert describe("acme/odd").refusal is refusal


def test_search_finds_the_most_used_first_with_their_context(hub: FakeHub) -> None:
    hub.add("acme/small-chat", tiny_model(), downloads=5)
    hub.add("umbrella/big-chat", tiny_model(max_position_embeddings=8192), downloads=50)
    hub.add("acme/gated-chat", tiny_model(), downloads=1, gated=True)
    hub.add("acme/chat-pickle", {"config.json": b"{}", "pytorch_model.bin": b"\x80"})
    found = search("chat")
    assert [(card.model_id, card.context_length, card.gated) for card in found] == [
        ("umbrella/big-chat", 8192, False),
        ("acme/small-chat", 2048, False),
        ("acme/gated-chat", None, True),
    ]
    assert found[0].parameters == 3072
    assert found[0].weight_bytes > 0
    assert found[0].refusal is None


def test_without_words_the_most_used_that_write_text_are_listed(hub: FakeHub) -> None:
    hub.add("acme/painter", tiny_model(), downloads=90, pipeline_tag="text-to-image")
    hub.add("acme/writer", tiny_model(), downloads=9)
    hub.add("acme/best-writer", tiny_model(), downloads=10)
    assert [card.model_id for card in search("")] == ["acme/best-writer", "acme/writer"]
    assert [card.model_id for card in search("painter")] == ["acme/painter"]


def test_answers_are_kept(hub: FakeHub) -> None:
    hub.add("acme/tiny", tiny_model())
    first, found = describe("acme/tiny"), search("tiny")
    asked = len(hub.requests)
    assert (describe("acme/tiny"), search("TINY")) == (first, found)
    assert len(hub.requests) == asked


def test_without_redis_every_question_is_asked(
    hub: FakeHub, settings: pytest.FixtureRequest
) -> None:
    settings.CACHES = {  # type: ignore[attr-defined]
        "default": {
            "BACKEND": "django.core.cache.backends.redis.RedisCache",
            "LOCATION": "unix:///nowhere/redis.sock",
        }
    }
    hub.add("acme/tiny", tiny_model())
    assert describe("acme/tiny") == describe("acme/tiny")
    assert hub.asked("/api/models/acme/tiny") == 2


@pytest.mark.parametrize("status", [HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.TOO_MANY_REQUESTS])
def test_a_hub_that_fails_is_left_alone_for_a_while(hub: FakeHub, status: HTTPStatus) -> None:
    hub.add("acme/tiny", tiny_model())
    hub.down = status
    with pytest.raises(HubUnreachable) as away:
        search("tiny")
    assert hub.url in away.value.sentence
    assert away.value.retryable
    asked = len(hub.requests)
    with pytest.raises(HubUnreachable):
        describe("acme/tiny")
    assert len(hub.requests) == asked
    hub.down = None
    hub_module.forget_failures()
    assert describe("acme/tiny").parameters == 3072


@pytest.mark.parametrize("page", [b"<html>Please sign in</html>", b"[[]]", b"null", b"{}"])
def test_a_captive_portal_is_no_hub(hub: FakeHub, page: bytes) -> None:
    hub.page = page
    with pytest.raises(HubUnreachable):
        describe("acme/tiny")
    if page != b"{}":
        with pytest.raises(HubUnreachable):
            search("tiny")


def test_a_hub_that_does_not_answer_is_not_waited_for(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_module, "DEADLINE", 0.3)
    hub.delay = 1.0
    hub.add("acme/tiny", tiny_model())
    began = time.monotonic()
    with pytest.raises(HubUnreachable):
        describe("acme/tiny")
    assert time.monotonic() - began < 0.9


def test_no_network_is_said_at_once(
    own_cache: None, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]  # free again at the end of this block
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{port}")
    request.addfinalizer(hub_module.forget_failures)
    request.addfinalizer(environment.cache_clear)
    environment.cache_clear()
    hub_module.forget_failures()
    with pytest.raises(HubUnreachable):
        search("tiny")


def test_a_gated_answer_without_any_metadata_is_an_error_of_its_own() -> None:
    assert GatedModel("a/b", has_token=False).refusal is Refusal.NEEDS_TOKEN
    assert "a/b" in GatedModel("a/b", has_token=True).sentence


def test_packed_weights_are_sized_by_their_bytes(hub: FakeHub) -> None:
    config = {"quant_method": "awq", "bits": 4}
    files = tiny_model(quantization_config=config)
    files["model.safetensors"] = safetensors({"q": ("I32", [100]), "s": ("F16", [10])})
    hub.add("acme/awq", files)
    card = describe("acme/awq")
    assert (card.quantization, card.parameters) == ("awq", None)
    assert card.weight_bytes == len(files["model.safetensors"])
    assert json.loads(files["config.json"])["quantization_config"] == config
