"""Which models lie on this machine's disk, who uses them, and what may go.

The references are the replicas' own records, which the supervisor writes before anything of a
replica begins; nothing is counted twice and nothing can be counted wrong. Whoever removes holds the
model's lock and looks at the records then: a replica that comes a moment later waits for the lock
and fetches again.
"""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec

from inference.engines import lora
from inference.node.record import Record, load
from inference.node.store import Busy, Choice, File, Shelf, shelves
from inference.provisioners.base import AdapterSpec, Phase, Spec


class Stocked(msgspec.Struct, frozen=True):
    """One model on the disk."""

    choice: Choice
    size_bytes: int  # on the disk; a file that revisions share counts in each
    whole: bool
    used_at: datetime
    users: tuple[str, ...]  # the instances it runs for now


def choices_of(spec: Spec) -> list[Choice]:
    """What of the hub it needs: the model, its draft model, both or neither."""
    return [choice for choice in (model_of(spec), draft_of(spec)) if choice]


def model_of(spec: Spec) -> Choice | None:
    """The model, where it comes from the hub."""
    if spec.model_source != "hub":
        return None
    return Choice(spec.model_id, spec.model_revision, spec.model_file)


def draft_of(spec: Spec) -> Choice | None:
    """The draft model, where there is one and it comes from the hub."""
    draft = spec.draft
    return Choice(draft.model_id, draft.revision) if draft and draft.source == "hub" else None


def choice_of_adapter(spec: AdapterSpec) -> Choice:
    return Choice(spec.model_id, spec.model_revision, lora.WEIGHTS)


def users(home: Path) -> dict[Choice, list[str]]:
    """The instances with a replica that has not ended, by what it needs.

    Raises msgspec.DecodeError for a record that cannot be read: then nobody knows what may go.
    """
    found: dict[Choice, list[str]] = {}
    for folder in sorted((home / "instances").glob("*/")):
        try:
            record = load(folder)
        except FileNotFoundError:  # it has not begun, or is gone
            continue
        if record.phase is Phase.EXITED:
            continue
        for choice in _choices(record):
            found.setdefault(choice, []).append(record.spec.instance_id)
    return found


def _choices(record: Record) -> list[Choice]:
    """What it has of the hub: its models, its adapters."""
    adapters = [one.spec for one in record.adapters if one.spec.source == "hub"]
    return choices_of(record.spec) + [choice_of_adapter(spec) for spec in adapters]


def listing(home: Path) -> list[Stocked]:
    """All of them, by name. Raises msgspec.DecodeError."""
    using = users(home)
    return [
        stocked
        for shelf in shelves(home / "models")
        for choice, whole in sorted(shelf.choices().items())
        if (stocked := _stocked(shelf, choice, whole, using.get(choice, [])))
    ]


def _stocked(shelf: Shelf, choice: Choice, whole: bool, using: list[str]) -> Stocked | None:
    marker = shelf.complete(choice) if whole else shelf.partial(choice)
    try:
        used = marker.stat().st_mtime
    except FileNotFoundError:  # it was finished or removed meanwhile
        return None
    return Stocked(
        choice=choice,
        size_bytes=sum(shelf.stored(digest) for digest in _digests(shelf, choice)),
        whole=whole,
        used_at=datetime.fromtimestamp(used, UTC),
        users=tuple(sorted(set(using))),
    )


def _digests(shelf: Shelf, choice: Choice) -> set[str]:
    return {file.digest for file in shelf.files(choice)}


def clean(home: Path, unused_for: timedelta) -> list[Stocked]:
    """Remove what nobody uses nor has used for so long; what was removed. Raises
    msgspec.DecodeError."""
    before = datetime.now(UTC) - unused_for
    return [one for one in listing(home) if one.used_at <= before and _removed(home, one.choice)]


def _removed(home: Path, choice: Choice) -> bool:
    shelf = Shelf(home / "models", choice.repository)
    try:
        with shelf.locked(wait=False):
            if choice in users(home):
                return False
            shelf.remove(choice)
            return True
    except Busy:
        return False


def make_room(home: Path, missing: int) -> bool:
    """Remove unused models, the longest unused first, until so many bytes are free more. Removes
    nothing if that cannot be done. Raises msgspec.DecodeError."""
    stock = sorted(listing(home), key=lambda one: one.used_at)
    unused = [one.choice for one in stock if not one.users]
    kept = [one.choice for one in stock if one.users]
    if _bytes(home, unused + kept) - _bytes(home, kept) < missing:
        return False
    freed = 0
    while freed < missing and unused:
        before = _bytes(home, unused + kept)
        choice = unused.pop(0)
        if _removed(home, choice):
            freed += before - _bytes(home, unused + kept)
    return freed >= missing


def _bytes(home: Path, choices: list[Choice]) -> int:
    """On the disk, each file once."""
    stored = {}
    for choice in choices:
        shelf = Shelf(home / "models", choice.repository)
        for digest in _digests(shelf, choice):
            stored[choice.repository, digest] = shelf.stored(digest)
    return sum(stored.values())


def tidy(home: Path, unused_for: timedelta | None) -> list[Stocked]:
    """Note what is in use as used now, and remove what has not been for so long; None: nothing is
    too old. Raises msgspec.DecodeError."""
    for choice in users(home):
        Shelf(home / "models", choice.repository).touch(choice)
    return clean(home, unused_for) if unused_for is not None else []


def damaged(home: Path) -> list[tuple[Choice, File]]:
    """Read every whole model on the disk again; the files that are not what they were. A model
    that is being fetched is left out."""
    return [found for shelf in shelves(home / "models") for found in _damaged(shelf)]


def _damaged(shelf: Shelf) -> list[tuple[Choice, File]]:
    try:
        with shelf.locked(wait=False):
            whole = [choice for choice, whole in shelf.choices().items() if whole]
            return [(one, file) for one in whole for file in shelf.damaged(one, anew=True)]
    except Busy:
        return []


def promised(models: Path, but: Shelf) -> int:
    """Bytes that other downloads under way will still take from the disk."""
    total = 0
    for shelf in shelves(models):
        if shelf.repository == but.repository:
            continue
        try:
            with shelf.locked(wait=False):
                pass
        except Busy:
            unfinished = [choice for choice, whole in shelf.choices().items() if not whole]
            total += sum(shelf.missing(choice) for choice in unfinished)
    return total
