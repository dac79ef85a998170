"""Which folders and files may be served."""

import json
from pathlib import Path

import pytest

from inference.node.weights import INDEX, WeightsProblem, allowed, check_folder
from tests.fakes.hub import tiny_model


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


@pytest.mark.parametrize(
    ("name", "chosen", "may"),
    [
        ("model.safetensors", "", True),
        ("tokenizer.json", "", True),
        ("tiny.gguf", "", False),
        ("modeling.py", "", False),
        ("pytorch_model.bin", "", False),
        ("../config.json", "", False),
        ("/etc/config.json", "", False),
        ("a/../../config.json", "", False),
        ("tiny.gguf", "tiny.gguf", True),
        ("other.gguf", "tiny.gguf", False),
        ("model.safetensors", "tiny.gguf", False),
        ("tokenizer.json", "tiny.gguf", True),
        ("a-00002-of-00003.gguf", "a-00001-of-00003.gguf", True),
        ("a-00002-of-00004.gguf", "a-00001-of-00003.gguf", False),
        ("b-00002-of-00003.gguf", "a-00001-of-00003.gguf", False),
        ("tiny[1].gguf", "tiny[1].gguf", True),
        ("tiny1.gguf", "tiny[1].gguf", False),
        ("tiny.gguf", "*.gguf", False),
    ],
)
def test_what_is_fetched(name: str, chosen: str, may: bool) -> None:
    assert allowed(name, chosen) is may


def test_the_weights_are_weighed(tmp_path: Path) -> None:
    write(tmp_path, tiny_model() | {"tiny.gguf": b"GGUF", "big/tiny.gguf": b"GGUF GGUF"})
    assert check_folder(tmp_path) == len(tiny_model()["model.safetensors"])
    assert check_folder(tmp_path, "tiny.gguf") == 4
    assert check_folder(tmp_path, "big/tiny.gguf") == 9


def test_a_gguf_needs_nothing_beside_it(tmp_path: Path) -> None:
    write(tmp_path, {"tiny.gguf": b"GGUF"})
    assert check_folder(tmp_path, "tiny.gguf") == 4


@pytest.mark.parametrize("chosen", ["../secret.gguf", "/etc/secret.gguf", "a/../../secret.gguf"])
def test_no_gguf_outside_the_folder_can_be_chosen(tmp_path: Path, chosen: str) -> None:
    write(tmp_path, {"secret.gguf": b"GGUF", "model/tiny.gguf": b"GGUF", "model/a/b": b""})
    with pytest.raises(WeightsProblem, match="not in the model's folder"):
        check_folder(tmp_path / "model", chosen)


@pytest.mark.parametrize(
    ("files", "chosen", "word"),
    [
        ({}, "tiny.gguf", "no file tiny.gguf"),
        ({"tiny.bin": b""}, "tiny.bin", "not a GGUF"),
        ({"a-00001-of-00002.gguf": b""}, "a-00001-of-00002.gguf", "of which 1 are there"),
        ({"t.gguf": b"", "config.json": b'{"auto_map": {"a": "b"}}'}, "t.gguf", "auto_map"),
        ({"t.gguf": b"", "config.json": b"[" * 100_000}, "t.gguf", "JSON"),
    ],
)
def test_a_gguf_that_may_not_be_served(
    tmp_path: Path, files: dict[str, bytes], chosen: str, word: str
) -> None:
    write(tmp_path, files)
    with pytest.raises(WeightsProblem, match=word):
        check_folder(tmp_path, chosen)


def test_a_copy_that_lacks_files_is_told_from_a_whole_one(tmp_path: Path) -> None:
    weight_map = {"a": "model.safetensors", "b": "model-2.safetensors", "c": "model-3.safetensors"}
    write(tmp_path, tiny_model() | {INDEX: json.dumps({"weight_map": weight_map}).encode()})
    with pytest.raises(WeightsProblem, match="model-2.safetensors is missing, and 1 more"):
        check_folder(tmp_path)
    write(tmp_path, {"model-2.safetensors": b"", "model-3.safetensors": b""})
    assert check_folder(tmp_path) > 0


def test_links_to_files_that_are_gone_are_no_files(tmp_path: Path) -> None:
    write(tmp_path, tiny_model())
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "model.safetensors").symlink_to("../blobs/gone")
    with pytest.raises(WeightsProblem, match="safetensors"):
        check_folder(tmp_path)
