"""Brings one file from the hub onto the shelf: taken up where it stopped, verified, and tried once
more when what came is not what the hub's list says.

Not the client's own download, which begins a file anew after each interruption.
"""

import os
import threading
from http import HTTPStatus

import httpx2
from huggingface_hub import constants, get_session, hf_hub_download, hf_hub_url
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

from inference.node.store import Choice, File, Shelf, digest_of, size_of
from inference.node.weights import WeightsProblem
from inference.provisioners.base import Reason

ATTEMPTS = 2  # to have a file whole and right
RETRIES = 5  # without a new byte, before the hub counts as gone
PAUSE = 1.0  # seconds between them
PATIENCE = 30.0  # seconds without a byte
HUGE = constants.MAX_HTTP_DOWNLOAD_SIZE  # bytes; the hub gives more by Xet alone
PASSING = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS}


class Stopped(Exception):
    """Another file of the model cannot be had, so this one is not needed."""


def pull(shelf: Shelf, choice: Choice, file: File, stopping: threading.Event) -> None:
    """Raises WeightsProblem, Stopped, HfHubHTTPError, httpx2.TransportError, OSError."""
    if shelf.is_right(file):
        return
    shelf.blob(file.digest).unlink(missing_ok=True)
    part = shelf.part(file.digest)
    part.parent.mkdir(parents=True, exist_ok=True)
    for _ in range(ATTEMPTS):
        if file.size > HUGE:
            _pull_huge(shelf, choice, file)
        else:
            _resume(shelf, choice, file, stopping)
        if digest_of(part, file.digest) == file.digest:
            _keep(shelf, file)
            return
        part.unlink()
    raise WeightsProblem(
        Reason.BACKEND_UNREACHABLE,
        f"The hub sent {file.name} twice with other content than its own list says. It is tried "
        "again later; a mirror or a proxy in between may be broken.",
    )


def _keep(shelf: Shelf, file: File) -> None:
    part = shelf.part(file.digest)
    with part.open("rb") as written:
        os.fsync(written.fileno())  # a power cut must not leave a name without its content
    part.replace(shelf.blob(file.digest))
    shelf.note(file.digest)


def _resume(shelf: Shelf, choice: Choice, file: File, stopping: threading.Event) -> None:
    """Until the part has its size, through broken connections."""
    part, misses = shelf.part(file.digest), 0
    part.touch()
    while (had := size_of(part)) < file.size:
        try:
            _stream(shelf, choice, file, stopping)
        except (httpx2.TransportError, HfHubHTTPError) as error:
            if not _passing(error) or misses == RETRIES:
                raise
        misses = 0 if size_of(part) > had else misses + 1
        if misses and stopping.wait(PAUSE):
            raise Stopped
        if misses > RETRIES:  # it answers, with nothing
            return


def _passing(error: httpx2.TransportError | HfHubHTTPError) -> bool:
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        return status in PASSING or status >= HTTPStatus.INTERNAL_SERVER_ERROR
    return True


def _stream(shelf: Shelf, choice: Choice, file: File, stopping: threading.Event) -> None:
    part = shelf.part(file.digest)
    url = hf_hub_url(choice.repository, file.name, revision=choice.revision)
    headers = {"Range": f"bytes={size_of(part)}-", "Accept-Encoding": "identity"}
    # Redirected to the hub's storage, the client does not send the token on.
    with get_session().stream(
        "GET", url, headers=build_hf_headers() | headers, timeout=PATIENCE
    ) as response:
        hf_raise_for_status(response)
        resumed = response.status_code == HTTPStatus.PARTIAL_CONTENT
        with part.open("ab" if resumed else "wb", buffering=0) as out:
            for piece in response.iter_bytes():
                if stopping.is_set():
                    raise Stopped
                out.write(piece)
                if out.tell() > file.size:  # no end in sight; the digest will say so
                    return


def _pull_huge(shelf: Shelf, choice: Choice, file: File) -> None:
    """By the client's own download, which speaks Xet and begins anew each time."""
    hf_hub_download(
        choice.repository,
        file.name,
        revision=choice.revision,
        cache_dir=shelf.folder.parent,
        force_download=True,
    )
    shelf.blob(file.digest).replace(shelf.part(file.digest))
