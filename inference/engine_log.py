"""An engine's log as its tenants read it: without where things lie on the machine.

In whole lines, since the half of a path would not be known for one. Each may raise Unavailable.
"""

from collections.abc import Iterator

from inference import reconciler
from inference.doctor import without_paths
from inference.models import Replica
from inference.provisioners.base import LogChunk

PIECE = 1 << 19  # bytes
LINES = 1 << 16  # bytes that one look at its end, or one step through it, may have


def end(replica: Replica) -> LogChunk:
    """The last lines."""
    chunk = reconciler.provisioner().logs(reconciler.handle_of(replica), limit=LINES)
    return _lines(replica, chunk, cut=chunk.next_offset > LINES)


def after(replica: Replica, offset: int) -> LogChunk:
    """The lines that follow; one that is still being written comes when it is whole."""
    before = 1 if offset else 0  # the byte that says whether a line begins here
    handle = reconciler.handle_of(replica)
    chunk = reconciler.provisioner().logs(handle, offset=offset - before, limit=LINES)
    return _lines(replica, chunk, cut=bool(before))


def whole(replica: Replica) -> Iterator[str]:
    """All that is kept, in pieces of whole lines."""
    place, handle, offset, rest = reconciler.provisioner(), reconciler.handle_of(replica), 0, ""
    while (chunk := place.logs(handle, offset=offset, limit=PIECE)).text:
        lines, newline, rest = (rest + chunk.text).rpartition("\n")
        yield without_paths(lines + newline)
        offset = chunk.next_offset
    yield without_paths(rest)


def _lines(replica: Replica, chunk: LogChunk, *, cut: bool) -> LogChunk:
    """The whole ones; where its beginning is `cut` off, those from the next one on."""
    text = chunk.text.partition("\n")[2] if cut else chunk.text
    lines, newline, rest = text.rpartition("\n")
    if not newline and (replica.state == Replica.State.GONE or len(rest) > LINES // 2):
        return LogChunk(without_paths(rest), chunk.next_offset)  # it will not become a whole one
    # Where the rest has bytes that are no text this is too little, and the line is found again.
    return LogChunk(without_paths(lines + newline), chunk.next_offset - len(rest.encode()))
