"""The LoRA adapters of one replica: fetched, checked, and loaded into its engine while it runs.

`want` says which there should be; a task brings them about and ends when there is nothing to do.
Its steps are on record, so a restarted supervisor goes on, and what the engine really has is asked
of the engine each time. Whatever goes wrong becomes the state of that adapter, never the replica's.

An adapter's files are copied into a folder of the replica, which its engine sees from the start.
They stay for a while after it was unloaded: vLLM reads them again for a request that was under way,
where another adapter had taken its place, and would end if they were gone.
"""

import asyncio
import contextlib
import shutil
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol

import httpx2
import structlog
from msgspec.structs import replace

from inference.doctor import without_paths
from inference.engines import lora
from inference.engines.base import Engine, gettext_noop
from inference.node import stock, weights
from inference.node.client import EngineClient, EngineRefused
from inference.node.record import AdapterRecord, AdapterStep, Record
from inference.node.store import Choice
from inference.node.weights import WeightsProblem
from inference.provisioners.base import AdapterSpec, Phase, Progress, Reason

TRY_AGAIN = 30.0  # seconds until what circumstances have prevented is tried again
FIRST_LOADS = 30.0  # seconds for which a replica may wait with being ready for its adapters
LINGERS = timedelta(seconds=15)  # what is unloaded keeps its files for so long where all is quiet,
LINGERS_AT_MOST = timedelta(hours=1)  # and for so long where there always are requests
CIRCUMSTANCES = {Reason.BACKEND_UNREACHABLE, Reason.INSUFFICIENT_CAPACITY, Reason.CRASHED}
NO_ROOM = gettext_noop("The instance was started without room for adapters.")
FETCHING = gettext_noop("Fetching the adapter.")
WAITING = gettext_noop("Waiting for the engine.")

log = structlog.get_logger(__name__)


class Fetcher(Protocol):
    async def fetch(self, choice: Choice, token: str, tell: Callable[[Progress], None]) -> str: ...


