"""The supervisor process: owns the engines of this machine and answers the controller.

Engines are not its children in spirit: it may be killed and started again, and takes them up where
they are. One supervisor per home, by a lock. It listens on a private socket (0600 in a 0700
folder): whoever may connect may run programs as us, so nobody else may.
"""

import asyncio
import fcntl
import os
import shutil
import signal
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import structlog

from inference.engines import ENGINES
from inference.engines.base import BadSetting, Recipe, Variant, variant_of
from inference.node import admission, environments, hardware, logs, processes, walls
from inference.node.admission import NoMemory
from inference.node.downloads import Downloads
from inference.node.environments import InstallProgress
from inference.node.limits import Limits, base
from inference.node.record import Record, Wish, load
from inference.node.replica import DELETE_GRACE, Replica, clear_run_folders
from inference.node.rpc import LINE_LIMIT, Request, Response, fault_of
from inference.node.store import Choice
from inference.node.weights import WeightsProblem, check_folder
from inference.provisioners.base import (
    AdapterSpec,
    EngineStatus,
    Event,
    Gpu,
    Handle,
    Health,
    LogChunk,
    Observed,
    Offer,
    Phase,
    Progress,
    ProvisionerError,
    Reason,
    Rejected,
    Sight,
    Spec,
    Walls,
)
from portal.lib.env import Environment, environment

log = structlog.get_logger(__name__)


class AlreadyRunning(Exception):
    """Another supervisor holds this home."""


