"""The processes that are killed: PostgreSQL, Redis, two gateways on one port, meter, worker.

As `modelport up` has them, each started again at once when it dies. The engine is the only one that
lives through it all, in the process that watches: its record is what the others are held against.
"""

import asyncio
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random

import psutil

from inference.gateway import journal
from portal.embedded import Postgres, Redis
from portal.lib.env import Environment
from portal.lib.processes import die_with_parent

LOOK_EVERY = 0.02  # seconds
# How often each is chosen. What is killed of PostgreSQL is its head, of the worker head or child.
TARGETS = {"gateway-1": 3, "gateway-2": 3, "meter": 5, "worker": 2, "postgres": 4, "redis": 3}


@dataclass
class Actor:
    """One process, and how it is started."""

    name: str
    start: Callable[[], "subprocess.Popen[bytes]"]
    process: "subprocess.Popen[bytes]"

    def look(self) -> None:
        if self.process.poll() is not None:
            self.process = self.start()

    def stop(self, by: signal.Signals, seconds: float) -> int:
        """Its exit status. Raises TimeoutExpired."""
        self.process.send_signal(by)
        return self.process.wait(seconds)


class Scene:
    def __init__(self, env: Environment, port: int, draw: Random) -> None:
        self.env, self.port, self.draw = env, port, draw
        self.actors: dict[str, Actor] = {}
        self.kills: Counter[str] = Counter()
        self.kept = env.home / "kept"  # every journal there ever was, by a second name
        self.kept.mkdir()
        self._logs = env.home / "logs"
        self._logs.mkdir()
        self._stopping = False

    def start_servers(self) -> None:
        postgres, redis = Postgres(self.env), Redis(self.env)
        postgres.prepare()
        self._add("postgres", lambda: postgres.start(self._log("postgres")))
        postgres.wait(self.actors["postgres"].process)
        self._add("redis", lambda: redis.start(self._log("redis")))
        redis.wait(self.actors["redis"].process)

    def start_ours(self) -> None:
        port = ("--host", "127.0.0.1", "--port", str(self.port))
        self._add("gateway-1", lambda: self._command("gateway-1", "gateway", *port))
        self._add("gateway-2", lambda: self._command("gateway-2", "gateway", *port))
        self._add("meter", lambda: self._command("meter", "meter"))
        self._add("worker", lambda: self._command("worker", "worker"))

    def _add(self, name: str, start: Callable[[], "subprocess.Popen[bytes]"]) -> None:
        self.actors[name] = Actor(name, start, start())

    def _command(self, name: str, *arguments: str) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            [sys.executable, "-m", "portal.cli", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=(log := self._log(name)),
            stderr=log,
            start_new_session=True,
            preexec_fn=die_with_parent,
        )

    def _log(self, name: str) -> int:
        return os.open(self._logs / f"{name}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    async def watch(self) -> None:
        """Start again what dies; keep journals from being forgotten."""
        while not self._stopping:
            self.keep_journals()
            for actor in self.actors.values():
                actor.look()
            await asyncio.sleep(LOOK_EVERY)

    def keep_journals(self) -> None:
        for path in journal.files(self.env.journal_dir):
            with suppress(FileExistsError, FileNotFoundError):
                os.link(path, self.kept / path.name)

    def kill_one(self) -> str:
        """kill -9 of something; what it was."""
        name = self.draw.choices(list(TARGETS), list(TARGETS.values()))[0]
        head = psutil.Process(self.actors[name].process.pid)
        victims = [head]
        with suppress(psutil.NoSuchProcess):
            if name == "worker":
                victims += head.children()
            victim = self.draw.choice(victims)
            victim.kill()
            self.kills[name] += 1
        return name

    def end(self) -> None:
        """Gateways first, then the meter ships what is left. PostgreSQL stays."""
        self._stopping = True
        for actor in self.actors.values():  # who was killed just now
            actor.look()
        for name, seconds in (("gateway-1", 40), ("gateway-2", 40)):
            self.actors.pop(name).stop(signal.SIGTERM, seconds)
        self.keep_journals()
        self.actors.pop("meter").stop(signal.SIGTERM, 60)
        self.actors.pop("worker").stop(signal.SIGTERM, 30)

    def close(self) -> None:
        self._stopping = True
        for actor in self.actors.values():
            by = signal.SIGINT if actor.name == "postgres" else signal.SIGTERM
            try:
                actor.stop(by, 30)
            except subprocess.TimeoutExpired:
                actor.stop(signal.SIGKILL, 30)

    def orphans(self) -> list[str]:
        """Processes of this home that nobody waits for any more."""
        ours = {actor.process.pid for actor in self.actors.values()} | {os.getpid()}
        found = []
        for process in psutil.process_iter(["pid", "ppid", "environ", "cmdline", "status"]):
            home = (process.info["environ"] or {}).get("MODELPORT_HOME")
            alive = process.info["status"] != psutil.STATUS_ZOMBIE
            known = ours & {process.info["pid"], process.info["ppid"]}
            if alive and home == str(self.env.home) and not known:
                found.append(f"{process.info['pid']} {' '.join(process.info['cmdline'] or [])}")
        return found


def admitted(folder: Path) -> set[str]:
    """The ids of all requests that any journal admitted."""
    from uuid import UUID  # noqa: PLC0415

    from billing.usage_record import Admit  # noqa: PLC0415

    return {
        str(UUID(bytes=record.request_id))
        for _, record in journal.records(folder)
        if isinstance(record, Admit)
    }
