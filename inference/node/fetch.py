"""Fetches a pinned revision from the Hugging Face hub: a process of its own, with network and no
tenant's data.

`python -m inference.node.fetch REPOSITORY COMMIT CACHE` prints one JSON object per line:
`{"done": …, "total": …}` in bytes while it goes on, at last `{"path": …}` or
`{"reason": …, "message": …}`. The token, where there is one, comes as HF_TOKEN and the hub's
address as HF_ENDPOINT: both by environment, since anyone on the machine can read an argv.
"""

import json
import shutil
import sys
import threading
from pathlib import Path

import httpx2
from huggingface_hub import (
    HfApi,
    constants,
    get_session,
    hf_hub_download,
    snapshot_download,
)
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

from inference.node.weights import (
    ALLOWED,
    CONFIGS,
    WeightsProblem,
    allowed,
    check_config,
    check_folder,
    check_names,
)
from inference.provisioners.base import Reason

KNOCK_PATIENCE = 15.0  # seconds
SPARE = 1024**3  # bytes that a download must leave free on the disk


def say(**facts: object) -> None:
    print(json.dumps(facts), flush=True)


def fetch(repository: str, revision: str, cache: Path) -> Path:
    """The folder with the model's files. Raises WeightsProblem."""
    folder = cache / f"models--{repository.replace('/', '--')}"
    snapshot = folder / "snapshots" / revision
    whole = folder / "complete" / revision
    if whole.exists():  # needs no network
        check_folder(snapshot)
        return snapshot
    try:
        _download(repository, revision, cache, folder)
    except (GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise WeightsProblem(Reason.BAD_ARGUMENTS, _refusal(error, repository)) from error
    except HFValidationError as error:
        raise WeightsProblem(
            Reason.BAD_ARGUMENTS, f"{repository!r} is not the name of a model."
        ) from error
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
    check_folder(snapshot)
    whole.parent.mkdir(exist_ok=True)
    whole.touch()
    return snapshot


def _download(repository: str, revision: str, cache: Path, folder: Path) -> None:
    # The client retries for a minute before it admits that nobody is there; a person waits.
    get_session().head(constants.ENDPOINT, timeout=KNOCK_PATIENCE)
    tree = HfApi().list_repo_tree(repository, revision=revision, recursive=True)
    files = {entry.path: entry for entry in tree if isinstance(entry, RepoFile)}
    check_names(files)
    for name in CONFIGS:  # a few kilobytes that may spare a long download
        if name in files:
            path = hf_hub_download(repository, name, revision=revision, cache_dir=cache)
            check_config(name, Path(path).read_text())
    wanted = {name: entry for name, entry in files.items() if allowed(name)}
    total = sum(entry.size for entry in wanted.values())
    blobs = [entry.lfs.sha256 if entry.lfs else entry.blob_id for entry in wanted.values()]
    _check_space(total - _stored(folder, blobs), cache)
    finished = threading.Event()
    watch = threading.Thread(target=_watch, args=(folder, blobs, total, finished))
    watch.start()
    try:
        snapshot_download(
            repository, revision=revision, cache_dir=cache, allow_patterns=list(ALLOWED)
        )
    finally:
        finished.set()
        watch.join()


def _watch(folder: Path, blobs: list[str], total: int, finished: threading.Event) -> None:
    while True:
        say(done=min(_stored(folder, blobs), total), total=total)
        if finished.wait(0.5):
            return


def _stored(folder: Path, blobs: list[str]) -> int:
    """Bytes of these blobs that are on the disk, whole or in part."""
    stored = 0
    for blob in blobs:
        sizes = [_size(path) for path in (folder / "blobs").glob(f"{blob}*")]
        stored += max(sizes, default=0)
    return stored


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # a finished part was renamed meanwhile
        return 0


def _check_space(missing: int, cache: Path) -> None:
    free = shutil.disk_usage(cache).free
    if missing + SPARE > free:
        raise WeightsProblem(
            Reason.INSUFFICIENT_CAPACITY,
            f"The model needs {missing / 1e9:.1f} GB more on the disk of {cache}, which has "
            f"{free / 1e9:.1f} GB free.",
        )


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
    repository, revision, cache = sys.argv[1:4]
    Path(cache).mkdir(parents=True, exist_ok=True)
    try:
        path = fetch(repository, revision, Path(cache))
    except WeightsProblem as problem:
        say(reason=problem.reason, message=problem.message)
        return 1
    say(path=str(path))
    return 0


if __name__ == "__main__":
    sys.exit(main())
