"""The walls round a real vLLM: nothing of it is to be reached, and nothing of it stays."""

import os
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from inference.demo import MODEL_PATH
from inference.node import processes
from inference.provisioners.base import Handle, Observed, Phase, Reason
from tests.inference.node.rig import Rig, rig, spec, wait_for, wait_until
from tests.inference.node.test_walls import engine_below, first_below, need_walls

pytestmark = [pytest.mark.engine, pytest.mark.timeout(3000)]

START_PATIENCE = 900.0  # seconds; 60 on a quiet machine, 250 seen on a busy one
LISTENS = "0A"  # proc(5), net/tcp


@pytest.fixture(scope="module")
def node(engines: Path) -> Iterator[Rig]:
    with rig("", begin=False) as made:
        (made.home / "engines").symlink_to(engines)
        made.start()
        need_walls(made)
        yield made


def up(node: Rig) -> tuple[Handle, Observed]:
    wanted = spec(MODEL_PATH, settings={"max_model_len": 256})
    handle = node.provisioner.ensure(wanted)
    return handle, wait_for(node.provisioner, handle, Phase.READY, START_PATIENCE)


def listeners(pid: int | str) -> list[str]:
    """Inodes of the sockets that listen in the network of this process."""
    tables = [Path(f"/proc/{pid}/net/{name}").read_text() for name in ("tcp", "tcp6")]
    rows = [line.split() for table in tables for line in table.splitlines()[1:]]
    return [row[9] for row in rows if row[3] == LISTENS]


def check_privacy(handle: Handle, shim: int) -> None:
    within = [pid for pid in processes.of_replica(handle.replica_id, None) if pid != shim]
    assert len(within) >= 3  # the first one, the server, its engine process
    assert len(listeners(within[-1])) >= 5  # they are why there are walls
    assert not set(listeners(within[-1])) & set(listeners("self"))
    for pid in within:
        status = Path(f"/proc/{pid}/status").read_text()
        assert set(re.findall(r"^Cap\w+:\t(\w+)$", status, re.MULTILINE)) == {"0" * 16}
        assert "NoNewPrivs:\t1\n" in status
        assert 0 not in psutil.Process(pid).uids() or os.geteuid() != 0
        assert os.readlink(f"/proc/{pid}/ns/net") != os.readlink("/proc/self/ns/net")


def check_sight(node: Rig, handle: Handle, engine: int) -> None:
    mounts = [line.split() for line in Path(f"/proc/{engine}/mountinfo").read_text().splitlines()]
    to_write = {row[4] for row in mounts if "rw" in row[5].split(",")}
    own = {path for path in to_write if handle.replica_id[-12:] in path}
    assert len(own) == 3
    assert {path for path in to_write - own if not path.startswith("/dev/")} == {"/proc", "/tmp"}
    seen = Path(f"/proc/{engine}/root{node.home}")
    assert {path.name for path in seen.iterdir()} == {"engines", "instances", "run"}
    assert {path.name for path in (seen / "run").iterdir()} == {"instances", "t"}


def core_below(shim: int) -> psutil.Process:
    """The process that computes, below the server."""
    return engine_below(shim).children()[-1]


@pytest.mark.parametrize(
    "find",
    [
        engine_below,  # a start takes a minute or two: one of them is for every day
        pytest.param(first_below, marks=pytest.mark.slow),
        pytest.param(core_below, marks=pytest.mark.slow),
    ],
)
def test_it_is_private_and_killed_it_leaves_nothing(
    node: Rig, find: Callable[[int], psutil.Process]
) -> None:
    handle, seen = up(node)
    assert seen.pid is not None
    check_privacy(handle, seen.pid)
    check_sight(node, handle, engine_below(seen.pid).pid)

    find(seen.pid).send_signal(signal.SIGKILL)

    wait_until(lambda: node.provisioner.observe(handle).phase is Phase.EXITED, 60)
    assert node.provisioner.observe(handle).reason is Reason.CRASHED
    assert processes.of_replica(handle.replica_id, seen.pid) == []
