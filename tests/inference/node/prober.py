"""A launch command that looks round where it is, says so in the log, and becomes the fake engine.

    python -m tests.inference.node.prober FACTS …the engine's own arguments

FACTS is JSON in hexadecimal, so that the command names no path: what it names is shown to it.
"""

import ctypes
import errno
import json
import os
import resource
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

SAID = "probed "
NEW_USER = 0x10000000  # <linux/sched.h>


def refusal(act: Callable[[], object]) -> str:
    """The name of the error that it ends in; empty if it succeeds."""
    try:
        act()
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error))
    return ""


def connect(family: int, address: Any) -> None:
    with socket.socket(family, socket.SOCK_STREAM) as connection:
        connection.settimeout(2)
        connection.connect(address)


def unshare() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(NEW_USER) != 0:
        raise OSError(ctypes.get_errno(), "unshare")


def in_a_child(act: Callable[[], object]) -> str:
    reading, writing = os.pipe()
    if os.fork() == 0:
        os.write(writing, refusal(act).encode())
        os._exit(0)
    os.close(writing)
    os.wait()
    return os.read(reading, 100).decode()


def probe(asked: dict[str, Any]) -> dict[str, Any]:
    status = dict(
        line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines()
    )
    return {
        "status": status,
        "pids": sorted(int(name) for name in os.listdir("/proc") if name.isdecimal()),
        "files": sorted(str(path) for path in Path(asked["home"]).rglob("*")),
        "exists": [path for path in asked["paths"] if os.path.exists(path)],
        "interfaces": os.listdir("/proc/sys/net/ipv4/conf"),
        "dev": sorted(os.listdir("/dev")),
        "etc": sorted(os.listdir("/etc")),
        "shared_memory": os.listdir("/dev/shm"),
        "host": socket.gethostname(),
        "tcp": {
            a: refusal(lambda a=a: connect(socket.AF_INET, (a, asked["port"])))
            for a in asked["addresses"]
        },
        "unix": {p: refusal(lambda p=p: connect(socket.AF_UNIX, p)) for p in asked["sockets"]},
        "writes": {p: refusal(lambda p=p: Path(p, "x").write_text("x")) for p in asked["folders"]},
        "overwrites": {
            p: refusal(lambda p=p: Path(p).open("r+b").close()) for p in asked["existing"]
        },
        "limits": {
            name: resource.getrlimit(getattr(resource, f"RLIMIT_{name}"))
            for name in ("CORE", "NPROC", "NOFILE")
        },
        "kills": refusal(lambda: os.kill(1, 9)) or str(Path("/proc/1").exists()),
        "user_namespace": in_a_child(unshare),
        "remount": in_a_child(lambda: mount_over("/usr")),
        "becomes_root": in_a_child(lambda: os.setuid(0)),
    }


def mount_over(path: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"tmpfs", path.encode(), b"tmpfs", 0, b"") != 0:
        raise OSError(ctypes.get_errno(), "mount")


def listen(port: int) -> None:
    """As engines' internals do: on all addresses, for as long as the engine lives."""
    listener = socket.create_server(("0.0.0.0", port))  # noqa: S104  - the point
    listener.set_inheritable(True)
    listener.detach()


if __name__ == "__main__":
    asked = json.loads(bytes.fromhex(sys.argv[1]))
    print(SAID + json.dumps(probe(asked)), flush=True)
    listen(asked["listen"])
    os.execv(sys.executable, [sys.executable, "-m", "tests.fakes.engine", *sys.argv[2:]])  # noqa: S606
