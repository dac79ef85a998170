"""The shared cache: who uses a model, what may go, and that nothing in use ever does."""

import os
import tempfile
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from inference.node import stock
from inference.node.record import Record
from inference.node.store import Busy, Choice, Shelf
from inference.provisioners.base import Phase
from tests.inference.node.stocking import begin, choice, content, keep, replica, stock_up

FILES = {"config.json": b"{}", "model.safetensors": b"w" * 1000}
NEVER = timedelta(days=90)


def names(home: Path) -> list[str]:
    return [one.choice.repository for one in stock.listing(home)]


def test_the_list_says_what_lies_there_and_who_uses_it(tmp_path: Path) -> None:
    stock_up(tmp_path, choice(), FILES, days_ago=3)
    record = replica(tmp_path, choice())
    begin(Shelf(tmp_path / "models", "acme/later"), choice("acme/later"), FILES)

    later, tiny = stock.listing(tmp_path)

    assert (tiny.choice, tiny.whole, tiny.size_bytes) == (choice(), True, 1002)
    assert tiny.users == (record.spec.instance_id,)
    assert (later.choice, later.whole, later.size_bytes, later.users) == (
        choice("acme/later"),
        False,
        0,
        (),
    )


@pytest.mark.parametrize("phase", sorted(set(Phase) - {Phase.EXITED, Phase.GONE}))
def test_what_a_replica_uses_stays(tmp_path: Path, phase: Phase) -> None:
    stock_up(tmp_path, choice(), FILES, days_ago=1000)
    replica(tmp_path, choice(), phase)

    assert stock.clean(tmp_path, timedelta(0)) == []
    assert not stock.make_room(tmp_path, 1)
    assert names(tmp_path) == ["acme/tiny"]


def test_what_only_ended_replicas_used_goes(tmp_path: Path) -> None:
    stock_up(tmp_path, choice(), FILES)
    replica(tmp_path, choice(), Phase.EXITED)

    (removed,) = stock.clean(tmp_path, timedelta(0))

    assert removed.choice == choice()
    assert not list((tmp_path / "models").glob("models--*"))


def test_only_what_is_old_enough_goes(tmp_path: Path) -> None:
    stock_up(tmp_path, choice("acme/old"), FILES, days_ago=91)
    stock_up(tmp_path, choice("acme/new"), FILES, days_ago=89)

    stock.clean(tmp_path, NEVER)

    assert names(tmp_path) == ["acme/new"]


def test_use_is_remembered_until_after_its_end(tmp_path: Path) -> None:
    stock_up(tmp_path, choice(), FILES, days_ago=91)
    record = replica(tmp_path, choice())
    stock.tidy(tmp_path, NEVER)
    record.phase = Phase.EXITED
    keep(tmp_path, record)

    assert stock.tidy(tmp_path, NEVER) == []


def test_without_an_age_nothing_is_too_old(tmp_path: Path) -> None:
    stock_up(tmp_path, choice(), FILES, days_ago=9999)
    assert stock.tidy(tmp_path, None) == []


def test_room_is_made_of_the_longest_unused(tmp_path: Path) -> None:
    for days in (1, 3, 2):
        stock_up(tmp_path, choice(f"acme/a{days}"), FILES, days_ago=days)

    assert stock.make_room(tmp_path, 1100)

    assert names(tmp_path) == ["acme/a1"]


def test_no_room_is_made_that_would_not_do(tmp_path: Path) -> None:
    stock_up(tmp_path, choice(), FILES)
    assert not stock.make_room(tmp_path, 1003)
    assert names(tmp_path) == ["acme/tiny"]


def test_a_file_that_another_revision_has_too_stays_and_makes_no_room(tmp_path: Path) -> None:
    newer = FILES | {"config.json": b'{"new": 1}'}
    stock_up(tmp_path, choice(revision="old"), FILES, days_ago=9)
    shelf = stock_up(tmp_path, choice(revision="new"), newer)
    replica(tmp_path, choice(revision="new"))

    assert not stock.make_room(tmp_path, 3)
    assert stock.make_room(tmp_path, 2)

    assert content(shelf.snapshot(choice(revision="new").revision)) == newer
    assert not shelf.snapshot(choice(revision="old").revision).exists()
    assert len(list((shelf.folder / "blobs").iterdir())) == 2


def test_of_two_ggufs_of_one_revision_each_has_its_own_life(tmp_path: Path) -> None:
    four, eight = choice(model_file="q4.gguf"), choice(model_file="big/q8.gguf")
    stock_up(tmp_path, four, {"config.json": b"{}", "q4.gguf": b"four"})
    shelf = stock_up(tmp_path, eight, {"config.json": b"{}", "big/q8.gguf": b"eight"})
    replica(tmp_path, eight)

    (removed,) = stock.clean(tmp_path, timedelta(0))

    assert removed.choice == four
    assert content(shelf.snapshot(eight.revision)) == {
        "config.json": b"{}",
        "big/q8.gguf": b"eight",
    }


def test_an_unfinished_download_goes_with_its_parts(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "models", "acme/tiny")
    begin(shelf, choice(), FILES)
    part = shelf.part(shelf.files(choice())[0].digest)
    part.parent.mkdir()
    part.write_bytes(b"half")

    stock.clean(tmp_path, timedelta(0))

    assert not shelf.folder.exists()


def test_what_is_being_fetched_is_left_alone(tmp_path: Path) -> None:
    shelf = stock_up(tmp_path, choice(), FILES)
    with shelf.locked():
        assert stock.clean(tmp_path, timedelta(0)) == []
        assert not stock.make_room(tmp_path, 1)
        assert stock.damaged(tmp_path) == []
        with pytest.raises(Busy), Shelf(tmp_path / "models", "acme/tiny").locked(wait=False):
            pass
    assert names(tmp_path) == ["acme/tiny"]


