"""Stands between the supervisor and one engine: `python shim.py FOLDER COMMAND …`.

It outlives the supervisor, so that engines do: it keeps the engine's log within bounds, gathers
the engine's orphans (as their subreaper), and leaves the exit code in `exit.json` for whoever
supervises by then. If it is killed itself, the kernel kills the engine with it.

Standard library only and run with -I: it is one small process per engine, and must start whatever
becomes of our own environment.

With a `walls.json` in FOLDER, the engine runs within walls (see enclosure.py): our child is then
the first process of a PID namespace, and the engine that one's child.
"""

import ctypes
import importlib.util
import json
import os
import select
import signal
import sys
import time
from pathlib import Path
from types import FrameType, ModuleType

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36  # <linux/prctl.h>
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  - POSIX shared memory, shm_overview(7)
LOG_CAP = 8 * 1024 * 1024  # bytes; the log before it is kept once, the ones before that are not
LAST_DUTIES = 1.0  # seconds for what the engine has started to end by itself
TRACKERS_DUTIES = 2.0  # seconds more, see tracks_resources
LAST_WORDS = 1.0  # seconds to read what an ended engine left in the pipe


class CappedLog:
    """`engine.log`, and `engine.log.1` before it; `engine.log.base` counts the bytes before."""

    def __init__(self, folder: Path, cap: int = LOG_CAP) -> None:
        self.path = folder / "engine.log"
        self.cap = cap
        self.base = 0
        self.file = self.path.open("ab", buffering=0)

    def write(self, data: bytes) -> None:
        try:
            self.file.write(data)
            if self.file.tell() >= self.cap:
                self._rotate()
        except OSError:
            return  # a full disk costs log lines, never the engine: it must not block on its pipe

    def _rotate(self) -> None:
        self.base += self.file.tell()
        self.file.close()
        self.path.replace(self.path.with_name("engine.log.1"))
        self.path.with_name("engine.log.base").write_text(str(self.base))
        self.file = self.path.open("ab", buffering=0)


def prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


class Child:
    """The engine, or the first process of its walls; the ends of our pipes to it."""

    def __init__(self, pid: int, reading: int, report: int, lifeline: int) -> None:
        self.pid, self.reading, self.report = pid, reading, report
        self.lifeline = lifeline  # kept open: its end tells that we are dead

    def exit_code(self, own: int) -> int:
        """The engine's, as its walls have reported it, else the child's `own`."""
        try:
            return int(os.read(self.report, 16) or own)
        except BlockingIOError:
            return own


def start(folder: Path, argv: list[str]) -> Child:
    reading, writing = os.pipe()
    waiting, lifeline = os.pipe()
    report, reporting = os.pipe()
    enclosure = load_enclosure()
    plan = enclosure.read_plan(folder)
    parent = os.getpid()
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    unwalled = enter(enclosure, plan)
    pid = os.fork()
    if pid:
        for end in (writing, waiting, reporting):
            os.close(end)
        for end in (reading, report):
            os.set_blocking(end, False)
        return Child(pid, reading, report, lifeline)
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.dup2(writing, 1)
    os.dup2(writing, 2)
    close_all_but(waiting, reporting)
    if unwalled:
        os.write(2, f"The walls cannot be put up: {unwalled}.\n".encode())
        os._exit(enclosure.BUILDING_FAILED)
    if plan is not None:
        enclosure.reign(plan, argv, waiting, reporting)
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the line above took hold
        os._exit(1)
    enclosure.run(argv)
    os._exit(1)


def enter(enclosure: ModuleType, plan: object) -> str:
    """Into the namespaces that begin with us; why that cannot be."""
    try:
        if plan is not None:
            enclosure.enter(plan)
    except OSError as error:
        return str(error.strerror)
    return ""


def load_enclosure() -> ModuleType:
    """With -I, our folder is not where Python looks for modules."""
    path = Path(__file__).with_name("enclosure.py")
    spec = importlib.util.spec_from_file_location("enclosure", path)
    assert spec is not None and spec.loader is not None  # noqa: S101  - it is a file
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def close_all_but(*kept: int) -> None:
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) not in kept:
            try:
                os.close(int(name))
            except OSError:  # the one that listed them
                continue


