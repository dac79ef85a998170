"""All processes of a machine, each replaced by a new one as a deploy does."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import psycopg

from inference.node import processes
from tests.storm.machine import Machine

FAKE_ENGINE = f"{sys.executable} -m tests.fakes.engine"
READY = 900.0  # seconds; a real engine on a busy machine takes its time
START = 300.0
# In the order of a deploy. The gateway's new workers come before the old ones go.
DEPLOYED = ("gateway", "web", "meter", "worker", "beat", "controller", "node")


class Fleet(Machine):
    """PostgreSQL, Redis, and all of Modelport; the node runs one engine, a fake one or vLLM."""

    def __init__(self, home: Path, *, real: bool) -> None:
        super().__init__(home, seed=0)
        self._given |= {"PORT": str(self.port + 1)}  # the pages'
        if real:
            (home / "engines").symlink_to(Path.home() / ".modelport" / "engines")
        else:
            self._given |= {"MODELPORT_VLLM_COMMAND": FAKE_ENGINE}
        self.leaving: list[subprocess.Popen[bytes]] = []

    def start(self) -> str:
        """Everything, until the engine is ready; the API key."""
        (self.home / "staticroot").mkdir(exist_ok=True)
        self._begin_postgres()
        self._begin_redis()
        prepare = [sys.executable, "-m", "tests.rolling.prepare"]
        key = subprocess.run(
            prepare, env=self._given, check=True, stdout=subprocess.PIPE, text=True
        ).stdout.strip()
        for name in DEPLOYED:
            self._begin(name)
        wait_until(self._serves, READY)
        wait_until(lambda: self._listens(self.processes["gateway"]), START)
        return key

    def deploy(self) -> None:
        """Every process but the engine is a new one afterwards; the old gateway may still be busy
        with its streams."""
        for name in DEPLOYED:
            old = self.processes[name]
            if name != "gateway":
                self._stop(name)
                self._begin(name)
                continue
            self._begin(name)
            wait_until(lambda: self._listens(self.processes["gateway"]), START)
            old.send_signal(signal.SIGTERM)
            self.leaving.append(old)

    def engine(self) -> dict[int, float]:
        """Its processes, each with its start time."""
        (folder,) = (self.home / "instances").iterdir()
        shim = json.loads((folder / "state.json").read_text())["shim"]["pid"]
        pids = processes.of_replica(folder.name, shim)
        return {pid: psutil.Process(pid).create_time() for pid in sorted(pids)}

    def drained(self) -> None:
        """Until the old gateways have ended of their own."""
        for old in self.leaving:
            old.wait(120)

    def stop(self) -> None:
        for name in ("gateway", "web", "beat", "controller", "worker"):
            self._stop_if_there(name)
        if "node" in self.processes:
            self.processes["node"].terminate()
            self.processes["node"].wait(30)
            self._python("node", "portal.cli", "node", "--stop-engines")
            wait_until((self.home / "run" / "node.sock").exists, START)
            time.sleep(1)
            self._stop_if_there("node")
        for name in ("meter", "redis", "postgres"):
            self._stop_if_there(name)
        self.log.close()

    def rows(self) -> dict[str, tuple[int, int]]:
        """Prompt and completion tokens, by request."""
        with psycopg.connect(self.env.database) as connection:
            rows = connection.execute(
                "SELECT request_id, prompt_tokens, completion_tokens FROM billing_usage"
            ).fetchall()
        return {str(id_): (prompt, completion) for id_, prompt, completion in rows}

    def _stop_if_there(self, name: str) -> None:
        if name in self.processes:
            self._stop(name)

    def _serves(self) -> bool:
        with psycopg.connect(self.env.database) as connection:
            found = connection.execute(
                "SELECT count(*) FROM inference_replica WHERE state = 'ready'"
            ).fetchone()
        return bool(found and found[0])

    def _listens(self, gateway: "subprocess.Popen[bytes]") -> bool:
        """Whether all of its workers do."""
        workers = psutil.Process(gateway.pid).children()
        return len(workers) == 2 and all(self._has_port(worker) for worker in workers)

    def _has_port(self, worker: psutil.Process) -> bool:
        return any(
            one.status == psutil.CONN_LISTEN and one.laddr.port == self.port
            for one in worker.net_connections("tcp4")
        )


def wait_until(true: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            raise TimeoutError("it did not happen in time")
        time.sleep(0.1)
