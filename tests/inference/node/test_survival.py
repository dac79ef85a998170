"""Engines outlive their supervisor, and nothing outlives an engine."""

import json
import os
import shlex
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import httpx2
import psutil
import pytest

from inference.node import processes
from inference.provisioners.base import Handle, Observed, Phase, Reason
from tests.inference.node.rig import FAKE_ENGINE, ROOT, Rig, rig, wait_for, wait_until


def up(node: Rig, **changes: object) -> tuple[Handle, Observed]:
    handle = node.provisioner.ensure(node.spec(**changes))
    return handle, wait_for(node.provisioner, handle, Phase.READY)


def engine_of(seen: Observed) -> psutil.Process:
    """The engine itself, below its shim and the first process of its walls."""
    assert seen.pid is not None
    (engine,) = engines_of(seen.pid)
    return engine


def engines_of(shim: int) -> list[psutil.Process]:
    below = psutil.Process(shim).children()
    walls = [p for p in below if p.cmdline() == psutil.Process(shim).cmdline()]
    return [*(p for p in below if p not in walls), *(c for p in walls for c in p.children())]


def answers(seen: Observed) -> bool:
    transport = httpx2.HTTPTransport(uds=seen.address.removeprefix("unix:"))
    with httpx2.Client(transport=transport, base_url="http://engine") as client:
        return client.get("/health").status_code == 200


def ended(node: Rig, handle: Handle) -> Observed:
    wait_until(lambda: node.provisioner.observe(handle).phase is Phase.EXITED)
    return node.provisioner.observe(handle)


@pytest.mark.parametrize("how", [Rig.kill, Rig.terminate])
def test_a_restarted_supervisor_finds_its_engines_serving(node: Rig, how: object) -> None:
    handle, before = up(node)

    how(node)  # type: ignore[operator]
    assert answers(before)
    node.start()

    after = node.provisioner.observe(handle)
    assert after.phase is Phase.READY
    assert (after.pid, after.address, after.probe) == (before.pid, before.address, before.probe)


def test_an_engine_killed_is_noticed_at_once_and_said_to_be_killed(node: Rig) -> None:
    handle, seen = up(node)

    engine_of(seen).kill()

    after = ended(node, handle)
    assert after.exit_code == -signal.SIGKILL
    assert after.reason is Reason.CRASHED and after.message and after.log_tail
    assert processes.of_replica(handle.replica_id, seen.pid) == []


def test_an_adopted_engine_that_is_killed_is_noticed_too(node: Rig) -> None:
    handle, seen = up(node)
    node.kill()
    node.start()

    engine_of(seen).kill()

    assert ended(node, handle).exit_code == -signal.SIGKILL


def test_an_engine_that_ended_unwatched_leaves_its_exit_code(node: Rig) -> None:
    handle, seen = up(node)
    node.kill()
    engine_of(seen).send_signal(signal.SIGABRT)
    wait_until(lambda: not processes.of_replica(handle.replica_id, seen.pid))

    node.start()

    assert ended(node, handle).exit_code == -signal.SIGABRT


def test_an_engine_dies_with_its_shim(node: Rig) -> None:
    handle, seen = up(node)
    engine = engine_of(seen)

    psutil.Process(seen.pid).kill()

    after = ended(node, handle)
    assert after.exit_code is None and after.reason is Reason.CRASHED
    assert not engine.is_running() or engine.status() == psutil.STATUS_ZOMBIE


def test_a_reused_pid_is_not_taken_for_the_engine(node: Rig) -> None:
    handle, seen = up(node)
    node.kill()
    state = node.home / "instances" / handle.replica_id / "state.json"
    record = json.loads(state.read_text())
    engine_of(seen).kill()
    wait_until(lambda: not processes.of_replica(handle.replica_id, seen.pid))
    bystander = subprocess.Popen(["sleep", "60"])
    record["shim"]["pid"] = bystander.pid
    state.write_text(json.dumps(record))

    node.start()

    assert ended(node, handle).phase is Phase.EXITED
    assert bystander.poll() is None
    bystander.kill()
    bystander.wait()