def children() -> list[int]:
    listed = Path(f"/proc/self/task/{os.getpid()}/children").read_text()
    return [int(pid) for pid in listed.split()]


def reap(engine: int) -> int | None:
    """Collect whatever has ended; the engine's exit code if it is among them."""
    code = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return code
        if pid == 0:
            return code
        if pid == engine:
            code = os.waitstatus_to_exitcode(status)


def kill(pids: list[int]) -> None:
    """End these processes and remove the shared memory that they hold: nobody else would."""
    shared = set().union(*(shared_memory(pid) for pid in pids))
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    for path in shared:
        path.unlink(missing_ok=True)


def shared_memory(pid: int) -> set[Path]:
    """The files in /dev/shm that the process has mapped (proc(5): the fourth and fifth field of
    /proc/PID/maps are device and inode, the sixth is the path).

    A path alone is the process's own word: in a mount namespace of its own it can have a file of
    any name there, which is not the one that we see under that name."""
    try:
        maps = Path(f"/proc/{pid}/maps").read_text()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return set()
    fields = (line.split(maxsplit=5) for line in maps.splitlines())
    held = {(Path(f[5]), f[3], int(f[4])) for f in fields if len(f) == 6}
    return {p for p, device, inode in held if p.parent == SHARED_MEMORY and _is(p, device, inode)}


def _is(path: Path, device: str, inode: int) -> bool:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return False
    major, minor = os.major(found.st_dev), os.minor(found.st_dev)
    return device == f"{major:02x}:{minor:02x}" and found.st_ino == inode


def tracks_resources(pid: int) -> bool:
    """Whether it is Python's resource tracker: it removes what its processes left named in the
    kernel (semaphores, shared memory) when the last of them has ended, and then ends itself."""
    try:
        return b"multiprocessing.resource_tracker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False


def bury(engine: int) -> None:
    """See the engine's children end: by themselves, or surely after a while, the trackers last.
    The orphans of the dead become ours, so look again."""
    ended = time.monotonic()
    while left := children():
        late = time.monotonic() - ended
        if late > LAST_DUTIES:
            trackers = late < LAST_DUTIES + TRACKERS_DUTIES
            kill([pid for pid in left if not (trackers and tracks_resources(pid))])
        time.sleep(0.02)
        reap(engine)


def pump(reading: int, log: CappedLog) -> bool:
    """Move what is there into the log; False at the end."""
    try:
        data = os.read(reading, 65536)
    except BlockingIOError:
        return True
    log.write(data)
    return bool(data)


def follow(engine: int, reading: int, waking: int, log: CappedLog) -> int:
    """Until the engine ends: its exit code."""
    sources = [reading, waking]
    while True:
        ready, _, _ = select.select(sources, [], [])
        if reading in ready and not pump(reading, log):
            sources.remove(reading)  # it closed its output; it may well live on
        if waking in ready:
            os.read(waking, 4096)
            code = reap(engine)
            if code is not None:
                return code


def drain(reading: int, log: CappedLog) -> None:
    deadline = time.monotonic() + LAST_WORDS
    while time.monotonic() < deadline:
        ready, _, _ = select.select([reading], [], [], 0.05)
        if not ready or not pump(reading, log):
            return


def leave(folder: Path, code: int) -> None:
    draft = folder / "exit.json.new"
    draft.write_text(json.dumps({"exit_code": code, "at": time.time()}))
    draft.replace(folder / "exit.json")


def main(folder: Path, argv: list[str]) -> None:
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    log = CappedLog(folder)
    waking, wake = os.pipe()
    os.set_blocking(waking, False)
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    child = start(folder, argv)

    def pass_on(number: int, frame: FrameType | None) -> None:
        os.kill(child.pid, number)

    signal.signal(signal.SIGTERM, pass_on)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
    code = follow(child.pid, child.reading, waking, log)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    bury(child.pid)
    drain(child.reading, log)
    leave(folder, child.exit_code(code))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