class Adapters:
    def __init__(
        self,
        record: Record,
        folder: Path,
        connect: Callable[[], EngineClient],
        engine: Engine,
        fetcher: Fetcher,
        save: Callable[[], None],
    ) -> None:
        """`folder` is the replica's."""
        self.record, self.folder = record, folder / "adapters"
        self.lora = engine.lora(record.spec.settings)
        self.connect, self.fetcher, self.save = connect, fetcher, save
        self.tokens: dict[str, str] = {}  # by adapter; never written down
        self.not_before: dict[str, float] = {}  # by adapter, monotonic seconds
        self.turn = asyncio.Lock()  # to speak to the engine
        self.task: asyncio.Task[None] | None = None

    def make_folder(self) -> None:
        """Before the engine starts, for it sees what is there then."""
        if self.lora is not None:
            self.folder.mkdir(exist_ok=True)
            self.folder.chmod(0o755)  # engines are users of their own

    def want(self, wanted: Sequence[AdapterSpec]) -> None:
        """These and no others."""
        before = [(one.spec.adapter_id, one.step) for one in self.record.adapters]
        known = {one.spec.adapter_id: one for one in self.record.adapters}
        for spec in wanted:
            if spec.hub_token:
                self.tokens[spec.adapter_id] = spec.hub_token
            self._want(spec, known.get(spec.adapter_id))
        ids = {spec.adapter_id for spec in wanted}
        for id_, one in known.items():
            if id_ not in ids and one.step is not AdapterStep.OFF:
                one.step, one.message = AdapterStep.UNWANTED, ""
        if before != [(one.spec.adapter_id, one.step) for one in self.record.adapters]:
            self.save()
        self.go_on()

    def _want(self, spec: AdapterSpec, known: AdapterRecord | None) -> None:
        if known is None:
            bare = replace(spec, hub_token="")
            known = AdapterRecord(spec=bare, wanted_token=bool(spec.hub_token))
            self.record.adapters.append(known)
            if self.lora is None:
                known.step, known.message = AdapterStep.FAILED, NO_ROOM
        elif known.step in {AdapterStep.UNWANTED, AdapterStep.OFF}:
            known.step = AdapterStep.WANTED

    def go_on(self) -> None:
        """Do what is to be done, unless that is under way. Called now and then as well."""
        self._clear()
        if (self.task is None or self.task.done()) and self._due():
            self.task = asyncio.create_task(self._work(), name=f"adapters {self.folder}")
            self.task.add_done_callback(_tell_of_defects)

    async def stop(self) -> None:
        """Load no more: the engine ends, or the supervisor leaves."""
        if self.task is not None:
            self.task.cancel()
            await asyncio.gather(self.task, return_exceptions=True)

    def tidy(self) -> None:
        """The engine has ended."""
        self.record.adapters.clear()
        shutil.rmtree(self.folder, ignore_errors=True)

    async def load_first(self, client: EngineClient) -> None:
        """The engine is well and about to be ready: what is here already comes with it, so that
        nobody who waits for it to wake has to ask twice."""
        if any(one.step is AdapterStep.HERE for one in self.record.adapters):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(FIRST_LOADS):
                    await self._settle(client)

    # What is to be done

    @property
    def _engine_listens(self) -> bool:
        return self.record.phase is Phase.READY

    def _due(self) -> bool:
        steps = {one.step for one in self.record.adapters}
        unsettled = {AdapterStep.HERE, AdapterStep.UNWANTED} & steps
        return self._next() is not None or bool(unsettled and self._engine_listens)

    def _next(self) -> AdapterRecord | None:
        """One to be fetched now. A token that a restart has lost will be told again."""
        if self.record.phase in {Phase.STOPPING, Phase.EXITED}:
            return None
        for one in self.record.adapters:
            id_ = one.spec.adapter_id
            waits = self.not_before.get(id_, 0.0) > time.monotonic()
            lost = one.wanted_token and id_ not in self.tokens
            if one.step is AdapterStep.WANTED and not waits and not lost:
                return one
        return None

    async def _work(self) -> None:
        client = self.connect()
        try:
            while self._due():
                one = self._next()
                if one is not None:
                    await self._fetch(one)
                elif not await self._settle(client):
                    return  # the next look tries again
        finally:
            await client.close()

    # Its files

    async def _fetch(self, one: AdapterRecord) -> None:
        spec = one.spec
        one.message = FETCHING
        try:
            source = Path(spec.path)
            if spec.source == "hub":
                choice, token = stock.choice_of_adapter(spec), self.tokens.get(spec.adapter_id, "")
                source = Path(await self.fetcher.fetch(choice, token, lambda progress: None))
            await _to_the_end(lambda: self._copy(source, spec.adapter_id))
        except WeightsProblem as problem:
            if problem.reason in CIRCUMSTANCES:
                self._postpone(one, problem.message)
            else:
                self._move(one, AdapterStep.WANTED, AdapterStep.FAILED, problem.message)
        except OSError as problem:
            self._postpone(one, f"The adapter cannot be stored: {problem.strerror or problem}.")
        else:
            self._move(one, AdapterStep.WANTED, AdapterStep.HERE, WAITING)

    def _copy(self, source: Path, id_: str) -> None:
        """What an engine needs of it, whole or not at all. Raises WeightsProblem, OSError."""
        weights.check_folder(source, lora.WEIGHTS)
        self.make_folder()
        draft, target = self.folder / f".{id_}", self.folder / id_
        for folder in (draft, target):
            shutil.rmtree(folder, ignore_errors=True)
        draft.mkdir()
        for name in lora.FILES:
            shutil.copyfile(source / name, draft / name)
            (draft / name).chmod(0o644)
        draft.chmod(0o755)
        draft.rename(target)

    def _postpone(self, one: AdapterRecord, message: str) -> None:
        self.not_before[one.spec.adapter_id] = time.monotonic() + TRY_AGAIN
        one.message = message

    # The engine

    async def _settle(self, client: EngineClient) -> bool:
        """Have the engine serve what is here, and nothing that is not wanted; False where it does
        not answer."""
        async with self.turn:
            try:
                served = await client.served()
                for one in list(self.record.adapters):
                    if one.step is AdapterStep.UNWANTED:
                        await self._unload(client, one, served)
                for one in list(self.record.adapters):
                    if one.step is AdapterStep.HERE:
                        await self._load(client, one, served)
            except httpx2.TransportError:
                return False
            except EngineRefused as refusal:
                log.warning("adapters.refused", folder=str(self.folder), message=str(refusal))
                return False
            return True

    async def _unload(
        self, client: EngineClient, one: AdapterRecord, served: dict[str, str]
    ) -> None:
        """Raises httpx2.TransportError, EngineRefused."""
        if self.lora is not None and served.get(one.spec.name) == self._path(one):
            await client.do(self.lora.unload(one.spec.name))
            del served[one.spec.name]
        one.off_at = datetime.now(UTC)
        self._move(one, AdapterStep.UNWANTED, AdapterStep.OFF, "")

    async def _load(self, client: EngineClient, one: AdapterRecord, served: dict[str, str]) -> None:
        """Raises httpx2.TransportError, EngineRefused."""
        name, path = one.spec.name, self._path(one)
        if self.lora is None:
            self._move(one, AdapterStep.HERE, AdapterStep.FAILED, NO_ROOM)
            return
        if served.get(name) not in {None, path}:  # another of this name, that nobody knows
            await client.do(self.lora.unload(name))
            del served[name]
        model, most = Path(self.record.weights), self.lora.max_rank
        try:
            await _to_the_end(lambda: weights.check_adapter(Path(path), most, model))
            if name not in served:
                await client.do(self.lora.load(name, path))
                served[name] = path
        except WeightsProblem as problem:
            self._move(one, AdapterStep.HERE, AdapterStep.FAILED, problem.message)
        except EngineRefused as refusal:
            words = f"The engine refuses it: {without_paths(str(refusal))}"
            self._move(one, AdapterStep.HERE, AdapterStep.FAILED, words)
        else:
            self._move(one, AdapterStep.HERE, AdapterStep.LOADED, "")

    def _path(self, one: AdapterRecord) -> str:
        return str(self.folder / one.spec.adapter_id)

    def _move(
        self, one: AdapterRecord, start: AdapterStep, step: AdapterStep, message: str
    ) -> None:
        """Unless it was wanted otherwise meanwhile."""
        if one.step is start:
            one.step, one.message = step, message
            log.info("adapter.moved", folder=self._path(one), step=step, message=message)
            self.save()

    # What is left of those that are off

    def _clear(self) -> None:
        """Remove the files that no request can need any more. Before there is a process none
        can."""
        begun = self.record.started_at is not None
        for one in list(self.record.adapters):
            unneeded = one.step is AdapterStep.UNWANTED and not begun
            if unneeded or (one.step is AdapterStep.OFF and self._is_over(one)):
                self.record.adapters.remove(one)
                shutil.rmtree(self._path(one), ignore_errors=True)
                self.save()

    def _is_over(self, one: AdapterRecord) -> bool:
        since = datetime.now(UTC) - (one.off_at or datetime.now(UTC))
        figures = self.record.figures
        quiet = figures is not None and not figures.running and not figures.waiting
        return since > LINGERS_AT_MOST or (quiet and since > LINGERS)


async def _to_the_end(work: Callable[[], None]) -> None:
    """In a thread, which is waited for even if we are cancelled: its files may be removed next."""
    thread = asyncio.create_task(asyncio.to_thread(work))
    try:
        await asyncio.shield(thread)
    except asyncio.CancelledError:
        await asyncio.gather(thread, return_exceptions=True)
        raise


def _tell_of_defects(task: "asyncio.Task[None]") -> None:
    if not task.cancelled() and (error := task.exception()):
        log.error("adapters.defect", exc_info=error)