class Supervisor:
    def __init__(self, env: Environment) -> None:
        self.env = env
        self.replicas: dict[str, Replica] = {}
        self.name = socket.gethostname()
        self.gpus: list[Gpu] = []
        self.walls = Walls(up=False, message="Not tried yet.")
        self.limits = Limits(base())
        self.installs: dict[str, asyncio.Task[str]] = {}
        self.cancelled = threading.Event()  # ends installations when we leave
        self.downloads = Downloads(env)
        self.tidying: asyncio.Task[None] | None = None

    # Life

    async def open(self) -> None:
        """Look round and take up what an earlier supervisor left."""
        self.gpus = await asyncio.to_thread(hardware.gpus)
        self.walls = await asyncio.to_thread(walls.possible, self.env)
        say = log.info if self.walls.up else log.warning
        say("node.walls", up=self.walls.up, message=self.walls.message)
        for folder in sorted((self.env.home / "instances").glob("*/")):
            await self._take_up(folder)
        # Not before: what a record does not name may be removed.
        self.tidying = asyncio.create_task(self.downloads.keep_tidy(), name="tidy models")

    async def close(self, *, stop_engines: bool) -> None:
        self.cancelled.set()
        if self.tidying is not None:
            self.tidying.cancel()
        if stop_engines:
            for replica in self.replicas.values():
                replica.end(
                    Wish.STOP, 10.0, Reason.NODE_LOST, "The machine's supervisor is shutting down."
                )
            await asyncio.gather(*(replica.settled() for replica in self.replicas.values()))
        await asyncio.gather(*(replica.let_go() for replica in self.replicas.values()))
        await asyncio.gather(*self.installs.values(), return_exceptions=True)

    async def _take_up(self, folder: Path) -> None:
        try:
            record = load(folder)
        except (FileNotFoundError, msgspec.DecodeError):
            # Cut off before its first record, or of a version we cannot read: nothing can say any
            # more what it was, so nothing of it may stay.
            log.warning("replica.unreadable", folder=str(folder))
            for pid in processes.of_replica(folder.name, None):
                processes.send(pid, signal.SIGKILL)
            clear_run_folders(self.env, folder.name)
            shutil.rmtree(folder, ignore_errors=True)
            return
        replica = Replica(self, record)
        self.replicas[replica.id] = replica
        replica.start()

    # What replicas ask of their host

    async def install(self, recipe: Recipe) -> str:
        install = self.installs.get(recipe.name)
        if install is None or install.done():
            install = self.installs[recipe.name] = asyncio.create_task(self._install(recipe))
        # Several may wait for it; the end of one of them must not stop it for the others.
        return await asyncio.shield(install)

    async def _install(self, recipe: Recipe) -> str:
        python = await asyncio.to_thread(
            environments.install,
            recipe,
            self.env.home,
            indexes=environments.indexes(self.env),
            cancelled=self.cancelled,
        )
        return str(python)

    async def fetch(self, choice: Choice, token: str, tell: Callable[[Progress], None]) -> str:
        return await self.downloads.fetch(choice, token, tell)

    def admit(self, replica: Replica, weight_bytes: int) -> None:
        others = [r.record for r in self.replicas.values() if r is not replica]
        record = replica.record
        needed = admission.memory_needed(
            replica.engine, record.spec, record.variant, weight_bytes, bool(replica.own_command)
        )
        admission.check_memory(needed, hardware.memory_free(), admission.reserved(others))
        if record.gpu_indices:
            admission.check_gpu_memory(
                self.gpus, record.gpu_indices, weight_bytes, record.spec.settings
            )
        record.memory_bytes = needed

    def forget(self, replica: Replica) -> None:
        self.replicas.pop(replica.id, None)

    def can_keep_asleep(self, weight_bytes: int) -> bool:
        records = [replica.record for replica in self.replicas.values()]
        return weight_bytes <= hardware.memory_free() - admission.reserved(records)

    async def clear(self, replica: Replica) -> None:
        wanted = set(replica.record.gpu_indices)
        for other in list(self.replicas.values()):
            ended_for_it = other.record.wish is Wish.STOP and other.record.phase is Phase.STOPPING
            if other is not replica and ended_for_it and wanted & set(other.record.gpu_indices):
                await other.settled()

    # What the controller asks

    def check(self) -> Health:
        node = hardware.describe(self.env.home, self._gpus_with_holders())
        node = msgspec.structs.replace(node, walls=self.walls)
        return Health(ok=True, nodes=[node], engines=self._engines())

    def offers(self, spec: Spec) -> list[Offer]:
        try:
            record = self._admitted(spec)
        except Rejected:
            return []
        chosen = [gpu for gpu in self.gpus if gpu.index in record.gpu_indices]
        node = hardware.describe(self.env.home, [])
        return [
            Offer(
                node=node.name,
                variant=record.variant,
                gpu_type=chosen[0].name if chosen else "",
                gpu_count=len(chosen),
                memory_bytes=sum(gpu.memory_bytes for gpu in chosen) or node.memory_free_bytes,
            )
        ]

    def ensure(self, spec: Spec) -> Handle:
        """Idempotent: a replica that is known already stays as it is, also when it has exited."""
        known = self.replicas.get(spec.replica_id)
        if known is not None:
            known.hub_token = known.hub_token or spec.hub_token
            return known.record.handle()
        try:
            record = self._admitted(spec)
        except NoMemory:
            self._end_a_sleeper()  # room for when this is asked for again
            raise
        record.message = "Waiting to start."
        records = [replica.record for replica in self.replicas.values()]
        for id_ in admission.sleepers(records, record.gpu_indices):
            self._preempt(self.replicas[id_])
        replica = Replica(self, record, spec.hub_token)
        self.replicas[replica.id] = replica
        replica.start()
        return record.handle()

    def observe(self, replica_id: str) -> Observed:
        replica = self.replicas.get(replica_id)
        if replica is None:
            return Observed(phase=Phase.GONE)
        if replica.record.phase is Phase.PROVISIONING:
            self._show_installation(replica)
        gpus = [gpu.name for gpu in self.gpus if gpu.index in replica.record.gpu_indices]
        return msgspec.structs.replace(
            replica.observed(), node=self.name, gpu_type=gpus[0] if gpus else ""
        )

    def observe_all(self) -> list[Sight]:
        return [
            Sight(
                replica.record.handle(),
                msgspec.structs.replace(self.observe(id_), log_tail=[]),
            )
            for id_, replica in list(self.replicas.items())
        ]

    def adapters(self, replica_id: str, wanted: list[AdapterSpec]) -> None:
        replica = self.replicas.get(replica_id)
        if replica and replica.record.phase not in {Phase.STOPPING, Phase.EXITED}:
            replica.adapters.want(wanted)

    def stop(self, replica_id: str, grace: float) -> None:
        if replica := self.replicas.get(replica_id):
            replica.end(Wish.STOP, grace, Reason.CANCELLED, "Stopping.")

    def sleep(self, replica_id: str) -> bool:
        replica = self.replicas.get(replica_id)
        return replica is not None and replica.sleep()

    def wake(self, replica_id: str) -> None:
        replica = self.replicas.get(replica_id)
        if replica is None:
            return
        held = admission.holders(r.record for r in self.replicas.values() if r is not replica)
        if any(index in held for index in replica.record.gpu_indices):
            self._preempt(replica)
        else:
            replica.wake()

    def _end_a_sleeper(self) -> None:
        """Of those whose weights are kept in the machine's memory, the one that slept first."""
        asleep = [r for r in self.replicas.values() if r.record.phase is Phase.ASLEEP]
        for replica in sorted(asleep, key=lambda r: r.record.events[-1].at)[:1]:
            replica.end(Wish.STOP, 0, Reason.PREEMPTED, "Another instance needs its memory.")

    def _preempt(self, replica: Replica) -> None:
        replica.end(Wish.STOP, 0, Reason.PREEMPTED, "Another instance has its GPUs now.")

    def delete(self, replica_id: str) -> None:
        if replica := self.replicas.get(replica_id):
            replica.end(Wish.DELETE, DELETE_GRACE, Reason.CANCELLED, "Removing.")

    def logs(self, replica_id: str, offset: int | None, limit: int) -> LogChunk:
        replica = self.replicas.get(replica_id)
        if replica is None:
            return LogChunk("", 0)
        return logs.read(replica.folder, offset, min(limit, LINE_LIMIT // 8))

    def events(self, replica_id: str) -> list[Event]:
        replica = self.replicas.get(replica_id)
        return replica.record.events if replica else []

    def handles(self) -> list[Handle]:
        return [replica.record.handle() for replica in self.replicas.values()]

    # Parts of the above

    def _admitted(self, spec: Spec) -> Record:
        """A record with its place reserved. Raises Rejected."""
        engine = ENGINES.get(spec.engine)
        if engine is None:
            raise Rejected(Reason.BAD_ARGUMENTS, f"There is no engine called {spec.engine}.")
        try:
            engine.check(spec.settings)
            engine.check_draft(spec.settings, spec.draft.model_id if spec.draft else "")
        except BadSetting as problem:
            raise Rejected(Reason.BAD_ARGUMENTS, str(problem)) from problem
        variant: Variant = "cuda" if spec.gpu_count else "cpu"
        own_command = bool(self.env.own_command(engine.name))
        if variant not in engine.variants and not own_command:
            raise Rejected(
                Reason.BAD_ARGUMENTS,
                f"{engine.title} is installed for machines without a GPU. For GPUs, the operator "
                "sets a launch command of their own.",
            )
        weight_bytes = _weight_bytes(spec)
        records = [replica.record for replica in self.replicas.values()]
        chosen = self._choose_gpus(spec, weight_bytes, records)
        needed = admission.memory_needed(engine, spec, variant, weight_bytes, own_command)
        admission.check_memory(needed, hardware.memory_free(), admission.reserved(records))
        return Record(
            spec=msgspec.structs.replace(spec, hub_token=""),
            wanted_token=bool(spec.hub_token),
            variant=variant,
            gpu_indices=chosen,
            memory_bytes=needed,
        )

    def _choose_gpus(self, spec: Spec, weight_bytes: int, records: list[Record]) -> list[int]:
        if not spec.gpu_count:
            return []
        slept_on = {
            index
            for record in records
            if record.phase is Phase.ASLEEP
            for index in record.gpu_indices
        }
        taken = admission.holders(records)
        chosen = admission.choose_gpus(self.gpus, taken, spec.gpu_count, slept_on)
        admission.check_gpu_memory(self.gpus, chosen, weight_bytes, spec.settings)
        return chosen

    def _gpus_with_holders(self) -> list[Gpu]:
        held = admission.holders(replica.record for replica in self.replicas.values())
        return [
            msgspec.structs.replace(gpu, replica_id=held.get(gpu.index, "")) for gpu in self.gpus
        ]

    def _engines(self) -> list[EngineStatus]:
        here: Variant = "cuda" if self.gpus else "cpu"
        chosen = {name: variant_of(engine, here) for name, engine in ENGINES.items()}
        return [
            self._engine_status(name, ENGINES[name].recipe(variant), variant)
            for name, variant in chosen.items()
        ]

    def _engine_status(self, name: str, recipe: Recipe, variant: Variant) -> EngineStatus:
        own = bool(self.env.own_command(name))
        installed = own or environments.installed_python(recipe, self.env.home) is not None
        said = None if installed else environments.read_progress(recipe, self.env.home)
        return EngineStatus(
            name=name,
            variant=variant,
            version="" if own else recipe.version,
            installed=installed,
            message=said.message if said else "",
            progress=_packages(said) if said and not said.failed else None,
        )

    def _show_installation(self, replica: Replica) -> None:
        """While an engine is being installed, its progress is that of whoever waits for it."""
        if replica.own_command:
            return
        recipe = replica.engine.recipe(replica.record.variant)
        install = self.installs.get(recipe.name)
        if install is None or install.done() or replica.record.stage != "installing_engine":
            return
        if said := environments.read_progress(recipe, self.env.home):
            replica.record.message = said.message
            replica.record.progress = _packages(said)


def _packages(said: InstallProgress) -> Progress:
    return Progress(said.done, said.total or None, "packages")


def _weight_bytes(spec: Spec) -> int:
    """Of the models on this machine; those on the hub are weighed once they are here. Raises
    Rejected."""
    total, draft = 0, spec.draft
    try:
        if spec.model_source != "hub":
            total += check_folder(Path(spec.model_path), spec.model_file)
        if draft is not None and draft.source != "hub":
            total += check_folder(Path(draft.path))
        return total
    except WeightsProblem as problem:
        raise Rejected(problem.reason, problem.message) from problem


class Listener:
    """Answers requests on the private socket, each connection in its turn."""

    def __init__(self, supervisor: Supervisor) -> None:
        self.supervisor = supervisor
        self.methods: dict[str, Callable[[dict[str, Any]], object]] = {
            "check": lambda p: supervisor.check(),
            "offers": lambda p: supervisor.offers(msgspec.convert(p["spec"], Spec)),
            "ensure": lambda p: supervisor.ensure(msgspec.convert(p["spec"], Spec)),
            "observe": lambda p: supervisor.observe(p["replica_id"]),
            "observe_all": lambda p: supervisor.observe_all(),
            "adapters": lambda p: supervisor.adapters(
                p["replica_id"], msgspec.convert(p["wanted"], list[AdapterSpec])
            ),
            "stop": lambda p: supervisor.stop(p["replica_id"], float(p["grace"])),
            "sleep": lambda p: supervisor.sleep(p["replica_id"]),
            "wake": lambda p: supervisor.wake(p["replica_id"]),
            "delete": lambda p: supervisor.delete(p["replica_id"]),
            "logs": lambda p: supervisor.logs(p["replica_id"], p["offset"], p["limit"]),
            "events": lambda p: supervisor.events(p["replica_id"]),
            "list": lambda p: supervisor.handles(),
        }

    async def serve(self, path: Path) -> asyncio.Server:
        _clear(path)
        former = os.umask(0o177)
        try:
            return await asyncio.start_unix_server(self._converse, path, limit=LINE_LIMIT)
        finally:
            os.umask(former)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                writer.write(msgspec.json.encode(self.answer(line)) + b"\n")
                await writer.drain()
        except (ConnectionError, ValueError):  # gone, or a line beyond all limits
            return
        finally:
            writer.close()

    def answer(self, line: bytes) -> Response:
        try:
            request = msgspec.json.decode(line, type=Request)
            method = self.methods[request.method]
            return Response(result=method(request.params))
        except ProvisionerError as error:
            return Response(fault=fault_of(error))
        except (msgspec.DecodeError, KeyError, TypeError) as error:
            log.warning("rpc.malformed", error=repr(error))
            return Response(
                fault=fault_of(ProvisionerError("The node does not know this request."))
            )


async def run(env: Environment, *, stop_engines: bool = False) -> None:
    """Supervise until SIGTERM or SIGINT. Engines stay up unless `stop_engines`. Raises
    AlreadyRunning."""
    env.make_run_dir()
    lock = _lock(env.home)
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    supervisor = Supervisor(env)
    await supervisor.open()
    server = await Listener(supervisor).serve(env.node_socket)
    log.info("node.listening", socket=str(env.node_socket), gpus=len(supervisor.gpus))
    try:
        await stopping.wait()
    finally:
        server.close()
        _clear(env.node_socket)
        await supervisor.close(stop_engines=stop_engines)
        os.close(lock)


def _clear(path: Path) -> None:
    path.unlink(missing_ok=True)


def _lock(home: Path) -> int:
    home.mkdir(parents=True, exist_ok=True)
    fd = os.open(home / "node.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(fd)
        raise AlreadyRunning(f"A node is running already with {home}.") from error
    return fd


def main(*, stop_engines: bool = False) -> int:
    """`modelport node`: the exit code."""
    try:
        asyncio.run(run(environment(), stop_engines=stop_engines))
    except AlreadyRunning as problem:
        log.error("node.refused", message=str(problem))
        return 1
    return 0
