"""The process that fetches a model: what it resumes, verifies, refuses, and does without a hub."""

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from inference.node.store import Choice, Shelf
from inference.provisioners.base import Reason
from tests.fakes.hub import FakeHub, Repository, oid, tiny_model
from tests.inference.node.rig import ROOT, wait_until

BIG = 6 << 20
WEIGHTS = "model.safetensors"
NOWHERE = "http://127.0.0.1:9"


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with FakeHub() as made:
        yield made


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return tmp_path / "models"


def big_model(**more: bytes) -> dict[str, bytes]:
    padding = random.Random(1).randbytes(BIG)  # noqa: S311  - zeros would hide a wrong offset
    return tiny_model() | {WEIGHTS: tiny_model()[WEIGHTS] + padding} | more


def start(
    endpoint: str,
    choice: Choice,
    models: Path,
    roots: list[Path] | None = None,
    program: tuple[str, ...] = ("-m", "inference.node.fetch"),
) -> subprocess.Popen[bytes]:
    chosen = [choice.model_file] if choice.model_file else []
    return subprocess.Popen(
        [
            *(sys.executable, *program),
            *(choice.repository, choice.revision, str(models), *chosen),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=ROOT,
        env={
            "PATH": os.environ["PATH"],
            "HF_ENDPOINT": endpoint,
            "HF_HOME": str(models.parent / "hub"),
            "MODELPORT_MODELS": os.pathsep.join(str(root) for root in roots or []),
        },
    )


def said(process: subprocess.Popen[bytes]) -> list[dict[str, Any]]:
    out, _ = process.communicate(timeout=60)
    return [json.loads(line) for line in out.splitlines()]


def fetched(hub: FakeHub, choice: Choice, models: Path, **more: Any) -> dict[str, Any]:
    """The last that it says."""
    return said(start(hub.url, choice, models, **more))[-1]


def choice_of(repository: Repository, model_file: str = "") -> Choice:
    return Choice(repository.id, repository.commit, model_file)


def content(folder: str) -> dict[str, bytes]:
    root = Path(folder)
    paths = (path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in paths}


def without_readme(files: dict[str, bytes]) -> dict[str, bytes]:
    return {name: data for name, data in files.items() if name != "README.md"}


def test_a_killed_download_goes_on_where_it_stopped(hub: FakeHub, models: Path) -> None:
    repository = hub.add("acme/big", big_model())
    shelf = Shelf(models, "acme/big")
    hub.bytes_per_second = 2 << 20
    process = start(hub.url, choice_of(repository), models)
    wait_until(lambda: any(p.stat().st_size > 1 << 20 for p in shelf.folder.rglob("*.part")))
    process.kill()
    process.communicate()
    (part,) = [p for p in shelf.folder.rglob("*.part") if p.stat().st_size]
    had = part.stat().st_size
    wait_until(lambda: not hub.busy)
    hub.bytes_per_second = 0
    hub.sent.clear()

    folder = fetched(hub, choice_of(repository), models)["path"]

    assert had > 1 << 20
    assert hub.sent[WEIGHTS] == len(repository.files[WEIGHTS]) - had
    assert content(folder) == without_readme(repository.files)


def test_a_broken_connection_is_taken_up(hub: FakeHub, models: Path) -> None:
    repository = hub.add("acme/big", big_model())
    hub.cut_after = 1 << 20

    folder = fetched(hub, choice_of(repository), models)["path"]

    assert hub.sent[WEIGHTS] == len(repository.files[WEIGHTS])
    assert content(folder) == without_readme(repository.files)


def test_it_ends_when_nobody_listens_any_more(hub: FakeHub, models: Path) -> None:
    repository = hub.add("acme/big", big_model())
    hub.bytes_per_second = 1 << 18
    process = start(hub.url, choice_of(repository), models)
    assert process.stdout is not None and process.stdout.readline()

    process.stdout.close()  # as when the supervisor is killed

    assert process.wait(timeout=10) == 1
    assert hub.sent[WEIGHTS] < len(repository.files[WEIGHTS])


def test_bytes_and_time_left_are_told(hub: FakeHub, models: Path) -> None:
    repository = hub.add("acme/big", big_model())
    hub.bytes_per_second = 2 << 20

    lines = said(start(hub.url, choice_of(repository), models))[:-1]

    told = [line for line in lines if line["seconds_left"]]
    assert {line["total"] for line in lines} == {
        sum(map(len, without_readme(repository.files).values()))
    }
    assert told and all(0 < line["seconds_left"] < 60 for line in told)  # 3 on a quiet machine
    assert lines[-1]["done"] == lines[-1]["total"] and lines[-1]["seconds_left"] == 0


def test_what_was_damaged_on_the_disk_is_found_and_only_that_is_fetched_again(
    hub: FakeHub, models: Path
) -> None:
    repository = hub.add("acme/tiny", tiny_model())
    folder = fetched(hub, choice_of(repository), models)["path"]
    weights = Path(folder, WEIGHTS).resolve()
    flipped = bytearray(weights.read_bytes())
    flipped[-1] ^= 1
    weights.write_bytes(flipped)
    hub.sent.clear()

    assert fetched(hub, choice_of(repository), models)["path"] == folder

    assert dict(hub.sent) == {WEIGHTS: len(flipped)}
    assert content(folder) == without_readme(repository.files)


@pytest.mark.parametrize("name", [WEIGHTS, "tokenizer.json"])
def test_a_file_that_comes_wrong_is_fetched_once_more(
    hub: FakeHub, models: Path, name: str
) -> None:
    repository = hub.add("acme/tiny", tiny_model())
    hub.spoiled[name] = 1

    folder = fetched(hub, choice_of(repository), models)["path"]

    assert hub.sent[name] == 2 * len(repository.files[name])
    assert content(folder) == without_readme(repository.files)


@pytest.mark.parametrize("name", [WEIGHTS, "tokenizer.json"])
def test_a_file_that_stays_wrong_is_refused(hub: FakeHub, models: Path, name: str) -> None:
    repository = hub.add("acme/tiny", tiny_model())
    hub.spoiled[name] = 9

    told = fetched(hub, choice_of(repository), models)

    assert told["reason"] == Reason.BACKEND_UNREACHABLE and name in told["message"]
    assert hub.sent[name] == 2 * len(repository.files[name])
    shelf = Shelf(models, "acme/tiny")
    assert not shelf.complete(choice_of(repository)).exists()
    assert not shelf.snapshot(repository.commit).exists()


def test_a_disk_without_room_is_told_before_the_weights_come(hub: FakeHub, models: Path) -> None:
    repository = hub.add("acme/huge", tiny_model(), claimed={WEIGHTS: 10**16})

    told = fetched(hub, choice_of(repository), models)

    assert told["reason"] == Reason.INSUFFICIENT_CAPACITY and "10000000.0 GB" in told["message"]
    assert 0 < told["short"] < 10**16 + (2 << 30)
    assert not hub.sent[WEIGHTS]


def test_two_at_a_time_share_one_download(hub: FakeHub, models: Path) -> None:
    repository = hub.add("acme/big", big_model())
    hub.bytes_per_second = 6 << 20

    both = [start(hub.url, choice_of(repository), models) for _ in range(2)]

    first, second = (said(process)[-1]["path"] for process in both)
    assert first == second
    assert hub.sent[WEIGHTS] == len(repository.files[WEIGHTS])


def test_revisions_share_the_files_that_did_not_change(hub: FakeHub, models: Path) -> None:
    former = hub.add("acme/tiny", tiny_model())
    before = fetched(hub, choice_of(former), models)["path"]
    later = hub.add("acme/tiny", tiny_model() | {"tokenizer.json": b'{"new": 1}'})
    hub.sent.clear()

    after = fetched(hub, choice_of(later), models)["path"]

    assert dict(hub.sent) == {"tokenizer.json": len(b'{"new": 1}')}
    assert content(before) == without_readme(former.files)
    assert content(after) == without_readme(later.files)


def test_what_an_earlier_version_fetched_is_verified_once_and_kept(
    hub: FakeHub, models: Path
) -> None:
    repository = hub.add("acme/tiny", tiny_model())
    choice, shelf = choice_of(repository), Shelf(models, "acme/tiny")
    folder = fetched(hub, choice, models)["path"]
    shelf.complete(choice).write_bytes(b"")
    (shelf.folder / "verified").unlink()
    asked = len(hub.requests)

    assert fetched(hub, choice, models)["path"] == folder

    assert len(hub.requests) == asked
    assert {file.name for file in shelf.files(choice)} == set(without_readme(repository.files))


def test_a_file_too_large_for_plain_http_comes_by_the_hubs_own_client(
    hub: FakeHub, models: Path
) -> None:
    repository = hub.add("acme/big", big_model())
    lowered = "import sys; from inference.node import fetch, pull; pull.HUGE = 1 << 20"
    program = ("-c", f"{lowered}; sys.exit(fetch.main())")
    hub.spoiled[WEIGHTS] = 1

    folder = fetched(hub, choice_of(repository), models, program=program)["path"]

    assert hub.sent[WEIGHTS] == 2 * len(repository.files[WEIGHTS])
    assert content(folder) == without_readme(repository.files)


def test_only_a_commit_is_fetched(hub: FakeHub, models: Path) -> None:
    repository = hub.add("acme/tiny", tiny_model())

    told = fetched(hub, Choice(repository.id, "main"), models)

    assert told["reason"] == Reason.BAD_ARGUMENTS and "commit" in told["message"]


def test_a_list_that_names_files_elsewhere_gets_none_of_them(hub: FakeHub, models: Path) -> None:
    repository = hub.add("acme/evil", tiny_model() | {"../../../../evil.json": b"{}"})

    folder = fetched(hub, choice_of(repository), models)["path"]

    assert content(folder) == without_readme(tiny_model())
    assert not list(models.parent.rglob("evil.json"))


# GGUF

GGUF = {
    "README.md": b"",
    "config.json": b'{"model_type": "llama"}',
    "tiny-Q4_K_M.gguf": b"GGUF four",
    "tiny-Q8_0.gguf": b"GGUF eight",
    "F16/tiny-00001-of-00002.gguf": b"GGUF one",
    "F16/tiny-00002-of-00002.gguf": b"GGUF two",
    "pytorch_model.bin": b"pickle",
}


@pytest.mark.parametrize(
    ("chosen", "weights"),
    [
        ("tiny-Q4_K_M.gguf", {"tiny-Q4_K_M.gguf"}),
        (
            "F16/tiny-00001-of-00002.gguf",
            {"F16/tiny-00001-of-00002.gguf", "F16/tiny-00002-of-00002.gguf"},
        ),
    ],
)
def test_of_a_gguf_only_the_chosen_one_comes(
    hub: FakeHub, models: Path, chosen: str, weights: set[str]
) -> None:
    repository = hub.add("acme/gguf", GGUF)

    folder = fetched(hub, choice_of(repository, chosen), models)["path"]

    assert set(content(folder)) == {"config.json", *weights}


@pytest.mark.parametrize(
    ("change", "chosen", "word"),
    [
        ({}, "other.gguf", "no file other.gguf"),
        ({}, "pytorch_model.bin", "not a GGUF"),
        ({"config.json": b'{"auto_map": {"a": "b"}}'}, "tiny-Q8_0.gguf", "auto_map"),
        ({"F16/tiny-00002-of-00002.gguf": None}, "F16/tiny-00001-of-00002.gguf", "2 parts"),
    ],
)
def test_a_gguf_is_refused_like_any_other(
    hub: FakeHub, models: Path, change: dict[str, bytes | None], chosen: str, word: str
) -> None:
    files = {name: data for name, data in (GGUF | change).items() if data is not None}
    repository = hub.add("acme/gguf", files)

    told = fetched(hub, choice_of(repository, chosen), models)

    assert told["reason"] == Reason.BAD_ARGUMENTS and word in told["message"]
    assert not any(name.endswith(".gguf") for name in hub.sent)


# Without a hub


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def alone(choice: Choice, models: Path, root: Path) -> dict[str, Any]:
    return said(start(NOWHERE, choice, models, [root]))[-1]


def test_a_copy_in_the_hubs_layout_serves_without_a_hub(
    hub: FakeHub, models: Path, tmp_path: Path
) -> None:
    repository = hub.add("acme/tiny", tiny_model())
    choice = choice_of(repository)
    fetched(hub, choice, models)
    shutil.copytree(models, tmp_path / "usb", symlinks=True)
    shutil.rmtree(models)

    folder = alone(choice, models, tmp_path / "usb")["path"]

    assert Path(folder).is_relative_to(tmp_path / "usb")
    another = Choice("acme/tiny", oid(b"another"))
    assert alone(another, models, tmp_path / "usb")["reason"] == Reason.BACKEND_UNREACHABLE


def test_a_plain_folder_serves_while_the_hub_does_not_answer(
    hub: FakeHub, models: Path, tmp_path: Path
) -> None:
    repository = hub.add("acme/tiny", tiny_model())
    plain = write(tmp_path / "own" / "acme" / "tiny", tiny_model())

    assert alone(choice_of(repository), models, tmp_path / "own")["path"] == str(plain)

    told = fetched(hub, choice_of(repository), models, roots=[tmp_path / "own"])
    assert Path(told["path"]).is_relative_to(models)


def test_a_plain_folder_of_another_commit_does_not_serve(
    hub: FakeHub, models: Path, tmp_path: Path
) -> None:
    repository = hub.add("acme/tiny", tiny_model())
    note = f"{oid(b'another')}\n{oid(b'')}\n1764316800.0\n".encode()
    notes = {".cache/huggingface/download/config.json.metadata": note}
    write(tmp_path / "own" / "acme" / "tiny", tiny_model() | notes)

    told = alone(choice_of(repository), models, tmp_path / "own")

    assert told["reason"] == Reason.BACKEND_UNREACHABLE


def test_half_a_copy_does_not_serve(hub: FakeHub, models: Path, tmp_path: Path) -> None:
    repository = hub.add("acme/tiny", tiny_model())
    index = {"weight_map": {"a": WEIGHTS, "b": "model-00002-of-00002.safetensors"}}
    half = tiny_model() | {"model.safetensors.index.json": json.dumps(index).encode()}
    write(tmp_path / "own" / "acme" / "tiny", half)

    told = alone(choice_of(repository), models, tmp_path / "own")

    assert told["reason"] == Reason.BACKEND_UNREACHABLE


@pytest.mark.parametrize("name", ["../../etc", "acme/../etc", "a/b/c"])
def test_a_name_that_is_none_reaches_no_folder(models: Path, tmp_path: Path, name: str) -> None:
    write(tmp_path / "etc", tiny_model())

    told = alone(Choice(name, oid(b"")), models, tmp_path / "own")

    assert told["reason"] == Reason.BAD_ARGUMENTS
