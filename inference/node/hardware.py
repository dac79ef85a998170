"""What this machine has. Sizes in bytes."""

import csv
import os
import shutil
import socket
import subprocess
from pathlib import Path

import psutil

from inference.engines.base import Variant
from inference.provisioners.base import Gpu, NodeStatus

MIB = 1024**2
_CGROUP = Path("/sys/fs/cgroup")  # version 2: a container sees its own limits here


def gpus() -> list[Gpu]:
    """The NVIDIA GPUs, as the driver's own tool lists them; none where there is no driver."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    fields = ["--query-gpu=index,name,memory.total", "--format=csv,noheader,nounits"]
    try:
        said = subprocess.run([tool, *fields], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return []  # a hung driver serves no engine either
    return parse_gpus(said.stdout) if said.returncode == 0 else []


def parse_gpus(text: str) -> list[Gpu]:
    """`index, name, MiB` per line. Lines of another shape (a GPU that fell off the bus) are left
    out: nothing can run there."""
    found = []
    for row in csv.reader(text.splitlines(), skipinitialspace=True):
        if len(row) == 3 and row[0].isdecimal() and row[2].isdecimal():
            found.append(Gpu(index=int(row[0]), name=row[1], memory_bytes=int(row[2]) * MIB))
    return found


def variant_here() -> Variant:
    """The kind of engine environment that suits this machine."""
    return "cuda" if gpus() else "cpu"


def memory_limit() -> int:
    """Memory of this machine or, if less, of the container we are in."""
    return min(psutil.virtual_memory().total, _cgroup_number("memory.max"))


def memory_free() -> int:
    """What can be had without swapping."""
    within = _cgroup_number("memory.max") - _cgroup_number("memory.current", absent=0)
    return max(0, min(psutil.virtual_memory().available, within))


def _cgroup_number(name: str, absent: int = 2**63) -> int:
    try:
        text = (_CGROUP / name).read_text().strip()
    except OSError:
        return absent
    return int(text) if text.isdecimal() else absent


def describe(home: Path, gpus: list[Gpu]) -> NodeStatus:
    return NodeStatus(
        name=socket.gethostname(),
        cpu_count=len(os.sched_getaffinity(0)),
        memory_bytes=memory_limit(),
        memory_free_bytes=memory_free(),
        disk_free_bytes=shutil.disk_usage(home).free,
        gpus=gpus,
    )
