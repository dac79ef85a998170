"""The life of one replica on this machine, from the wish to run it to its last file.

One task drives it (`_live`, or `_end` once it is to end); the record is saved at each change, so
that a restarted supervisor goes on from there. What may fail is raised as `Failure` and becomes
the phase `exited`: a replica runs at most once.
"""

import asyncio
import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import httpx2
import structlog

from inference import doctor
from inference.engines import ENGINES
from inference.engines.base import BadSetting, Launch, Recipe
from inference.lifecycle import Stage
from inference.node import (
    drain,
    environments,
    figures,
    logs,
    processes,
    shim,
    stock,
    walls,
    weights,
)
from inference.node.adapters import Adapters
from inference.node.client import EngineClient, ProbeRefused
from inference.node.environments import InstallProblem
from inference.node.limits import Limits
from inference.node.record import Record, Wish
from inference.node.store import Choice
from inference.provisioners.base import (
    Observed,
    Phase,
    ProbeUsage,
    Progress,
    Reason,
    Rejected,
    Walls,
)
from portal.lib.env import Environment

LOAD_TIMEOUT = 1800.0  # seconds from the start of the process until the first generation
LOOK_WHILE_LOADING = 0.25  # seconds
LOOK_WHEN_READY = 5.0
MISSES_ALLOWED = 3  # unanswered health checks before it counts as degraded
PROBES_REFUSED = 5  # answers that are no generation before we give up
LAST_SIGNAL = 5.0  # seconds for the kernel to end what was killed
DELETE_GRACE = 5.0

