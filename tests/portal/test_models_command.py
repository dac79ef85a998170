"""`modelport models`: what lies on this machine's disk, and what may go."""

import io
import os
from dataclasses import replace
from pathlib import Path

import pytest
from django.conf import LazySettings
from django.core.management import CommandError, call_command

from inference.node.store import Shelf
from tests.fakes.hub import tiny_model
from tests.inference.node.stocking import choice, replica, stock_up


@pytest.fixture
def home(tmp_path: Path, settings: LazySettings) -> Path:
    settings.ENV = replace(settings.ENV, home=tmp_path, models_kept_days=90)
    return tmp_path


def modelport(*arguments: object) -> str:
    out = io.StringIO()
    call_command("models", *arguments, stdout=out, stderr=out)
    return out.getvalue()


def test_an_empty_machine_says_so(home: Path) -> None:
    assert "No models" in modelport("list")


def test_the_list_names_models_and_their_users(home: Path) -> None:
    stock_up(home, choice("acme/used"), tiny_model())
    stock_up(home, choice("acme/idle", model_file="q4.gguf"), {"q4.gguf": bytes(20_000_000)})
    record = replica(home, choice("acme/used"))

    idle, used = modelport("list").splitlines()

    assert "acme/idle/q4.gguf" in idle and "0.02 GB" in idle and "used by nobody" in idle
    assert "acme/used" in used and f"used by {record.spec.instance_id}" in used


def test_cleaning_takes_what_is_old_and_unused(home: Path) -> None:
    stock_up(home, choice("acme/used"), tiny_model(), days_ago=100)
    stock_up(home, choice("acme/old"), tiny_model(), days_ago=91)
    stock_up(home, choice("acme/new"), tiny_model(), days_ago=89)
    replica(home, choice("acme/used"))

    assert "removed acme/old" in modelport("clean")
    left = modelport("list")
    assert "acme/new" in left and "acme/used" in left

    assert "removed acme/new" in modelport("clean", "--days", "0")
    assert "acme/used" in modelport("list")


def test_cleaning_without_an_age_asks_for_one(home: Path, settings: LazySettings) -> None:
    settings.ENV = replace(settings.ENV, models_kept_days=0)
    with pytest.raises(CommandError, match="--days"):
        modelport("clean")


def test_checking_finds_silent_damage(home: Path) -> None:
    shelf: Shelf = stock_up(home, choice(), tiny_model())
    assert "as it came" in modelport("check")
    blob = (shelf.snapshot(choice().revision) / "tokenizer.json").resolve()
    stat = blob.stat()
    blob.write_bytes(b"[]")
    os.utime(blob, ns=(stat.st_atime_ns, stat.st_mtime_ns))

    with pytest.raises(CommandError, match="fetches these files again"):
        modelport("check")


def test_records_that_cannot_be_read_stop_everything(home: Path) -> None:
    folder = home / "instances" / "of-another-version"
    folder.mkdir(parents=True)
    (folder / "state.json").write_text("{}")
    with pytest.raises(CommandError, match="modelport node"):
        modelport("clean", "--days", "0")
