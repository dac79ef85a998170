"""The walls round one engine, put up from within. Loaded by the shim; standard library only.

The shim enters a new PID namespace, so that its child is that namespace's first process. The child
takes namespaces of its own for everything else, builds a file system of what the plan shows, gives
up every right, and starts the engine; it stays to collect what the engine leaves. When it ends, the
kernel ends all that is in the namespace.

The plan is made by walls.py. Paths inside are the same as outside.
"""

import ctypes
import fcntl
import json
import os
import resource
import select
import signal
import socket
import struct
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

# <linux/sched.h>, <linux/mount.h>, <linux/prctl.h>, <linux/capability.h>, netdevice(7)
NEW_USER, NEW_PID, NEW_NET = 0x10000000, 0x20000000, 0x40000000
NEW_MOUNT, NEW_UTS, NEW_IPC, NEW_CGROUP = 0x00020000, 0x04000000, 0x08000000, 0x02000000
NO_SETUID, NO_DEVICES, NO_EXEC = 2, 4, 8
BIND, RECURSIVE, PRIVATE = 4096, 16384, 1 << 18
DETACH = 2
MOUNT_SETATTR = 442  # the same number on every architecture
ATTR_READ_ONLY, ATTR_NO_SETUID, ATTR_NO_DEVICES = 1, 2, 4
AT_FDCWD, AT_RECURSIVE = -100, 0x8000
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 1, 4, 24, 38
CAPABILITY_VERSION_3 = 0x20080522
SIOCSIFFLAGS, IFF_UP = 0x8914, 1

DEVICES = ("null", "zero", "full", "random", "urandom")
BUILDING_FAILED = 126  # the exit code, after a sentence in the log
FILES = 65_535
FIRST_TO_GO = 500  # oom_score_adj: before the portal and the database, should memory run out

libc = ctypes.CDLL(None, use_errno=True)
Plan = dict[str, Any]


def call(name: str, *arguments: object) -> None:
    """A function of the C library that answers 0. Raises OSError with its name."""
    if getattr(libc, name)(*arguments) != 0:
        raise OSError(ctypes.get_errno(), f"{name}: {os.strerror(ctypes.get_errno())}")


def prctl(option: int, value: int) -> None:
    call("prctl", option, value, 0, 0, 0)


def mount(what: str, where: str, kind: str, flags: int, options: str = "") -> None:
    call("mount", what.encode(), where.encode(), kind.encode(), flags, options.encode())


def harmless(where: str, recursive: int, more: int = 0) -> None:
    """Without set-user-ID programs and devices, on all that is mounted below as well if
    `recursive`."""
    what = ATTR_NO_SETUID | ATTR_NO_DEVICES | more
    attributes = ctypes.create_string_buffer(struct.pack("QQQQ", what, 0, 0, 0))
    size = ctypes.c_size_t(32)
    call("syscall", MOUNT_SETATTR, AT_FDCWD, where.encode(), recursive, attributes, size)


def enter(plan: Plan) -> None:
    """In the shim: its children are to be in a PID namespace of their own."""
    if not plan["user_namespace"]:
        call("unshare", NEW_PID)
        return
    call("unshare", NEW_USER | NEW_PID)
    map_ourselves(plan)


def map_ourselves(plan: Plan) -> None:
    """Be the same user inside a new user namespace as outside; nobody else is there."""
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{plan['uid']} {plan['uid']} 1")
    Path("/proc/self/gid_map").write_text(f"{plan['gid']} {plan['gid']} 1")


def reign(plan: Plan, argv: list[str], lifeline: int, report: int) -> NoReturn:
    """As the first process: build, start the engine, and stay until it ends. SIGTERM is blocked
    on entry. `lifeline` ends with the shim; the engine's exit code goes into `report`."""
    try:
        build(plan)
        give_up_rights(plan)
    except OSError as error:
        os.write(2, f"The walls cannot be put up: {error.strerror or error}.\n".encode())
        os._exit(BUILDING_FAILED)
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if select.select([lifeline], [], [], 0)[0]:  # the shim died before the line above took hold
        os._exit(1)
    engine = os.fork()
    if engine == 0:
        run(argv)

    def pass_on(number: int, frame: FrameType | None) -> None:
        os.kill(engine, number)

    signal.signal(signal.SIGTERM, pass_on)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
    while True:
        pid, status = os.wait()
        if pid == engine:
            os.write(report, str(os.waitstatus_to_exitcode(status)).encode())
            os._exit(0)


def run(argv: list[str]) -> NoReturn:
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
        os.execvp(argv[0], argv)  # noqa: S606  - no shell is the point
    except OSError as error:
        os.write(2, f"{argv[0]} cannot be started: {error.strerror}\n".encode())
    os._exit(127)


# What it sees


def build(plan: Plan) -> None:
    Path("/proc/self/oom_score_adj").write_text(str(FIRST_TO_GO))
    for group in plan["groups"]:
        Path(group).write_text("0")  # ourselves
    call("unshare", NEW_MOUNT | NEW_NET | NEW_IPC | NEW_UTS | NEW_CGROUP)
    socket.sethostname("engine")
    bring_up_loopback()
    os.umask(0o022)
    root = plan["root"]
    mount("none", "/", "none", RECURSIVE | PRIVATE)
    mount("tmpfs", root, "tmpfs", NO_SETUID | NO_DEVICES, "mode=0755")
    lay_out(root, plan)
    for path, writable in plan["shown"]:
        show(path, root, writable=writable)
    for path in plan["hidden"]:
        os.makedirs(root + path, exist_ok=True)
        mount("tmpfs", root + path, "tmpfs", NO_SETUID | NO_DEVICES, "mode=0755,size=1m")
    for path, writable in plan["shown_last"]:
        show(path, root, writable=writable)
    for path, target in plan["links"]:
        if not os.path.lexists(root + path):
            os.makedirs(os.path.dirname(root + path), exist_ok=True)
            os.symlink(target, root + path)
    for path in ("", "/dev", *plan["hidden"]):
        harmless(root + path, 0, ATTR_READ_ONLY)
    move_in(root)
    os.chdir(plan["folder"])
    os.umask(0o077)


