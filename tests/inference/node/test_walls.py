"""What an engine sees and may within its walls, and that nothing of it stays."""

import json
import os
import resource
import signal
import site
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
import pytest

from inference.node import processes
from inference.provisioners.base import Phase, Reason
from portal.lib.env import read
from tests.inference.node import prober
from tests.inference.node.rig import FAKE_ENGINE, ROOT, Rig, rig, wait_for, wait_until

NOBODY = 65534
NO_CAPABILITIES = "0" * 16


@dataclass
class Probed:
    """Two engines of one supervisor, and what the second saw. The other one was there first."""

    node: Rig
    facts: dict[str, Any]
    shim: int
    replica_id: str
    other_id: str
    asked: dict[str, Any]


@pytest.fixture(scope="module", params=["root", "nobody"])
def probed(request: pytest.FixtureRequest) -> Iterator[Probed]:
    everywhere = ("0.0.0.0", 0)  # noqa: S104  - what can be reached, should be
    with socket.create_server(everywhere) as listener, as_user(request.param) as node:
        other_id, replica_id = str(uuid4()), str(uuid4())
        asked = what_to_ask(node, other_id, listener.getsockname()[1])
        node.environment["MODELPORT_VLLM_COMMAND"] += f" {json.dumps(asked).encode().hex()}"
        node.start()
        need_walls(node)
        with socket.socket(socket.AF_UNIX) as database:
            lay_traps(node, database)
            for name in (other_id, replica_id):
                handle = node.provisioner.ensure(node.spec(replica_id=name))
                seen = wait_for(node.provisioner, handle, Phase.READY)
            (line,) = (
                line.removeprefix(prober.SAID)
                for line in node.provisioner.logs(handle, limit=1 << 20).text.splitlines()
                if line.startswith(prober.SAID)
            )
            assert seen.pid is not None
            yield Probed(node, json.loads(line), seen.pid, replica_id, other_id, asked)


@contextmanager
def as_user(name: str) -> Iterator[Rig]:
    """A supervisor that is not started yet, of this user."""
    python = sys.executable if name == "root" else python_for_nobody()
    command = f"{python} -m tests.inference.node.prober"
    libraries = f"{ROOT}:{site.getsitepackages()[0]}"
    if name == "nobody":
        command = f"env PYTHONPATH={libraries} {command}"
    with rig(command, begin=False) as node:
        if name == "nobody":
            node.python, node.user = python, NOBODY
            node.environment |= {"PYTHONPATH": libraries, "HOME": "/nonexistent"}
            subprocess.run(["chown", "-R", f"{NOBODY}:{NOBODY}", str(node.home)], check=True)
        yield node


def python_for_nobody() -> str:
    """An interpreter of our version that another user may start with our libraries."""
    if os.geteuid() != 0:
        pytest.skip("only root can start a supervisor as another user")
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for python in (sys.executable, f"/usr/bin/{version}", f"/usr/local/bin/{version}"):
        tried = subprocess.run(
            [
                "env",
                f"PYTHONPATH={site.getsitepackages()[0]}",
                python,
                "-c",
                "import msgspec, httpx2",
            ],
            cwd="/",
            capture_output=True,
            user=NOBODY,
            group=NOBODY,
            extra_groups=[],
        )
        if tried.returncode == 0 and os.access(ROOT, os.R_OK):
            return python
    pytest.skip("the user nobody may start no Python of our version here")


def need_walls(node: Rig) -> None:
    (machine,) = node.provisioner.check().nodes
    assert machine.walls is not None
    if not machine.walls.up:
        pytest.skip(machine.walls.message)


