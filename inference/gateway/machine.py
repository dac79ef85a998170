"""What a machine that runs gateways may run short of: room for its journals, and its meter.

Told by files alone, so that it can be told with the database away and by any process.
"""

import shutil
import time
from contextlib import suppress
from pathlib import Path

from inference.gateway import journal

SHIPPED = ".shipped"  # its time: when the database last had all that the journals hold
REFUSED = "refused.jsonl"  # rows that the database will never take, for a person to look at

FIGURES = {
    "journal_bytes": "Of usage journals; up to 64 MiB for each gateway process is usual.",
    "journal_disk_free_bytes": "Room where the journals are. Without it nothing is served.",
    "meter_behind_seconds": "Since the database had all usage of this machine.",
    "usage_refused_bytes": "Of usage that the database would not take, for a person to look at.",
}


def figures(folder: Path) -> dict[str, float]:
    """The figures of this machine's journals; none where no gateway has ever run."""
    if not folder.is_dir():
        return {}
    stats = [found for path in journal.files(folder) if (found := _stat(path))]
    told: dict[str, float] = {
        "journal_bytes": sum(size for size, _ in stats),
        "journal_disk_free_bytes": shutil.disk_usage(folder).free,
        "usage_refused_bytes": (_stat(folder / REFUSED) or (0, 0.0))[0],
    }
    # Where no meter has ever shipped anything, what is oldest has waited longest.
    shipped = _stat(folder / SHIPPED) or min(stats, key=lambda each: each[1], default=None)
    if shipped is not None:
        told["meter_behind_seconds"] = max(0.0, time.time() - shipped[1])
    return told


def mark_shipped(folder: Path) -> None:
    """The meter's word that the database has it all. A full disk may not stop the meter."""
    with suppress(OSError):
        (folder / SHIPPED).touch()


def _stat(path: Path) -> tuple[int, float] | None:
    """Its bytes and when it was last written to; the meter may delete it any moment."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_size, found.st_mtime