def test_an_engine_that_ignores_the_polite_signal_is_ended_all_the_same() -> None:
    with rig(f"env FAKE_ENGINE_IGNORE_TERM=1 {FAKE_ENGINE}") as node:
        handle, seen = up(node)

        node.provisioner.stop(handle, grace=0.3)

        assert node.provisioner.observe(handle).phase is Phase.STOPPING
        after = ended(node, handle)
        assert after.exit_code == -signal.SIGKILL and after.reason is Reason.CANCELLED
        assert processes.of_replica(handle.replica_id, seen.pid) == []


@pytest.mark.parametrize("end", ["stop", "delete", "crash"])
def test_what_an_engine_started_in_a_session_of_its_own_ends_with_it(end: str) -> None:
    stray = f"""sh -c 'setsid sleep 987 & exec {FAKE_ENGINE} "$@"' engine"""
    with rig(stray) as node:
        handle, seen = up(node)
        assert seen.pid is not None
        known = [psutil.Process(pid) for pid in processes.of_replica(handle.replica_id, None)]
        assert [p for p in known if p.cmdline() == ["sleep", "987"]]

        if end == "crash":
            (engine,) = (p for p in engines_of(seen.pid) if "sleep" not in p.cmdline())
            engine.kill()
        else:
            getattr(node.provisioner, end)(handle)

        wait_until(lambda: not processes.of_replica(handle.replica_id, seen.pid))


SHARING = """
import os, sys
from multiprocessing.shared_memory import SharedMemory
kept = SharedMemory(create=True, size=4096)
print("shared", kept.name, flush=True)
if os.fork():
    os.execv(sys.executable, [sys.executable, "-m", "tests.fakes.engine", *sys.argv[1:]])
os.setsid()
import time; time.sleep(987)
"""


@pytest.mark.parametrize("end", ["stop", "delete"])
def test_shared_memory_is_released_with_whoever_held_it(end: str) -> None:
    # Within walls it is the engine's alone, and ends with them.
    with rig(f"{sys.executable} -c {shlex.quote(SHARING)}", ENGINE_WALLS="off") as node:
        handle, seen = up(node)
        (line,) = (
            line
            for line in node.provisioner.logs(handle).text.splitlines()
            if line.startswith("shared ")
        )
        memory = Path("/dev/shm") / line.removeprefix("shared ")
        assert memory.exists()

        getattr(node.provisioner, end)(handle)

        wait_until(lambda: not processes.of_replica(handle.replica_id, seen.pid))
        wait_until(lambda: not memory.exists())


def test_deleting_takes_process_socket_and_every_file(node: Rig) -> None:
    handle, seen = up(node)
    (scratch,) = (node.home / "run" / "t").iterdir()

    node.provisioner.delete(handle)
    wait_for(node.provisioner, handle, Phase.GONE)

    assert processes.of_replica(handle.replica_id, seen.pid) == []
    assert not scratch.exists()
    assert [p for p in node.home.rglob("*") if handle.replica_id in str(p)] == []


def test_a_deletion_cut_off_is_finished_by_the_next_supervisor() -> None:
    with rig(f"env FAKE_ENGINE_IGNORE_TERM=1 {FAKE_ENGINE}") as node:
        handle, seen = up(node)
        node.provisioner.delete(handle)
        node.kill()

        node.start()

        wait_for(node.provisioner, handle, Phase.GONE)
        assert processes.of_replica(handle.replica_id, seen.pid) == []


def test_a_start_cut_off_before_the_pid_was_written_is_taken_up(node: Rig) -> None:
    handle, seen = up(node)
    node.kill()
    state = node.home / "instances" / handle.replica_id / "state.json"
    record = json.loads(state.read_text())
    record |= {"shim": None, "launching": True, "phase": "loading", "stage": "starting"}
    state.write_text(json.dumps(record | {"ready_at": None}))

    node.start()

    after = wait_for(node.provisioner, handle, Phase.READY)
    assert after.pid == seen.pid


def test_an_unreadable_record_leaves_no_engine_behind(node: Rig) -> None:
    handle, seen = up(node)
    node.kill()
    (node.home / "instances" / handle.replica_id / "state.json").write_text("{")

    node.start()

    wait_until(lambda: not processes.of_replica(handle.replica_id, seen.pid))
    assert node.provisioner.observe(handle).phase is Phase.GONE