def what_to_ask(node: Rig, other_id: str, port: int) -> dict[str, Any]:
    real = read(os.environ)  # of this test run: a real PostgreSQL, a real Redis
    run = node.home / "run"
    other = run / "instances" / other_id / "engine.sock"
    return {
        "home": str(node.home),
        "port": port,
        "listen": free_port(),
        "addresses": ["127.0.0.1", "192.0.2.1", "8.8.8.8"],
        "sockets": [
            *(str(path) for path in (other, run / "node.sock", run / "pg" / ".s.PGSQL.5432")),
            str(real.embedded_postgres_socket_dir / ".s.PGSQL.5432"),
            str(real.embedded_redis_socket),
        ],
        "paths": [
            *(str(node.home / name) for name in ("secrets/key", "journal/1.journal", "node.lock")),
            *(str(path) for path in (other, real.home, "/root/.profile", "/var/lib", "/boot")),
            *("/etc/shadow", "/etc/ssh", "/dev/sda", "/dev/mem", "/sys/fs", "/run/systemd"),
        ],
        "folders": [str(node.model), "/usr", "/", "/etc", "/dev", str(ROOT), "/sys/devices/system"],
        "existing": [str(node.model / "config.json"), "/etc/passwd", "/proc/sys/kernel/hostname"],
    }


def lay_traps(node: Rig, database: socket.socket) -> None:
    """What `modelport up` would have in this home."""
    for name in ("secrets", "journal", "run/pg"):
        (node.home / name).mkdir(mode=0o755)
    (node.home / "secrets" / "key").write_text("s3cret")
    (node.home / "journal" / "1.journal").write_text("usage")
    database.bind(str(node.home / "run" / "pg" / ".s.PGSQL.5432"))
    database.listen()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


def test_it_has_no_rights_and_no_way_to_any(probed: Probed) -> None:
    status = probed.facts["status"]

    assert {status[f"Cap{kind}"] for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {
        NO_CAPABILITIES
    }
    assert status["NoNewPrivs"] == "1"
    assert probed.facts["user_namespace"] in ("ENOSPC", "EPERM")
    assert probed.facts["remount"] == "EPERM"
    assert probed.facts["becomes_root"] in ("EPERM", "EINVAL")


def test_it_is_a_user_of_its_own(probed: Probed) -> None:
    def users(replica_id: str) -> set[int]:
        pids = [pid for pid in processes.of_replica(replica_id, None) if inside(pid)]
        return {uid for pid in pids for uid in psutil.Process(pid).uids()}

    mine, others = users(probed.replica_id), users(probed.other_id)

    if probed.node.user == NOBODY:
        assert mine == others == {NOBODY}
    else:
        assert len(mine) == len(others) == 1 and not mine & others
        assert 0 not in mine | others


def test_it_dumps_no_core_and_has_an_end_of_processes(probed: Probed) -> None:
    limits = probed.facts["limits"]

    assert limits["CORE"] == [0, 0]
    assert 0 < limits["NPROC"][0] == limits["NPROC"][1] <= max(4096, 64 * (os.cpu_count() or 1))
    assert limits["NOFILE"][1] >= resource.getrlimit(resource.RLIMIT_NOFILE)[1]  # not lowered


def test_it_sees_no_process_but_its_own(probed: Probed) -> None:
    assert probed.facts["pids"] == [1, 2]
    assert probed.facts["kills"] == "True"  # the first process cannot be killed from within
    assert probed.facts["host"] == "engine"


def test_it_sees_no_file_of_ours_but_its_model_and_its_own(probed: Probed) -> None:
    home = probed.node.home
    own = {probed.replica_id, probed.replica_id[-12:]}

    files = [Path(path) for path in probed.facts["files"] if Path(path).is_file()]
    folders = [Path(p) for p in probed.facts["files"] if p.endswith(tuple(own))]

    assert {path.parent for path in files if probed.node.model not in path.parents} <= {
        home / "run" / "instances" / probed.replica_id
    }
    assert {path.relative_to(home).parent.as_posix() for path in folders} == {
        "instances",
        "run/instances",
        "run/t",
    }
    assert not [path for path in probed.facts["files"] if probed.other_id in path]
    assert probed.facts["exists"] == []


def test_it_sees_little_of_the_machine(probed: Probed) -> None:
    assert set(probed.facts["etc"]) <= {
        *("passwd", "group", "hosts", "nsswitch.conf", "alternatives", "localtime", "timezone"),
        *("ld.so.cache", "ld.so.conf", "ld.so.conf.d"),
    }
    assert set(probed.facts["dev"]) == {
        *("null", "zero", "full", "random", "urandom", "shm"),
        *("fd", "stdin", "stdout", "stderr"),
    }
    assert probed.facts["shared_memory"] == []


def test_it_reaches_nobody(probed: Probed) -> None:
    assert set(probed.facts["interfaces"]) == {"all", "default", "lo"}
    assert probed.facts["tcp"] == {
        "127.0.0.1": "ECONNREFUSED",  # its own loopback: the test listens on the host's
        "192.0.2.1": "ENETUNREACH",
        "8.8.8.8": "ENETUNREACH",
    }
    assert set(probed.facts["unix"].values()) == {"ENOENT"}


def test_it_can_write_to_nothing_that_it_shares(probed: Probed) -> None:
    assert set(probed.facts["writes"].values()) <= {"EROFS", "EACCES", "EPERM"}
    assert set(probed.facts["overwrites"].values()) <= {"EROFS", "EACCES", "EPERM"}


def test_its_ports_are_not_on_the_host(probed: Probed) -> None:
    port = probed.asked["listen"]  # both engines listen on it, each in its own network

    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), 2)
    listening = Path(f"/proc/{engine_below(probed.shim).pid}/net/tcp").read_text()
    assert f":{port:04X} 00000000:0000 0A" in listening


