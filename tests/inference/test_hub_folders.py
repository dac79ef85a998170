"""Models in an operator's folders, and the one that is bundled."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from inference import demo
from inference.folders import bundled_card, folders, local_card
from inference.model_card import Refusal
from portal.lib.env import environment
from tests.fakes.hub import tiny_model


def put(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def test_folders_with_models_are_found_one_or_two_names_deep(model_folder: Path) -> None:
    put(model_folder / "tiny", tiny_model())
    put(model_folder / "Qwen" / "Qwen3-8B", tiny_model())
    put(model_folder / "notes", {"readme.txt": b""})
    put(model_folder / "pickled", {"config.json": b"{}", "pytorch_model.bin": b""})
    put(model_folder / "too" / "deep" / "model", tiny_model())
    assert list(folders()) == ["Qwen/Qwen3-8B", "tiny"]


def test_a_missing_root_is_an_empty_one(model_folder: Path) -> None:
    model_folder.rmdir()
    assert folders() == {}


def test_copies_of_the_hubs_cache_have_the_hubs_names(model_folder: Path) -> None:
    cached = model_folder / "models--Qwen--Qwen3-8B"
    old = put(cached / "snapshots" / "1", tiny_model())
    new = put(cached / "snapshots" / "2", tiny_model())
    os.utime(old, (1, 1))
    put(model_folder / "models--acme--half" / "snapshots" / "1", {"config.json": b"{}"})
    assert folders() == {"Qwen/Qwen3-8B": new}

    put(cached, {"refs/main": b"1"})
    assert folders() == {"Qwen/Qwen3-8B": old}
    assert local_card("Qwen/Qwen3-8B") is not None


def test_what_was_downloaded_for_someone_is_not_offered_to_all(
    model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = model_folder.parent / "home"
    put(home / "models" / "models--acme--gated" / "snapshots" / "1", tiny_model())
    put(home / "models" / "own", tiny_model())
    env = replace(environment(), home=home, model_folders=(model_folder,))
    monkeypatch.setattr("inference.folders.environment", lambda: env)
    assert list(folders()) == ["own"]


def test_a_folder_has_the_same_card_as_a_model_of_the_hub(model_folder: Path) -> None:
    put(model_folder / "tiny", tiny_model())
    card = local_card("tiny")
    assert card is not None
    assert (card.architecture, card.parameters, card.context_length) == (
        "LlamaForCausalLM",
        3072,
        2048,
    )
    assert (card.licence, card.chat_template, card.refusal) == ("apache-2.0", True, None)
    assert len(card.revision) == 40


def test_the_revision_follows_what_an_engine_would_load(model_folder: Path) -> None:
    folder = put(model_folder / "tiny", tiny_model())

    def revision() -> str:
        card = local_card("tiny")
        assert card is not None
        return card.revision

    first = revision()
    assert revision() == first
    put(folder, tiny_model(rope_theta=1000000.0))
    second = revision()
    assert second != first
    put(folder, tiny_model())
    assert revision() == first


@pytest.mark.parametrize("model_id", ["../secrets", "/etc", "tiny/..", "absent", ""])
def test_only_what_was_found_can_be_asked_for(model_folder: Path, model_id: str) -> None:
    put(model_folder / "tiny", tiny_model())
    put(model_folder.parent / "secrets", tiny_model())
    assert local_card(model_id) is None


@pytest.mark.parametrize(
    "weights",
    [b"", b"\x80\x02pickle", b"\xff" * 8 + b"{}", b"\x40" + bytes(7) + b"{}", b"\x02" + bytes(7)],
)
def test_a_file_that_only_pretends_to_be_safetensors_is_refused(
    model_folder: Path, weights: bytes
) -> None:
    put(model_folder / "fake", tiny_model() | {"model.safetensors": weights})
    card = local_card("fake")
    assert card is not None
    assert card.refusal is Refusal.BAD_WEIGHTS


@pytest.mark.parametrize("readme", [b"---\n- a\n---\n", b"---\n{: :\n---\n", b"\xff\xfe", b""])
def test_a_broken_model_card_costs_only_the_licence(model_folder: Path, readme: bytes) -> None:
    put(model_folder / "tiny", tiny_model() | {"README.md": readme})
    card = local_card("tiny")
    assert card is not None
    assert (card.licence, card.refusal) == ("", None)


def test_what_a_clone_leaves_is_not_the_model(model_folder: Path) -> None:
    folder = put(model_folder / "tiny", tiny_model())
    before = local_card("tiny")
    put(folder, {".git/config": b"x", ".cache/huggingface/a.json": b"{}"})
    assert local_card("tiny") == before


def test_the_bundled_model_describes_itself() -> None:
    card = bundled_card()
    assert (card.source, card.model_id) == ("bundled", demo.MODEL_ID)
    assert card.revision == demo.model_revision()
    assert card.architecture == "LlamaForCausalLM"
    assert 500_000 < (card.parameters or 0) < 2_000_000
    assert card.chat_template
    assert card.refusal is None
