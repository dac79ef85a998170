"""Copies of hub models that an operator put on this machine, for networks without a hub.

In the folders of MODELPORT_MODELS, either as the hub's own cache lays them out
(`models--owner--name/snapshots/COMMIT`), which says what commit they are, or plain
(`owner/name`), which does not: those are taken only when the hub does not answer.
"""

import contextlib
from collections.abc import Iterable
from pathlib import Path

from inference.node.store import Choice, Shelf
from inference.node.weights import WeightsProblem, check_folder


def exact_copy(roots: Iterable[Path], choice: Choice) -> Path | None:
    """A whole copy of this very commit."""
    folders = [Shelf(root, choice.repository).snapshot(choice.revision) for root in roots]
    return next((folder for folder in folders if _serves(folder, choice)), None)


def plain_copy(roots: Iterable[Path], choice: Choice) -> Path | None:
    """A folder of this name that is not known to be of another commit."""
    folders = [root / choice.repository for root in roots]
    return next((f for f in folders if _serves(f, choice) and not _differs(f, choice)), None)


def _serves(folder: Path, choice: Choice) -> bool:
    with contextlib.suppress(WeightsProblem):
        return check_folder(folder, choice.model_file) > 0
    return False


def _differs(folder: Path, choice: Choice) -> bool:
    """`hf download --local-dir` writes beside each file of which commit it was."""
    notes = (folder / ".cache" / "huggingface" / "download").rglob("*.metadata")
    commits = {note.read_text(errors="replace").partition("\n")[0].strip() for note in notes}
    return bool(commits - {choice.revision})