def inside(pid: int) -> bool:
    """Whether it is in a PID namespace below ours."""
    ours, its = (os.readlink(f"/proc/{who}/ns/pid") for who in ("self", pid))
    return ours != its


def first_below(shim: int) -> psutil.Process:
    """The first process of the walls."""
    (first,) = psutil.Process(shim).children()
    return first


def engine_below(shim: int) -> psutil.Process:
    (engine,) = first_below(shim).children()
    return engine


STRAYS = f"""sh -c 'setsid sleep 986 & (setsid sleep 986 &) ; exec {FAKE_ENGINE} "$@"' engine"""


@pytest.mark.parametrize("victim", ["shim", "first", "engine"])
def test_whichever_process_is_killed_none_is_left(victim: str) -> None:
    with rig(STRAYS) as node:
        need_walls(node)
        handle = node.provisioner.ensure(node.spec())
        seen = wait_for(node.provisioner, handle, Phase.READY)
        assert seen.pid is not None
        victims = {"shim": psutil.Process(seen.pid), "first": first_below(seen.pid)}
        victims["engine"] = next(p for p in victims["first"].children() if "--uds" in p.cmdline())
        all_of_it = processes.of_replica(handle.replica_id, seen.pid)
        assert len(all_of_it) == 5
        node.kill()  # nobody helps

        victims[victim].kill()

        wait_until(lambda: not processes.of_replica(handle.replica_id, seen.pid), 5)


@pytest.mark.timeout(400)
def test_engines_killed_twenty_times_leave_nothing_and_start_again(node: Rig) -> None:
    for _ in range(4):
        handles = [node.provisioner.ensure(node.spec()) for _ in range(5)]
        for handle in handles:
            seen = wait_for(node.provisioner, handle, Phase.READY, 60)
            assert seen.pid is not None
            engine_of = engine_below if inside(first_below(seen.pid).pid) else first_below

            engine_of(seen.pid).send_signal(signal.SIGKILL)

            wait_until(lambda: node.provisioner.observe(handle).phase is Phase.EXITED)  # noqa: B023
            after = node.provisioner.observe(handle)
            assert after.exit_code == -signal.SIGKILL and after.reason is Reason.CRASHED
            assert processes.of_replica(handle.replica_id, seen.pid) == []
            node.provisioner.delete(handle)
