"""Fetches a pinned revision from the Hugging Face hub: a process of its own, with network and no
tenant's data.

`python -m inference.node.fetch REPOSITORY COMMIT MODELS [FILE]` (a GGUF's name, or that of a LoRA
adapter's weights) prints one JSON object per line:
`{"done": …, "total": …, "seconds_left": …}` in bytes while it goes on, at last `{"path": …}` or
`{"reason": …, "message": …, "short": …}`, the last being the bytes that the disk lacks. The token,
where there is one, comes as HF_TOKEN, the hub's address as HF_ENDPOINT and folders with copies as
MODELPORT_MODELS: by environment, since anyone on the machine can read an argv.
"""

import contextlib
import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path

import httpx2
from huggingface_hub import HfApi, constants, get_session
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import validate_repo_id

from inference.node import offline, stock
from inference.node.pace import Pace
from inference.node.pull import Stopped, pull
from inference.node.store import COMMIT, DIGEST, Choice, File, Shelf
from inference.node.weights import (
    WeightsProblem,
    allowed,
    check_config,
    check_folder,
    check_names,
    configs,
)
from inference.provisioners.base import Reason

KNOCK_PATIENCE = 15.0  # seconds
SPARE = 1024**3  # bytes that a download must leave free on the disk
AT_A_TIME = 8  # files


class NoRoom(WeightsProblem):
    """The disk lacks so many bytes."""

    def __init__(self, short: int, message: str) -> None:
        super().__init__(Reason.INSUFFICIENT_CAPACITY, message)
        self.short = short


def say(**facts: object) -> None:
    print(json.dumps(facts), flush=True)


def fetch(choice: Choice, models: Path, roots: Sequence[Path] = ()) -> Path:
    """The folder with the model's files. Raises WeightsProblem."""
    try:
        validate_repo_id(choice.repository)
    except HFValidationError as error:
        raise WeightsProblem(
            Reason.BAD_ARGUMENTS, f"{choice.repository!r} is not the name of a model."
        ) from error
    if not COMMIT.fullmatch(choice.revision):
        raise WeightsProblem(
            Reason.BAD_ARGUMENTS, f"{choice.revision!r} is not a commit; models are pinned to one."
        )
    shelf = Shelf(models, choice.repository)
    with shelf.locked():
        if _is_whole(shelf, choice):  # needs no network
            return _finished(shelf, choice)
        if folder := offline.exact_copy(roots, choice):
            return folder
        try:
            _download(shelf, choice)
        except WeightsProblem as problem:
            folder = offline.plain_copy([*roots, models], choice)
            if problem.reason is not Reason.BACKEND_UNREACHABLE or folder is None:
                raise
            return folder
        return _finished(shelf, choice)


def _is_whole(shelf: Shelf, choice: Choice) -> bool:
    """Whether all of it is there as it came. What is damaged goes, to be fetched again."""
    if not shelf.complete(choice).exists() or not shelf.files(choice):
        return False
    damaged = shelf.damaged(choice)
    if damaged:
        shelf.reopen(choice, damaged)
    return not damaged


def _finished(shelf: Shelf, choice: Choice) -> Path:
    snapshot = shelf.snapshot(choice.revision)
    shelf.link(choice)
    check_folder(snapshot, choice.model_file)
    shelf.finish(choice)
    return snapshot


