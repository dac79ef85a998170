"""A real supervisor process with the fake engine, and what tests ask of it."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from inference.node import processes
from inference.provisioners.base import Handle, Observed, Phase, Provisioner, Spec, Unavailable
from inference.provisioners.local import LocalProvisioner
from tests.fakes.hub import tiny_model

ROOT = Path(__file__).resolve().parents[3]
FAKE_ENGINE = f"{sys.executable} -m tests.fakes.engine"
PATIENCE = 20.0  # seconds; the machine may be busy


class Rig:
    """One home. The supervisor in it can be killed and started again."""

    def __init__(self, home: Path, command: str = FAKE_ENGINE, **environment: str) -> None:
        self.home = home
        self.model = home / "a-model"
        write_model(self.model)
        self.environment = {"MODELPORT_VLLM_COMMAND": command, **environment}
        self.provisioner = LocalProvisioner(home / "run" / "node.sock")
        self.process: subprocess.Popen[bytes] | None = None
        self.python = sys.executable
        self.before: list[str] = []  # a program of Python's that goes on as the supervisor
        self.user: int | None = None  # ours

    def start(self, *options: str) -> None:
        self.process = subprocess.Popen(
            [self.python, *self.before, "-m", "inference.node", *options],
            cwd=ROOT,
            user=self.user,
            group=self.user,
            extra_groups=None if self.user is None else [],
            env={
                "PATH": os.environ["PATH"],
                "MODELPORT_HOME": str(self.home),
                **self.environment,
            },
        )
        wait_until(self._answers)

    def _answers(self) -> bool:
        assert self.process is not None and self.process.poll() is None, "the supervisor ended"
        try:
            return self.provisioner.check().ok
        except Unavailable:
            return False

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def terminate(self) -> None:
        assert self.process is not None
        self.process.terminate()
        self.process.wait(PATIENCE)

    def close(self) -> None:
        """Remove every replica, then the supervisor; fails if anything is left behind."""
        if self.process is None:
            return
        if self.process.poll() is not None:
            self.start()
        handles = self.provisioner.list()
        for handle in handles:
            self.provisioner.delete(handle)
        for handle in handles:
            wait_for(self.provisioner, handle, Phase.GONE)
        self.terminate()
        for handle in handles:
            assert processes.of_replica(handle.replica_id, None) == []
        left = [p for place in ("run/t", "run/instances") for p in (self.home / place).glob("*")]
        assert left == []

    def spec(self, **changes: object) -> Spec:
        return spec(self.model, **changes)


@contextmanager
def rig(command: str = FAKE_ENGINE, *, begin: bool = True, **environment: str) -> Iterator[Rig]:
    """Not pytest's own folder: socket paths must be short."""
    home = Path(tempfile.mkdtemp(prefix="mpt-"))
    made = Rig(home, command, **environment)
    try:
        if begin:
            made.start()
        yield made
        made.close()
    finally:
        if made.process is not None and made.process.poll() is None:
            made.process.kill()
            made.process.wait()
        end_all(home)
        shutil.rmtree(home)


def end_all(home: Path) -> None:
    """What a failed test has left, by the marks of its own replicas."""
    for folder in (home / "instances").glob("*"):
        for pid in processes.of_replica(folder.name, None):
            processes.send(pid, signal.SIGKILL)


def write_model(folder: Path) -> None:
    folder.mkdir(parents=True)
    for name, content in tiny_model().items():
        (folder / name).write_bytes(content)


def spec(model: Path, **changes: object) -> Spec:
    facts: dict[str, object] = {
        "replica_id": str(uuid4()),
        "instance_id": str(uuid4()),
        "generation": 1,
        "engine": "vllm",
        "model_source": "local",
        "model_id": str(model),
        "model_revision": "",
        "model_path": str(model),
        "served_model_name": "acme-chat",
    }
    return Spec(**(facts | changes))  # type: ignore[arg-type]


def wait_until(true: Callable[[], bool], seconds: float = PATIENCE) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.03)


def wait_for(
    provisioner: Provisioner, handle: Handle, phase: Phase, seconds: float = PATIENCE
) -> Observed:
    """Observe until the phase is there."""
    deadline = time.monotonic() + seconds
    while (seen := provisioner.observe(handle)).phase is not phase:
        assert time.monotonic() < deadline, f"still {seen}"
        assert seen.phase is not Phase.EXITED or phase is Phase.GONE, f"ended: {seen}"
        time.sleep(0.03)
    return seen