def test_room_that_another_download_will_take_is_not_free(tmp_path: Path) -> None:
    models, other = tmp_path / "models", Shelf(tmp_path / "models", "acme/other")
    begin(other, choice("acme/other"), FILES)
    mine = Shelf(models, "acme/mine")

    assert stock.promised(models, mine) == 0  # it was cut off, and takes nothing
    with other.locked():
        assert stock.promised(models, mine) == 1002
        assert stock.promised(models, other) == 0


def test_while_a_record_cannot_be_read_nothing_goes(tmp_path: Path) -> None:
    stock_up(tmp_path, choice(), FILES)
    folder = tmp_path / "instances" / "of-another-version"
    folder.mkdir(parents=True)
    (folder / "state.json").write_text('{"spec": 1}')

    with pytest.raises(msgspec.DecodeError):
        stock.clean(tmp_path, timedelta(0))
    assert (tmp_path / "models" / "models--acme--tiny").exists()


def test_a_folder_without_our_marks_is_none_of_ours(tmp_path: Path) -> None:
    own = tmp_path / "models" / "models--acme--own" / "snapshots" / "x"
    own.mkdir(parents=True)
    (own / "config.json").write_text("{}")

    assert stock.clean(tmp_path, timedelta(0)) == []
    assert own.exists()


def test_damage_is_found_though_size_and_time_are_the_same(tmp_path: Path) -> None:
    shelf = stock_up(tmp_path, choice(), FILES)
    blob = (shelf.snapshot(choice().revision) / "model.safetensors").resolve()
    stat = blob.stat()
    blob.write_bytes(b"W" + b"w" * 999)
    os.utime(blob, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert not shelf.damaged(choice())  # so much may be missed between two looks

    ((damaged, file),) = stock.damaged(tmp_path)

    assert (damaged, file.name) == (choice(), "model.safetensors")
    assert shelf.damaged(choice()) == [file]  # and the next start knows


# The references, whatever happens in whatever order

CHOICES = [
    choice(repository, revision, chosen)
    for repository in ("acme/a", "acme/b")
    for revision in ("one", "two")
    for chosen in ("", "q.gguf")
]
POOL = st.dictionaries(
    st.sampled_from(["config.json", "model.safetensors", "q.gguf", "sub/tokenizer.json"]),
    st.sampled_from([b"", b"one", b"two" * 50, b"three" * 100]),
    min_size=1,
)


class References(RuleBasedStateMachine):
    """Models come, are used and cleaned: what is used is whole, what is left is known."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.home = Path(self.folder.name)
        self.commits: dict[tuple[str, str], dict[str, bytes]] = {}  # a commit never changes
        self.there: dict[Choice, dict[str, bytes]] = {}
        self.running: list[Record] = []

    def teardown(self) -> None:
        self.folder.cleanup()

    @rule(wanted=st.sampled_from(CHOICES), files=POOL, days=st.integers(0, 9))
    def fetch(self, wanted: Choice, files: dict[str, bytes], days: int) -> None:
        commit = self.commits.setdefault((wanted.repository, wanted.revision), files)
        self.there[wanted] = {n: d for n, d in commit.items() if n != "q.gguf" or wanted.model_file}
        stock_up(self.home, wanted, self.there[wanted], days_ago=days)

    @precondition(lambda self: self.there)
    @rule(data=st.data())
    def run(self, data: st.DataObject) -> None:
        wanted = data.draw(st.sampled_from(sorted(self.there)))
        self.running.append(replica(self.home, wanted))

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        record = data.draw(st.sampled_from(self.running))
        self.running.remove(record)
        record.phase = Phase.EXITED
        keep(self.home, record)

    @rule(days=st.integers(0, 9))
    def clean(self, days: int) -> None:
        self._gone([one.choice for one in stock.clean(self.home, timedelta(days=days))])

    @rule(missing=st.integers(1, 2000))
    def make_room(self, missing: int) -> None:
        before, known = self._bytes(), set(self.there)
        made = stock.make_room(self.home, missing)
        left = {one.choice for one in stock.listing(self.home)}
        assert (before - self._bytes() >= missing) if made else (left == known)
        self._gone(sorted(known - left))

    def _gone(self, choices: list[Choice]) -> None:
        used = {stock.model_of(record.spec) for record in self.running}
        assert not used & set(choices)
        for one in choices:
            del self.there[one]

    def _bytes(self) -> int:
        blobs = (self.home / "models").glob("models--*/blobs/*")
        return sum(blob.stat().st_size for blob in blobs)

    @invariant()
    def what_is_known_is_there_and_nothing_else(self) -> None:
        assert {one.choice for one in stock.listing(self.home)} == set(self.there)
        assert stock.damaged(self.home) == []
        commits = {(c.repository, c.revision) for c in self.there}
        for repository, revision in commits:
            wanted: dict[str, bytes] = {}
            for one, files in self.there.items():
                if (one.repository, one.revision) == (repository, revision):
                    wanted |= files
            shelf = Shelf(self.home / "models", repository)
            assert content(shelf.snapshot(revision)) == wanted
        repositories = {c.repository for c in self.there}
        blobs = {(r, d) for r in repositories for d in self._named(r)}
        assert len(list((self.home / "models").glob("models--*/blobs/*"))) == len(blobs)

    def _named(self, repository: str) -> set[str]:
        shelf = Shelf(self.home / "models", repository)
        return {file.digest for one in shelf.choices() for file in shelf.files(one)}


TestReferences = References.TestCase
TestReferences.settings = settings(max_examples=30, stateful_step_count=20, deadline=None)
