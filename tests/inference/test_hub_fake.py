"""The fake hub speaks the hub's format: the real client is content with it."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from tests.fakes.hub import FakeHub, tiny_model


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with FakeHub() as hub:
        hub.add("acme/tiny", tiny_model() | {"extra/notes.txt": b"notes"})
        hub.add("acme/gated", tiny_model(), gated=True, downloads=5)
        hub.add("acme/hidden", tiny_model(), private=True)
        hub.tokens["hf_alice"] = {"acme/gated", "acme/hidden"}
        hub.tokens["hf_bob"] = set()
        yield hub


def test_a_snapshot_is_downloaded_whole(hub: FakeHub, tmp_path: Path) -> None:
    folder = Path(snapshot_download("acme/tiny", endpoint=hub.url, cache_dir=tmp_path, token=False))
    assert folder.name == hub.repositories["acme/tiny"].commit
    for name, content in tiny_model().items():
        assert (folder / name).read_bytes() == content
    assert (folder / "extra/notes.txt").read_bytes() == b"notes"


def test_a_pinned_revision_is_downloaded_by_its_commit(hub: FakeHub, tmp_path: Path) -> None:
    commit = hub.repositories["acme/tiny"].commit
    folder = snapshot_download(
        "acme/tiny",
        revision=commit,
        endpoint=hub.url,
        cache_dir=tmp_path,
        allow_patterns=["*.json"],
        token=False,
    )
    assert sorted(os.listdir(folder)) == ["config.json", "tokenizer.json", "tokenizer_config.json"]


def test_a_cut_download_goes_on_where_it_stopped(hub: FakeHub, tmp_path: Path) -> None:
    hub.cut_after = 1000
    path = hf_hub_download(
        "acme/tiny", "model.safetensors", endpoint=hub.url, cache_dir=tmp_path, token=False
    )
    assert Path(path).read_bytes() == tiny_model()["model.safetensors"]
    assert hub.cut_after == 0
    assert hub.asked("/cdn/") >= 2


def test_headers_of_weights_are_read_by_range(hub: FakeHub) -> None:
    metadata = HfApi(endpoint=hub.url, token=False).parse_safetensors_file_metadata(
        "acme/tiny", "model.safetensors"
    )
    assert metadata.parameter_count == {"BF16": 3072}


def test_the_model_info_has_what_the_hub_tells(hub: FakeHub) -> None:
    info = HfApi(endpoint=hub.url, token=False).model_info("acme/tiny", files_metadata=True)
    assert info.sha == hub.repositories["acme/tiny"].commit
    assert info.safetensors is not None
    assert info.safetensors.total == 3072
    sizes = {sibling.rfilename: sibling.size for sibling in info.siblings or []}
    assert sizes["model.safetensors"] == len(tiny_model()["model.safetensors"])


def test_search_finds_by_words_and_shows_private_models_to_their_people(hub: FakeHub) -> None:
    def found(words: str, token: str | bool) -> list[str]:
        models = HfApi(endpoint=hub.url, token=token).list_models(
            search=words, filter="safetensors"
        )
        return [model.id for model in models]

    assert found("acme", False) == ["acme/tiny", "acme/gated"]
    assert found("hidden", "hf_alice") == ["acme/hidden"]
    assert found("hidden", "hf_bob") == []


@pytest.mark.parametrize(
    ("model_id", "token", "error"),
    [
        ("acme/missing", False, RepositoryNotFoundError),
        ("acme/missing", "hf_bob", RepositoryNotFoundError),
        ("acme/hidden", "hf_bob", RepositoryNotFoundError),
        ("acme/gated", False, GatedRepoError),
        ("acme/gated", "hf_bob", GatedRepoError),
        ("acme/tiny", "hf_wrong", HfHubHTTPError),
    ],
)
def test_refusals_are_the_hubs_own(
    hub: FakeHub, tmp_path: Path, model_id: str, token: str | bool, error: type[Exception]
) -> None:
    with pytest.raises(error):
        snapshot_download(model_id, endpoint=hub.url, cache_dir=tmp_path, token=token)


def test_gated_files_open_for_those_who_accepted(hub: FakeHub, tmp_path: Path) -> None:
    folder = snapshot_download("acme/gated", endpoint=hub.url, cache_dir=tmp_path, token="hf_alice")
    assert (Path(folder) / "config.json").exists()


def test_missing_files_and_revisions_have_their_own_errors(hub: FakeHub, tmp_path: Path) -> None:
    with pytest.raises(RemoteEntryNotFoundError):
        hf_hub_download("acme/tiny", "x.json", endpoint=hub.url, cache_dir=tmp_path, token=False)
    with pytest.raises(RevisionNotFoundError):
        HfApi(endpoint=hub.url, token=False).model_info("acme/tiny", revision="0" * 40)
