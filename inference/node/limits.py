"""What an engine may take of the machine: a control group of its own (cgroups(7), version 2).

Only where a part of the kernel's tree of groups has been given to us: under a service with
`Delegate=yes` and `DelegateSubgroup=modelport-node`. The subgroup, because a group with processes
of its own can have no children with limits, and a service whose group has got such children could
not be started again.
"""

import os
from pathlib import Path

import structlog

CONTROLLERS = ("memory", "pids", "cpu")
LEAF = "modelport-node"
MEMORY_ROOM = 2  # times what it was let in with; what files it has read can be dropped again
CPU_WEIGHT = 50  # of 100: where the CPUs are all busy, the portal and the gateway come first
DELEGATED = ("user.delegate", "trusted.delegate")  # systemd.resource-control(5)

log = structlog.get_logger(__name__)


def base() -> Path | None:
    """The group whose children are ours to make, if there is one."""
    mounts = (line.split() for line in Path("/proc/self/mounts").read_text().splitlines())
    tree = next((Path(row[1]) for row in mounts if row[2] == "cgroup2"), None)
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    own = next((line.removeprefix("0::") for line in lines if line.startswith("0::")), "")
    if tree is None or not own:
        return None
    leaf = tree / own.lstrip("/")
    group = leaf.parent
    ours = leaf.name == LEAF and _delegated(group)
    return group if ours and os.access(group / "cgroup.subtree_control", os.W_OK) else None


def _delegated(group: Path) -> bool:
    for name in DELEGATED:
        try:
            if os.getxattr(group, name) == b"1":
                return True
        except OSError:
            continue
    return False


def arrange(group: Path) -> tuple[str, ...]:
    """Let children of this group have limits: the controllers that they can have."""
    try:
        there = (group / "cgroup.controllers").read_text().split()
        wanted = tuple(name for name in CONTROLLERS if name in there)
        for name in wanted:
            (group / "cgroup.subtree_control").write_text(f"+{name}")
    except OSError as problem:
        log.warning("node.no_limits", group=str(group), message=problem.strerror)
        return ()
    return wanted


class Limits:
    """The groups of this machine's engines."""

    def __init__(self, group: Path | None) -> None:
        self.group = group
        self.controllers = arrange(group) if group else ()

    def set(self, replica_id: str, memory_bytes: int, processes: int) -> list[str]:
        """The files that a process joins by. `memory_bytes` is what it needs; 0: not known."""
        if self.group is None or not self.controllers:
            return []
        wanted = {"pids.max": str(processes), "cpu.weight": str(CPU_WEIGHT)}
        if memory_bytes:
            wanted |= {"memory.max": str(MEMORY_ROOM * memory_bytes), "memory.oom.group": "1"}
        own = self._of(replica_id)
        try:
            own.mkdir(exist_ok=True)
            for name, value in wanted.items():
                if name.split(".")[0] in self.controllers:
                    (own / name).write_text(value)
        except OSError as problem:
            log.warning("replica.no_limits", replica_id=replica_id, message=problem.strerror)
            return []
        return [str(own / "cgroup.procs")]

    def widen(self, replica_id: str, memory_bytes: int) -> None:
        """Let it take more: it needs so many bytes from now on."""
        try:
            (self._of(replica_id) / "memory.max").write_text(str(MEMORY_ROOM * memory_bytes))
        except OSError:
            return  # it has no limits

    def ran_out_of_memory(self, replica_id: str) -> bool:
        try:
            lines = (self._of(replica_id) / "memory.events").read_text().splitlines()
        except OSError:
            return False
        return any(int(n) for name, n in (line.split() for line in lines) if name == "oom_kill")

    def remove(self, replica_id: str) -> None:
        """When no process is left in it."""
        try:
            self._of(replica_id).rmdir()
        except OSError:
            return

    def _of(self, replica_id: str) -> Path:
        return (self.group or Path("/nowhere")) / f"modelport-{replica_id}"
