"""Reading what the shim writes: `engine.log.1` and `engine.log` as one text with steady offsets."""

from pathlib import Path

from inference.provisioners.base import LogChunk

TAIL_LINES = 40
LAST_WORDS = 65_536  # bytes; the cause stands before what the parent processes say of it


def read(folder: Path, offset: int | None, limit: int) -> LogChunk:
    """At most `limit` bytes from `offset`, counted from the first byte ever logged; without an
    offset, the end. What has been dropped is skipped."""
    base = _base(folder)
    older, newer = folder / "engine.log.1", folder / "engine.log"
    first = base - _size(older)
    end = base + _size(newer)
    start = end - limit if offset is None else offset
    start = min(max(start, first), end)
    data = b""
    if start < base:
        data = _slice(older, start - first, limit)
    if len(data) < limit:
        data += _slice(newer, max(start - base, 0), limit - len(data))
    return LogChunk(data.decode(errors="replace"), start + len(data))


def tail(folder: Path) -> list[str]:
    """The last lines."""
    return read(folder, None, 16384).text.splitlines()[-TAIL_LINES:]


def last_words(folder: Path) -> list[str]:
    """As much of the end as a diagnosis wants."""
    return read(folder, None, LAST_WORDS).text.splitlines()


def _base(folder: Path) -> int:
    try:
        return int((folder / "engine.log.base").read_text())
    except FileNotFoundError:
        return 0


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _slice(path: Path, start: int, limit: int) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(start)
            return file.read(limit)
    except FileNotFoundError:
        return b""
