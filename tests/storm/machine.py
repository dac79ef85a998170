"""The processes of a machine, killed one after the other and begun again at once."""

import os
import random
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil

from portal.embedded import EmbeddedProblem, Postgres, Redis
from portal.lib.env import read
from portal.lib.processes import die_with_parent


class Machine:
    """PostgreSQL, Redis, a fake engine, a gateway of two workers, a meter, a Celery worker."""

    def __init__(self, home: Path, seed: int) -> None:
        self.home = home
        self.env = read({"MODELPORT_HOME": str(home)})
        self.env.make_run_dir()
        self.record = home / "engine.jsonl"
        self.record.touch()
        self.draw = random.Random(seed)  # noqa: S311
        self.log = (home / "storm.log").open("wb")
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.kills = 0
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = int(free.getsockname()[1])
        self._given = os.environ | {
            "MODELPORT_HOME": str(home),
            "DATABASE_URL": self.env.database,
            "DATABASE_OWNER_URL": self.env.database_owner,
            "REDIS_URL": self.env.redis,
            "DJANGO_SETTINGS_MODULE": "portal.settings",
            "STORM_RECORD": str(self.record),
        }

    def start(self, prepare: str = "tests.storm.prepare") -> str:
        """Everything; the API key, or whatever else the preparing module says."""
        (self.home / "staticroot").mkdir(exist_ok=True)
        self._begin_postgres()
        self._begin_redis()
        at = str(self.home / "engine.sock")
        flags = ["force-include-usage", "prompt-tokens-details", "request-id-headers"]
        self._python("engine", "tests.storm.engine", "--served-model-name", "demo", "--uds", at,
                     *[f"--enable-{flag}" for flag in flags])  # fmt: skip
        key = subprocess.run(
            [sys.executable, "-m", prepare, f"unix:{at}"],
            env=self._given,
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        ).stdout.strip()
        self._begin("gateway")
        self._begin("meter")
        self._begin("worker")
        return key

    def _begin(self, name: str) -> None:
        if name == "gateway":
            at = ["--workers", "2", "--host", "127.0.0.1", "--port", str(self.port)]
            self._python("gateway", "portal.cli", "gateway", *at)
        elif name == "postgres":
            self._begin_postgres()
        elif name == "redis":
            self._begin_redis()
        else:
            self._python(name, "portal.cli", name)

    def _python(self, name: str, module: str, *arguments: str) -> None:
        self.processes[name] = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            env=self._given,
            stdout=self.log,
            stderr=self.log,
            preexec_fn=die_with_parent,
        )

    def _begin_postgres(self) -> None:
        until = time.monotonic() + 30
        while (
            True
        ):  # those that outlive a killed server for a moment keep the next one from its data
            server = Postgres(self.env)
            server.prepare()
            self.processes["postgres"] = process = server.start(self.log.fileno())
            try:
                server.wait(process)
                return
            except EmbeddedProblem:
                process.kill()
                process.wait()
                if time.monotonic() > until:
                    raise

    def _begin_redis(self) -> None:
        server = Redis(self.env)
        self.processes["redis"] = process = server.start(self.log.fileno())
        server.wait(process)

    def kill_one(self) -> str:
        """`kill -9` of one of them at random; it is begun again at once."""
        name = self.draw.choice(["gateway", "gateway", "meter", "worker", "postgres", "redis"])
        self.kills += 1
        process = self.processes[name]
        if name == "gateway":  # one of its workers; their parent begins another
            self.kill_gateway()
            return name
        process.kill()
        process.wait()
        self._begin(name)
        return name

    def freeze(self, *, thaw: bool = False) -> None:
        """PostgreSQL stands still, or goes on: whoever asks it waits and hears nothing."""
        server = psutil.Process(self.processes["postgres"].pid)
        number = signal.SIGCONT if thaw else signal.SIGSTOP
        for process in [server, *server.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)

    def kill_gateway(self) -> None:
        """One of its workers, with all that it holds."""
        with suppress(psutil.Error, IndexError):
            workers = psutil.Process(self.processes["gateway"].pid).children()
            workers[self.draw.randrange(len(workers))].kill()

    def settle(self) -> None:
        """Stop the gateway, so that all is in the journals, and wait until all is shipped."""
        self._stop("gateway")
        if self.processes["meter"].poll() is not None:
            self._begin("meter")
        until = time.monotonic() + 60
        while any(self.env.journal_dir.glob("*.journal")) and time.monotonic() < until:
            time.sleep(0.1)

    def books_are_sound(self) -> bool:
        """As `modelport ledger verify` finds them."""
        argv = [sys.executable, "-m", "portal.cli", "ledger", "verify"]
        done = subprocess.run(argv, env=self._given, stdout=self.log, stderr=self.log, check=False)
        return done.returncode == 0

    def _stop(self, name: str) -> None:
        process = self.processes[name]
        process.send_signal(signal.SIGINT if name == "postgres" else signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def stop(self) -> None:
        for name in ("gateway", "worker", "meter", "engine", "redis", "postgres"):
            if name in self.processes:
                self._stop(name)
        self.log.close()