def test_after_a_restart_of_the_machine_the_engine_is_lost_not_crashed(node: Rig) -> None:
    handle, seen = up(node)
    node.kill()
    state = node.home / "instances" / handle.replica_id / "state.json"
    record = json.loads(state.read_text())
    psutil.Process(seen.pid).kill()
    record["shim"]["boot"] = "another boot"
    state.write_text(json.dumps(record))

    node.start()

    assert ended(node, handle).reason is Reason.NODE_LOST


def test_stopping_and_deleting_in_the_middle_of_the_start_leaves_nothing(node: Rig) -> None:
    handles = [node.provisioner.ensure(node.spec()) for _ in range(6)]
    for number, handle in enumerate(handles):
        time.sleep(0.01 * number)
        node.provisioner.stop(handle, grace=0.1)
        node.provisioner.delete(handle)

    for handle in handles:
        wait_for(node.provisioner, handle, Phase.GONE)
        assert processes.of_replica(handle.replica_id, None) == []


def test_an_engine_that_cannot_be_installed_says_why() -> None:
    away = {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull, "MODELPORT_TORCH_CPU_INDEX": ""}
    with rig(command="", **away) as node:
        handle = node.provisioner.ensure(node.spec())

        after = ended(node, handle)

        assert after.reason is Reason.IMAGE_ERROR and "torch==2.13.0+cpu" in after.message
        engines = {engine.name: engine for engine in node.provisioner.check().engines}
        engine = engines["vllm"]
        assert not engine.installed and "torch" in engine.message


def test_asked_to_the_supervisor_takes_its_engines_along() -> None:
    with rig() as node:
        node.terminate()
        node.start("--stop-engines")
        handle, seen = up(node)

        node.terminate()

        assert processes.of_replica(handle.replica_id, seen.pid) == []
        node.start()
        assert ended(node, handle).reason is Reason.NODE_LOST


def test_an_engine_that_cannot_start_says_why() -> None:
    words = "ValueError: Model architectures [Abacus] are not supported for now"
    command = f"env FAKE_ENGINE_EXIT_CODE=3 'FAKE_ENGINE_LOG={words}' {FAKE_ENGINE}"
    with rig(command) as node:
        handle = node.provisioner.ensure(node.spec())

        after = ended(node, handle)

        assert after.exit_code == 3 and after.reason is Reason.BAD_ARGUMENTS
        assert "architecture" in after.message
        assert words in "\n".join(after.log_tail)


def test_a_launch_command_that_is_not_there_says_so() -> None:
    with rig("/nowhere/vllm") as node:
        handle = node.provisioner.ensure(node.spec())

        after = ended(node, handle)

        assert after.exit_code == 127 and after.reason is Reason.IMAGE_ERROR


def test_there_is_one_supervisor_per_home(node: Rig) -> None:
    second = subprocess.run(
        [sys.executable, "-m", "inference.node"],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "MODELPORT_HOME": str(node.home)},
        capture_output=True,
        timeout=20,
    )

    assert second.returncode == 1
    assert node.provisioner.check().ok


def test_sockets_and_records_are_private(node: Rig) -> None:
    handle, seen = up(node)
    socket = Path(seen.address.removeprefix("unix:"))

    def mode(path: Path) -> int:
        return stat.S_IMODE(path.stat().st_mode)

    assert mode(node.home / "run" / "node.sock") == 0o600
    assert mode(socket.parent) == 0o700
    assert mode(node.home / "instances" / handle.replica_id / "state.json") == 0o600


def test_an_engine_sees_nothing_of_the_portals_environment() -> None:
    secrets = {"SECRET_KEY": "s3cret", "DATABASE_URL": "postgresql://x/y", "HF_TOKEN": "hf_x"}
    with rig(**secrets) as node:
        _, seen = up(node)

        environment = engine_of(seen).environ()

        assert not set(environment) & set(secrets)
        assert not [name for name in environment if "MODELPORT_HOME" in name]


def test_a_line_that_is_no_request_is_answered_and_survived(node: Rig) -> None:
    for line in (b"{}\n", b"nonsense\n", b'{"method":"stop","params":{}}\n'):
        assert b"fault" in node.provisioner._exchange(line)

    assert node.provisioner.check().ok
