"""Processes that are not our children: who they are, whether they live, how they end.

A pid alone is reused by the kernel. A process is known by its pid, its start time in clock ticks
since boot (field 22 of /proc/PID/stat, proc(5)) and the boot it belongs to.
"""

import os
import signal
from pathlib import Path

import msgspec

MARK = "MODELPORT_REPLICA"  # in the environment of every process of a replica


class Identity(msgspec.Struct, frozen=True):
    pid: int
    start_ticks: int
    boot: str

    def alive(self) -> bool:
        """Whether this very process still runs; a zombie does not."""
        stat = _stat(self.pid)
        return (
            stat is not None
            and stat.start_ticks == self.start_ticks
            and stat.state != "Z"
            and self.boot == boot_id()
        )


class _Stat(msgspec.Struct, frozen=True):
    state: str
    session: int
    start_ticks: int


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def identify(pid: int) -> Identity | None:
    stat = _stat(pid)
    return Identity(pid, stat.start_ticks, boot_id()) if stat else None


def _stat(pid: int) -> _Stat | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name in parentheses may itself hold spaces and parentheses.
    fields = text[text.rindex(")") + 2 :].split()
    return _Stat(state=fields[0], session=int(fields[3]), start_ticks=int(fields[19]))


def of_replica(replica_id: str, session: int | None) -> list[int]:
    """All living processes of a replica: by session, and by the mark in their environment for
    those that made a session of their own."""
    return [pid for pid in _pids() if _belongs(pid, replica_id, session)]


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdecimal()]


def _belongs(pid: int, replica_id: str, session: int | None) -> bool:
    stat = _stat(pid)
    if stat is None or stat.state == "Z":
        return False
    if session is not None and stat.session == session:
        return True
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return False
    return f"{MARK}={replica_id}".encode() in environment.split(b"\0")


def send(pid: int, number: signal.Signals) -> None:
    """Signal it, if it is still there."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