PASSED_ON = (
    *("PATH", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH", "CUDA_HOME"),
    *("NVIDIA_VISIBLE_DEVICES", "NVIDIA_DRIVER_CAPABILITIES"),
)

log = structlog.get_logger(__name__)


class Failure(Exception):
    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


class Host(Protocol):
    """What a replica needs of its supervisor."""

    env: Environment
    walls: Walls
    limits: Limits

    async def install(self, recipe: Recipe) -> str:
        """Make the engine's environment; its interpreter. Raises InstallProblem."""
        ...

    async def fetch(self, choice: Choice, token: str, tell: Callable[[Progress], None]) -> str:
        """Have a model on this machine; its folder. Raises WeightsProblem."""
        ...

    def admit(self, replica: "Replica", weight_bytes: int) -> None:
        """Reserve what it needs now that its weights are known. Raises Rejected."""
        ...

    def forget(self, replica: "Replica") -> None:
        """It is gone."""
        ...

    def can_keep_asleep(self, weight_bytes: int) -> bool:
        """Whether the machine's memory has room for them beside what it has promised."""
        ...

    async def clear(self, replica: "Replica") -> None:
        """Until nobody who sleeps has anything left on its GPUs."""
        ...


class Replica:
    def __init__(self, host: Host, record: Record, hub_token: str = "") -> None:
        self.host, self.record, self.hub_token = host, record, hub_token
        self.id = record.spec.replica_id
        self.folder = host.env.home / "instances" / self.id
        self.socket_folder = socket_folder(host.env, self.id)
        self.scratch = scratch_folder(host.env, self.id)
        self.socket = self.socket_folder / "engine.sock"
        self.engine = ENGINES[record.spec.engine]
        self.own_command = host.env.own_command(self.engine.name)
        self.misses = 0
        self.refusals = 0
        self.log_offset = 0
        self.load = figures.LoadWatch()
        self.ended = asyncio.Event()  # the process, as the kernel tells
        self.task: asyncio.Task[None] | None = None
        self.child: subprocess.Popen[bytes] | None = None  # kept to be reaped; None if adopted
        self.adapters = Adapters(
            record,
            self.folder,
            lambda: EngineClient(self.engine, self.socket),
            self.engine,
            host,
            self._save,
        )

    # What the supervisor calls

    def start(self) -> None:
        """Begin, or go on after a restart of the supervisor."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.socket_folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.adapters.make_folder()
        if self.record.wish in {Wish.STOP, Wish.DELETE}:
            self._drive(self._end)
        elif self.record.wish is Wish.SLEEP:
            self._drive(self._doze)
        elif self.record.phase is not Phase.EXITED:
            self._drive(self._live)
            self.adapters.go_on()
        self._save()

    def end(self, wish: Wish, grace: float, reason: Reason, message: str) -> None:
        """Begin to end it. Deleting overrides stopping; neither is taken back."""
        record = self.record
        if wish is record.wish or record.wish is Wish.DELETE:
            record.grace = min(record.grace, grace)
            return
        record.wish, record.grace = wish, grace
        if record.phase is not Phase.EXITED:
            record.reason = reason
            record.move(Phase.STOPPING, Stage.NONE, message)
        self._save()
        self._drive(self._end)

    def sleep(self) -> bool:
        """Begin to free its GPUs and stay at hand. False where it cannot."""
        record = self.record
        if record.wish is not Wish.RUN:
            return record.wish is Wish.SLEEP
        if record.phase is not Phase.READY or not self.can_sleep:
            return False
        weight_bytes = self._weigh()
        if not self.host.can_keep_asleep(weight_bytes):
            return False
        if not self.own_command:  # of which nothing is known, so it has no limit of memory
            self.host.limits.widen(self.id, record.memory_bytes + weight_bytes)
        record.wish = Wish.SLEEP
        self._move(Phase.STOPPING, Stage.NONE, "Falling asleep.")
        self._drive(self._doze)
        return True

    def wake(self) -> None:
        """Begin to rouse it. It may not have its GPUs any more: then it ends."""
        record = self.record
        if record.wish is Wish.SLEEP:
            record.wish, record.ready_at, record.roused_at = Wish.RUN, None, datetime.now(UTC)
            self._move(Phase.LOADING, Stage.LOADING, "Waking up.")
            self._drive(self._live)

    @property
    def can_sleep(self) -> bool:
        record = self.record
        return self.engine.can_sleep(record.spec.settings, record.variant)

    def observed(self) -> Observed:
        return self.record.observed(f"unix:{self.socket}", can_sleep=self.can_sleep)

    async def let_go(self) -> None:
        """The supervisor leaves; the engine stays."""
        if self.task is not None:
            self.task.cancel()
            await asyncio.gather(self.task, return_exceptions=True)
        await self.adapters.stop()

    async def settled(self) -> None:
        """Until the task now driving it is done."""
        if self.task is not None:
            await asyncio.gather(self.task, return_exceptions=True)

    # Driving

    def _drive(self, life: Callable[[], Coroutine[None, None, None]]) -> None:
        former = self.task

        async def take_over() -> None:
            if former is not None:
                former.cancel()
                await asyncio.gather(former, return_exceptions=True)
            await life()

        self.task = asyncio.create_task(take_over(), name=f"replica {self.id}")
        self.task.add_done_callback(self._done)

    def _done(self, task: "asyncio.Task[None]") -> None:
        if task.cancelled():
            return
        if error := task.exception():
            # A defect of ours: it must not leave an engine running that nobody drives.
            log.error("replica.defect", replica_id=self.id, exc_info=error)
            if self.record.phase is not Phase.EXITED and self.record.wish is Wish.RUN:
                self.end(Wish.STOP, 0, Reason.CRASHED, "The supervisor failed; see its log.")

    async def _live(self) -> None:
        try:
            if self._process() is None:
                await self._prepare()
                await self.host.clear(self)
                await self._launch()
            async with self._client() as client:
                with self._told_of_the_end():
                    await self._rouse(client)
                    await self._follow(client)
            await self._has_ended()
        except Failure as failure:
            await self._kill(grace=0)
            self._exited(failure.reason, failure.message)

    async def _doze(self) -> None:
        """Have the engine free its GPUs, and stay with it until it ends or is wanted again."""
        self._process()
        async with self._client() as client:
            with self._told_of_the_end():
                if not self.record.dozes and not self.ended.is_set():
                    if not await client.fall_asleep():
                        self.end(Wish.STOP, 0, Reason.CRASHED, "The engine did not fall asleep.")
                        return
                    self.record.dozes = True
                    self.record.idle_since = None
                    self._move(Phase.ASLEEP, Stage.NONE, "Asleep, with its weights in memory.")
                await self.ended.wait()
        await self._has_ended()

    async def _rouse(self, client: EngineClient) -> None:
        """Raises Failure."""
        if not self.record.dozes:
            return
        if not await client.wake_up():
            raise Failure(Reason.CRASHED, "The engine did not wake up.")
        self.record.dozes = False
        self._save()

    async def _end(self) -> None:
        record = self.record
        self._process()
        await self._drain_and_kill()
        if record.phase is not Phase.EXITED:
            self._exited(record.reason or Reason.CANCELLED, "Stopped.")
        if record.wish is Wish.DELETE:
            self._tidy()
            shutil.rmtree(self.folder, ignore_errors=True)
            self.host.forget(self)

    # Before there is a process

    async def _prepare(self) -> None:
        record = self.record
        if self.host.env.engine_walls == "require" and not self.host.walls.up:
            raise Failure(Reason.IMAGE_ERROR, self.host.walls.message)
        if record.wanted_token and not self.hub_token and not record.is_stocked:
            raise Failure(
                Reason.NODE_LOST,
                "The supervisor was restarted before the weights were fetched; try again.",
            )
        if not self.own_command:
            await self._have_engine()
        try:
            weight_bytes = await self._have_weights()
            # Once more, since an engine may read something into where the draft model lies.
            self.engine.check_draft(record.spec.settings, record.draft_weights)
            self.host.admit(self, weight_bytes)
        except (weights.WeightsProblem, Rejected) as problem:
            raise Failure(problem.reason, problem.message) from problem
        except BadSetting as problem:
            raise Failure(Reason.BAD_ARGUMENTS, str(problem)) from problem

    async def _have_engine(self) -> str:
        """The interpreter of the engine's environment, installed if need be."""
        recipe = self.engine.recipe(self.record.variant)
        if python := environments.installed_python(recipe, self.host.env.home):
            return str(python)
        self._move(Phase.PROVISIONING, Stage.INSTALLING_ENGINE, "Installing the engine.")
        try:
            return await self.host.install(recipe)
        except InstallProblem as problem:
            raise Failure(Reason.IMAGE_ERROR, str(problem)) from problem

    async def _have_weights(self) -> int:
        """Bytes of all weights, which are on this machine then. Raises WeightsProblem."""
        record, spec = self.record, self.record.spec
        message = "Downloading the model."
        record.weights = await self._fetched(stock.model_of(spec), message) or spec.model_path
        size = await asyncio.to_thread(weights.check_folder, Path(record.weights), spec.model_file)
        if spec.draft is not None:
            message = "Downloading the draft model."
            fetched = await self._fetched(stock.draft_of(spec), message)
            record.draft_weights = fetched or spec.draft.path
            size += await asyncio.to_thread(weights.check_folder, Path(record.draft_weights))
        self.hub_token = ""
        return size

    async def _fetched(self, choice: Choice | None, message: str) -> str:
        """The folder of what comes from the hub; empty for what does not."""
        if choice is None:
            return ""
        self._move(Phase.PROVISIONING, Stage.DOWNLOADING, message)
        return await self.host.fetch(choice, self.hub_token, self._show)

    def _show(self, progress: Progress) -> None:
        if self.record.stage is Stage.DOWNLOADING:  # not once it is to stop
            self.record.progress = progress

    # The process

    def _launch_facts(self) -> Launch:
        record = self.record
        gpus = record.gpu_indices
        if self.host.walls.up:  # it has the devices of its own GPUs alone, and counts those
            gpus = list(range(len(gpus)))
        return Launch(
            model_path=record.weights,
            draft_path=record.draft_weights,
            served_model_name=record.spec.served_model_name,
            socket=str(self.socket),
            variant=record.variant,
            settings=record.spec.settings,
            gpu_indices=tuple(gpus),
            model_file=record.spec.model_file,
        )

    async def _launch(self) -> None:
        record, own = self.record, shlex.split(self.own_command)
        facts = self._launch_facts()
        # An operator's own command may be meant relative to where the supervisor was started.
        command = own or self.engine.command(await self._have_engine())
        self.scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
        record.launching = True
        self._move(Phase.LOADING, Stage.STARTING, "Starting the engine.")
        self.socket.unlink(missing_ok=True)
        environment = self._engine_environment(facts)
        if self.host.walls.up:
            self._put_up_walls(command)
        self._spawn(self.engine.argv(facts, command), environment, None if own else self.folder)
        self._save()

    def _put_up_walls(self, command: list[str]) -> None:
        resident = walls.Resident(
            folder=self.folder,
            writable=(self.socket_folder, self.folder / "home", self.scratch),
            home=self.folder / "home",
            models=tuple(Path(path) for path in self._folders()),
            readable=(self.adapters.folder,) if self.adapters.lora else (),
            command=command,
            own_command=self.own_command,
            gpu_indices=tuple(self.record.gpu_indices),
            memory_bytes=0 if self.own_command else self.record.memory_bytes,
        )
        try:
            walls.put_up(resident, self.host.env, self.host.limits)
        except walls.NoWalls as problem:
            raise Failure(Reason.IMAGE_ERROR, str(problem)) from problem

    def _weigh(self) -> int:
        """Bytes of all weights, once they are on this machine. Raises WeightsProblem."""
        size = weights.check_folder(Path(self.record.weights), self.record.spec.model_file)
        draft = self.record.draft_weights
        return size + (weights.check_folder(Path(draft)) if draft else 0)

    def _folders(self) -> list[str]:
        """Of the models that it reads."""
        return [path for path in (self.record.weights, self.record.draft_weights) if path]

    def _spawn(self, argv: list[str], environment: dict[str, str], folder: Path | None) -> None:
        """Start the shim. In one breath: a process that is started is also known, so that whoever
        cancels us a moment later can end it."""
        # Not asyncio's subprocess: its transport kills the child when it is collected.
        self.child = subprocess.Popen(
            [sys.executable, "-I", shim.__file__, str(self.folder), *argv],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            env=environment,
            start_new_session=True,
            umask=0o077,
        )
        self.record.started_at = datetime.now(UTC)
        self.record.shim = processes.identify(self.child.pid)
        self.record.launching = False

    def _engine_environment(self, facts: Launch) -> dict[str, str]:
        """Next to nothing of ours: no secret, no address of a database."""
        passed = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        home = self.folder / "home"
        home.mkdir(mode=0o700, exist_ok=True)
        return (
            passed
            | {"HOME": str(home), "TMPDIR": str(self.scratch), "PYTHONUNBUFFERED": "1"}
            | self.engine.env(facts)
            | {processes.MARK: self.id}
        )

    def _process(self) -> processes.Identity | None:
        """The shim, also one that was started just before the supervisor was killed."""
        record = self.record
        if record.shim is None and record.launching:
            for pid in processes.of_replica(self.id, None):
                if os.getsid(pid) == pid:
                    record.shim = processes.identify(pid)
                    record.started_at = record.started_at or datetime.now(UTC)
            record.launching = record.shim is None
        return record.shim

    # While it runs

    @contextlib.asynccontextmanager
    async def _client(self) -> AsyncIterator[EngineClient]:
        client = EngineClient(self.engine, self.socket)
        try:
            yield client
        finally:
            await client.close()

    async def _follow(self, client: EngineClient) -> None:
        while not self.ended.is_set():
            await self._look(client)
            pause = LOOK_WHEN_READY if self.record.ready_at else LOOK_WHILE_LOADING
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.ended.wait(), pause)

    async def _has_ended(self) -> None:
        """By itself. Raises Failure."""
        self.record.ended_at = datetime.now(UTC)  # now, and not when all of it is cleared away
        await self._kill(grace=0)  # what it may have left behind
        if self.record.shim and self.record.shim.boot != processes.boot_id():
            raise Failure(Reason.NODE_LOST, "The machine was restarted.")
        code = self._exit_code()
        diagnosis = doctor.diagnose(code, logs.last_words(self.folder))
        self.record.exit_code = code
        if self.host.limits.ran_out_of_memory(self.id):
            self._exited(Reason.OUT_OF_MEMORY, "The engine took more memory than it may.")
            return
        self._exited(Reason(diagnosis.reason), diagnosis.message)

    @contextlib.contextmanager
    def _told_of_the_end(self) -> Iterator[None]:
        """`ended` is set when the process is gone: a pidfd also works for adopted ones."""
        self.ended.clear()
        process, loop = self.record.shim, asyncio.get_running_loop()
        try:
            fd = os.pidfd_open(process.pid) if process else -1
        except ProcessLookupError:
            fd = -1
        # Asked after opening: the descriptor is then certainly of the process we mean.
        if fd < 0 or process is None or not process.alive():
            self.ended.set()
        if fd < 0:
            yield
            return
        loop.add_reader(fd, self.ended.set)
        try:
            yield
        finally:
            loop.remove_reader(fd)
            os.close(fd)

    async def _look(self, client: EngineClient) -> None:
        if self.record.ready_at is None:
            await self._look_at_loading(client)
        else:
            await self._look_at_serving(client)

    async def _look_at_loading(self, client: EngineClient) -> None:
        self._hear_log()
        if not self.socket.exists() or not await client.healthy():
            self._check_load_time()
            return
        self._move(Phase.LOADING, Stage.WARMING, "Generating the first words.")
        try:
            used = await client.generate(self.engine.probe(self._launch_facts()))
            self._count_probe(used)
            self.record.context_length = await client.context_length()
            if chat_probe := self.engine.chat_probe(self._launch_facts()):
                self.record.chats = await client.chats(chat_probe)
            self.record.engine_version = await self._version(client)
        except ProbeRefused as refusal:
            self._refused(refusal)
            return
        except httpx2.TransportError:
            self._check_load_time()
            return
        await self.adapters.load_first(client)
        self.record.measured = self.engine.measured(self._first_lines())
        self.record.ready_at = datetime.now(UTC)
        self._move(Phase.READY, Stage.NONE, "Ready.")
        self.adapters.go_on()

    async def _version(self, client: EngineClient) -> str:
        """An environment of ours has what its recipe says; an operator's own engine says itself."""
        if self.own_command:
            return await client.version()
        return self.engine.recipe(self.record.variant).version

    def _hear_log(self) -> None:
        chunk = logs.read(self.folder, self.log_offset, 1 << 20)
        self.log_offset = chunk.next_offset
        for line in chunk.text.splitlines():
            stage = self.engine.stage(line)
            if stage is Stage.LOADING and self.record.stage is Stage.STARTING:
                self._move(Phase.LOADING, Stage.LOADING, "Loading the model into memory.")

    def _first_lines(self) -> list[str]:
        return logs.read(self.folder, 0, 1 << 20).text.splitlines()

    def _count_probe(self, used: ProbeUsage) -> None:
        before = self.record.probe or ProbeUsage(0, 0, 0)
        self.record.probe = ProbeUsage(
            before.prompt_tokens + used.prompt_tokens,
            before.completion_tokens + used.completion_tokens,
            before.requests + 1,
        )

    def _refused(self, refusal: ProbeRefused) -> None:
        self.refusals += 1
        if self.refusals >= PROBES_REFUSED:
            raise Failure(
                Reason.BAD_ARGUMENTS, f"The engine is up, but generates nothing: {refusal}"
            )

    def _check_load_time(self) -> None:
        started = self.record.roused_at or self.record.started_at
        if started and (datetime.now(UTC) - started).total_seconds() > LOAD_TIMEOUT:
            raise Failure(
                Reason.LOAD_TIMEOUT, "The engine was not ready in time and has been stopped."
            )

    async def _look_at_serving(self, client: EngineClient) -> None:
        self.misses = 0 if await client.healthy() else self.misses + 1
        if self.misses == 0:
            self._move(Phase.READY, Stage.NONE, "Ready.")
            await self._read_figures(client)
            self.adapters.go_on()
        elif self.misses >= MISSES_ALLOWED:
            self.record.idle_since = None  # whether it computes is not known
            self._move(Phase.DEGRADED, Stage.NONE, "The engine runs, but does not answer.")

    async def _read_figures(self, client: EngineClient) -> None:
        """What it counts and takes; saved when it becomes idle or busy, so that a restarted
        supervisor knows since when."""
        counts = bool(self.engine.metrics_path)
        text = await client.metrics() if counts else ""
        if counts and not text:
            return  # just now it does not say; what it said before still stands
        record = self.record
        load = await asyncio.to_thread(self.load.look, record.shim, record.gpu_indices)
        read = figures.parse(text, self.engine.metric_names, _process_name(record.shim), load)
        before, record.figures = record.figures, read
        if not counts:
            return  # whether it has requests is not known
        idle_since = figures.idle_since(before, read, record.idle_since, datetime.now(UTC))
        if idle_since != record.idle_since:
            record.idle_since = idle_since
            self._save()

    # The end

    async def _drain_and_kill(self) -> None:
        """Within the record's grace, which may be cut while it lasts."""
        loop, record = asyncio.get_running_loop(), self.record
        began, process = loop.time(), record.shim
        computes = record.ready_at is not None and not record.dozes
        if process is not None and computes and self.engine.metrics_path:
            async with self._client() as client:
                await drain.until_idle(
                    client,
                    self.engine.metric_names,
                    lambda: (
                        not process.alive() or loop.time() - began > drain.drains_for(record.grace)
                    ),
                )
        await self._kill(max(0.0, record.grace - (loop.time() - began)))

    async def _kill(self, grace: float) -> None:
        """End every process of the replica: politely while `grace` seconds last, then surely."""
        await self.adapters.stop()
        process = self.record.shim
        if process is not None and process.alive() and grace > 0:
            processes.send(process.pid, signal.SIGTERM)  # the shim passes it to the engine
            await self._until(lambda: not process.alive(), grace)
        # The shim and the trackers last: one says how the engine ended, the others tidy up.
        spared = [pid for pid in self._left() if self._is_last(pid)]
        await self._slay(spared)
        if process is not None:
            await self._until(lambda: not process.alive(), LAST_SIGNAL)
        await self._slay([])

    def _left(self) -> list[int]:
        return processes.of_replica(self.id, self.record.shim.pid if self.record.shim else None)

    def _is_last(self, pid: int) -> bool:
        process = self.record.shim
        return (process is not None and pid == process.pid) or shim.tracks_resources(pid)

    async def _slay(self, spared: list[int]) -> None:
        """Kill what is left of the replica, and remove the shared memory that it held."""

        def left() -> list[int]:
            return [pid for pid in self._left() if pid not in spared]

        shim.kill(left())
        if not await self._until(lambda: not left(), LAST_SIGNAL):
            log.error("replica.unkillable", replica_id=self.id, pids=left())

    async def _until(self, true: Callable[[], bool], seconds: float) -> bool:
        deadline = asyncio.get_running_loop().time() + seconds
        while not true():
            if asyncio.get_running_loop().time() > deadline:
                return False
            await asyncio.sleep(0.02)
        return True

    def _exit_code(self) -> int | None:
        try:
            return int(json.loads((self.folder / "exit.json").read_text())["exit_code"])
        except FileNotFoundError:  # the shim itself was killed
            return None

    def _exited(self, reason: Reason, message: str) -> None:
        record = self.record
        if self.child is not None:
            self.child.poll()  # reap it
        record.reason, record.ended_at = reason, record.ended_at or datetime.now(UTC)
        if record.shim is not None:
            record.exit_code = self._exit_code()
        record.log_tail = logs.tail(self.folder)
        record.shim = None
        record.launching = False
        self._move(Phase.EXITED, Stage.NONE, message)
        self._tidy()

    def _tidy(self) -> None:
        """Remove what only a running engine needs; logs stay."""
        clear_run_folders(self.host.env, self.id)
        self.host.limits.remove(self.id)
        self.adapters.tidy()
        shutil.rmtree(self.folder / "home", ignore_errors=True)

    # The record

    def _move(self, phase: Phase, stage: Stage, message: str) -> None:
        record = self.record
        if (phase, stage, message) == (record.phase, record.stage, record.message):
            return
        record.move(phase, stage, message)
        log.info("replica.moved", replica_id=self.id, phase=phase, stage=stage, message=message)
        self._save()

    def _save(self) -> None:
        self.record.save(self.folder)


def clear_run_folders(env: Environment, replica_id: str) -> None:
    """Remove the replica's sockets and temporary files."""
    shutil.rmtree(socket_folder(env, replica_id), ignore_errors=True)
    shutil.rmtree(scratch_folder(env, replica_id), ignore_errors=True)


def socket_folder(env: Environment, replica_id: str) -> Path:
    return env.run_dir / "instances" / replica_id


def scratch_folder(env: Environment, replica_id: str) -> Path:
    """The engine's TMPDIR. Short, because engines put sockets with names of 36 characters there
    and the kernel wants at most 107 bytes; the end of an id of ours is its random part."""
    return env.run_dir / "t" / replica_id[-12:]


def _process_name(shim: processes.Identity | None) -> str:
    return f"{shim.boot}:{shim.pid}:{shim.start_ticks}" if shim else ""
