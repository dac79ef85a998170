"""Downloads for the replicas of this machine: one at a time of a model, seen by all who wait.

Each waits for its turn and then asks for itself: what is there by then costs nothing, what the one
before did not finish (it was stopped, or its token was refused) is taken up.
"""

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import structlog

from inference.node import fetch, stock
from inference.node.fetch import NoRoom
from inference.node.store import Choice
from inference.node.weights import WeightsProblem
from inference.provisioners.base import Progress, Reason
from portal.lib.env import Environment

TIDYING = 3600.0  # seconds
PASSED_ON = ("PATH", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH")

Tell = Callable[[Progress], None]

log = structlog.get_logger(__name__)


@dataclass
class _Turns:
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    listeners: list[Tell] = field(default_factory=list)

    def tell(self, progress: Progress) -> None:
        for listener in self.listeners:
            listener(progress)


class Downloads:
    def __init__(self, env: Environment) -> None:
        self.env = env
        self._turns: dict[Choice, _Turns] = {}

    async def fetch(self, choice: Choice, token: str, tell: Tell) -> str:
        """The folder with the model, which is on this machine then. Raises WeightsProblem."""
        with self._listening(choice, tell) as turns:
            async with turns.lock:
                try:
                    return await self._run(choice, token, turns.tell)
                except NoRoom as problem:
                    if not await self._made_room(problem.short):
                        raise
                return await self._run(choice, token, turns.tell)

    @contextlib.contextmanager
    def _listening(self, choice: Choice, tell: Tell) -> Iterator[_Turns]:
        turns = self._turns.setdefault(choice, _Turns())
        turns.listeners.append(tell)
        try:
            yield turns
        finally:
            turns.listeners.remove(tell)
            if not turns.listeners:
                del self._turns[choice]

    async def _run(self, choice: Choice, token: str, tell: Tell) -> str:
        async with self._fetcher(choice, token) as fetcher:
            assert fetcher.stdout is not None  # noqa: S101  - asked for below
            async for line in fetcher.stdout:
                said = json.loads(line)
                if "path" in said:
                    return str(said["path"])
                if "reason" in said:
                    raise _problem(said)
                tell(Progress(said["done"], said["total"], "bytes", said["seconds_left"]))
        raise WeightsProblem(
            Reason.CRASHED, "The download ended unexpectedly; starting again resumes it."
        )

    @contextlib.asynccontextmanager
    async def _fetcher(
        self, choice: Choice, token: str
    ) -> AsyncIterator[asyncio.subprocess.Process]:
        chosen = [choice.model_file] if choice.model_file else []
        fetcher = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", fetch.__name__, choice.repository, choice.revision),
            *(str(self.env.home / "models"), *chosen),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,  # progress bars; what matters is said on stdout
            env=self._variables(token),
        )
        try:
            yield fetcher
        finally:
            if fetcher.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    fetcher.kill()
                await fetcher.wait()

    def _variables(self, token: str) -> dict[str, str]:
        passed = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        proxies = {name: v for name, v in os.environ.items() if name.lower().endswith("_proxy")}
        return (
            passed
            | proxies
            | {"HF_ENDPOINT": self.env.hf_endpoint, "HF_HUB_DISABLE_TELEMETRY": "1"}
            | {"HF_HOME": str(self.env.home / "cache" / "hub"), "HF_HUB_DISABLE_SHARED_BLOBS": "1"}
            | {"MODELPORT_MODELS": os.pathsep.join(str(f) for f in self.env.model_folders)}
            | {"PYTHONPATH": str(Path(__file__).parents[2])}
            | ({"HF_TOKEN": token} if token else {})
        )

    async def _made_room(self, missing: int) -> bool:
        try:
            return await asyncio.to_thread(stock.make_room, self.env.home, missing)
        except msgspec.DecodeError as error:
            log.warning("models.unknown_users", error=str(error))
            return False

    async def keep_tidy(self) -> None:
        """Now and then remove what has not been used for long."""
        days = self.env.models_kept_days
        while True:
            try:
                removed = await asyncio.to_thread(
                    stock.tidy, self.env.home, timedelta(days=days) if days else None
                )
            except (msgspec.DecodeError, OSError) as error:
                log.warning("models.untidy", error=str(error))
            else:
                for one in removed:
                    log.info("models.removed", model=one.choice.repository, unused_days=days)
            await asyncio.sleep(TIDYING)


def _problem(said: dict[str, Any]) -> WeightsProblem:
    if said["short"]:
        return NoRoom(said["short"], said["message"])
    return WeightsProblem(Reason(said["reason"]), said["message"])