def bring_up_loopback() -> None:
    """The engine's processes talk to each other over it. There is no other interface."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", IFF_UP))


def lay_out(root: str, plan: Plan) -> None:
    """The folders that every process expects, and a user database of one."""
    for name in ("proc", "dev", "etc", "tmp", "run"):
        os.mkdir(f"{root}/{name}")
    mount("proc", f"{root}/proc", "proc", NO_SETUID | NO_DEVICES | NO_EXEC)
    mount("tmpfs", f"{root}/dev", "tmpfs", NO_SETUID | NO_EXEC, "mode=0755,size=1m")
    for folder, options in (("tmp", "size=1g"), ("dev/shm", "size=50%")):
        os.makedirs(f"{root}/{folder}", exist_ok=True)
        mount("tmpfs", f"{root}/{folder}", "tmpfs", NO_SETUID | NO_DEVICES, "mode=1777," + options)
    for device in (*(f"/dev/{name}" for name in DEVICES), *plan["devices"]):
        bind(device, root)
    for name, target in (("fd", "fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")):
        os.symlink(f"/proc/self/{target}", f"{root}/dev/{name}")
    uid, gid, home = plan["uid"], plan["gid"], plan["home"]
    etc = Path(root, "etc")
    (etc / "passwd").write_text(f"engine:x:{uid}:{gid}:engine:{home}:/usr/sbin/nologin\n")
    (etc / "group").write_text(f"engine:x:{gid}:\n")
    (etc / "hosts").write_text("127.0.0.1 localhost engine\n::1 localhost\n")
    (etc / "nsswitch.conf").write_text("passwd: files\ngroup: files\nhosts: files\n")


def show(path: str, root: str, *, writable: bool) -> None:
    """What is there outside, at the same path inside."""
    bind(path, root)
    harmless(root + path, AT_RECURSIVE, 0 if writable else ATTR_READ_ONLY)


def bind(path: str, root: str) -> None:
    inside = root + path
    if os.path.isdir(path):
        os.makedirs(inside, exist_ok=True)
    elif not os.path.exists(inside):
        os.makedirs(os.path.dirname(inside), exist_ok=True)
        os.close(os.open(inside, os.O_CREAT | os.O_WRONLY, 0o644))
    mount(path, inside, "none", BIND | RECURSIVE)


def move_in(root: str) -> None:
    """pivot_root(2), "pivot_root(".", ".")": the old root lies on top of the new one until it is
    taken off."""
    os.chdir(root)
    call("pivot_root", b".", b".")
    call("umount2", b".", DETACH)
    os.chdir("/")


# What it may


def give_up_rights(plan: Plan) -> None:
    limit(resource.RLIMIT_CORE, 0)  # a core dump would hold prompts
    limit(resource.RLIMIT_NPROC, plan["processes"])
    allow_files()
    os.nice(plan["nice"])
    if not plan["user_namespace"]:
        drop_bounds()
        os.setgroups([])
        os.setresgid(plan["gid"], plan["gid"], plan["gid"])
        os.setresuid(plan["uid"], plan["uid"], plan["uid"])
        enter_empty_user_namespace(plan)
    forbid_user_namespaces()
    drop_bounds()
    drop_capabilities()
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    prctl(PR_SET_DUMPABLE, 0)  # the engine is the same user, and may not look into us


def limit(which: int, wanted: int) -> None:
    _, most = resource.getrlimit(which)
    allowed = wanted if most == resource.RLIM_INFINITY else min(wanted, most)
    resource.setrlimit(which, (allowed, allowed))


def allow_files() -> None:
    """As many as engines ask for, each stream being one: they may not raise the limit themselves
    any more."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, max(most, FILES)))
    except (OSError, ValueError):  # only root may, and others have what they have
        return


def enter_empty_user_namespace(plan: Plan) -> None:
    """Only so that no further ones can be made: in a user namespace of its own making, a process
    has all capabilities again. Where the kernel lets none be made, nothing is to be forbidden."""
    prctl(PR_SET_DUMPABLE, 1)  # else /proc/self is root's
    if libc.unshare(NEW_USER) == 0:
        map_ourselves(plan)


def forbid_user_namespaces() -> None:
    if any(capabilities()):
        Path("/proc/sys/user/max_user_namespaces").write_text("0")


def capabilities() -> tuple[int, ...]:
    """The effective set, in two words."""
    header = struct.pack("Ii", CAPABILITY_VERSION_3, 0)
    data = ctypes.create_string_buffer(24)
    call("capget", ctypes.create_string_buffer(header), data)
    return struct.unpack("IIIIII", data.raw[:24])[0::3]


def drop_bounds() -> None:
    """No program may bring a capability back. The kernel says where the list ends; a process
    without the right to do so has none left to drop."""
    for capability in range(64):
        if libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) != 0:
            return


def drop_capabilities() -> None:
    header = struct.pack("Ii", CAPABILITY_VERSION_3, 0)
    call("capset", ctypes.create_string_buffer(header), ctypes.create_string_buffer(24))


def read_plan(folder: Path) -> Plan | None:
    """What walls.py has left for the shim of this folder; None: no walls."""
    try:
        return json.loads((folder / "walls.json").read_text())
    except FileNotFoundError:
        return None