def _download(shelf: Shelf, choice: Choice) -> None:
    """Raises WeightsProblem, whatever it is that goes wrong."""
    try:
        _bring(shelf, choice)
    except (GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise WeightsProblem(Reason.BAD_ARGUMENTS, _refusal(error, choice.repository)) from error
    except (
        HfHubHTTPError,
        httpx2.TransportError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
    ) as error:
        raise WeightsProblem(
            Reason.BACKEND_UNREACHABLE,
            "The Hugging Face hub does not answer. The download goes on where it stopped when "
            "the network is back.",
        ) from error
    except OSError as error:
        raise WeightsProblem(
            Reason.INSUFFICIENT_CAPACITY, f"The model cannot be stored: {error.strerror or error}."
        ) from error


def _bring(shelf: Shelf, choice: Choice) -> None:
    # The client retries for a minute before it admits that nobody is there; a person waits.
    get_session().head(constants.ENDPOINT, timeout=KNOCK_PATIENCE)
    files = _listed(choice)
    shelf.want(choice, files)
    _check_configs(shelf, choice, files)
    _check_space(shelf, choice)
    with _watched(shelf, files):
        _pull_all(shelf, choice, files)


def _listed(choice: Choice) -> list[File]:
    """What the hub says belongs to the model, with sizes and digests."""
    tree = HfApi().list_repo_tree(choice.repository, revision=choice.revision, recursive=True)
    entries = [entry for entry in tree if isinstance(entry, RepoFile)]
    check_names((entry.path for entry in entries), choice.model_file)
    return [_file(entry) for entry in entries if allowed(entry.path, choice.model_file)]


def _file(entry: RepoFile) -> File:
    digest = entry.lfs.sha256 if entry.lfs else entry.blob_id
    if not DIGEST.fullmatch(digest):  # it becomes a file's name here
        raise WeightsProblem(
            Reason.BACKEND_UNREACHABLE, f"The hub's list has no usable digest of {entry.path}."
        )
    return File(entry.path, digest, entry.size)


def _check_configs(shelf: Shelf, choice: Choice, files: list[File]) -> None:
    """A few kilobytes that may spare a long download."""
    for file in files:
        if file.name in configs(choice.model_file):
            pull(shelf, choice, file, threading.Event())
            try:
                check_config(file.name, shelf.blob(file.digest).read_text(errors="replace"))
            except WeightsProblem:
                shelf.remove(choice)
                raise


def _check_space(shelf: Shelf, choice: Choice) -> None:
    models = shelf.folder.parent
    missing, free = shelf.missing(choice), shutil.disk_usage(models).free
    others = stock.promised(models, shelf)
    short = missing + others + SPARE - free
    if missing and short > 0:
        raise NoRoom(
            short,
            f"The model needs {missing / 1e9:.1f} GB more on the disk of {models}, which has "
            f"{max(free - others, 0) / 1e9:.1f} GB free.",
        )


def _pull_all(shelf: Shelf, choice: Choice, files: list[File]) -> None:
    distinct = {file.digest: file for file in files}.values()
    stopping = threading.Event()
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        pulls = [pool.submit(pull, shelf, choice, file, stopping) for file in distinct]
        done, rest = wait(pulls, return_when=FIRST_EXCEPTION)
        stopping.set()  # those that still run are not needed any more
        for future in rest:
            future.cancel()
    errors = [error for future in done if (error := future.exception())]
    for error in sorted(errors, key=lambda error: isinstance(error, Stopped)):
        raise error


@contextlib.contextmanager
def _watched(shelf: Shelf, files: list[File]) -> Iterator[None]:
    """Say meanwhile how far it is."""
    finished = threading.Event()
    watch = threading.Thread(target=_watch, args=(shelf, files, finished))
    watch.start()
    try:
        yield
    finally:
        finished.set()
        watch.join()


def _watch(shelf: Shelf, files: list[File], finished: threading.Event) -> None:
    sizes = {file.digest: file.size for file in files}
    total, pace, over = sum(sizes.values()), Pace(), False
    while True:
        done = sum(min(shelf.stored(digest), size) for digest, size in sizes.items())
        left = pace.seconds_left(time.monotonic(), done, total)
        try:
            say(done=done, total=total, seconds_left=left)
        except BrokenPipeError:  # the supervisor was killed, and its successor starts another
            os._exit(1)
        if over:
            return
        over = finished.wait(0.5)


def _refusal(error: HfHubHTTPError, repository: str) -> str:
    if isinstance(error, GatedRepoError):
        return (
            f"{repository} is gated: accept its licence on the hub, and give the organization a "
            "hub token that may read it."
        )
    if isinstance(error, RevisionNotFoundError):
        return f"The hub has no such revision of {repository}."
    return f"The hub has no model {repository}, or the organization's hub token may not see it."


def main() -> int:
    repository, revision, models, *chosen = sys.argv[1:]
    roots = [Path(f) for f in os.environ.get("MODELPORT_MODELS", "").split(os.pathsep) if f]
    Path(models).mkdir(parents=True, exist_ok=True)
    try:
        path = fetch(Choice(repository, revision, *chosen), Path(models), roots)
    except WeightsProblem as problem:
        short = problem.short if isinstance(problem, NoRoom) else 0
        say(reason=problem.reason, message=problem.message, short=short)
        return 1
    say(path=str(path))
    return 0


if __name__ == "__main__":
    sys.exit(main())
