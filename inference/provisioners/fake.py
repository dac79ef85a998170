"""A place that exists only in memory: for tests of whoever talks to provisioners, and for demos.

It keeps the contract of `base` and moves one step further each time it is looked at, so that a
caller sees every phase without waiting. What a real place suffers can be done to it: `crash`,
`silence`, `unreachable`, `gpus`, `spoil`; `compute`, `work` and `rest` are what its tenants do,
`measured` is what its engines say of their memory.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from msgspec.structs import replace

from inference.lifecycle import Stage
from inference.measured import Measured
from inference.provisioners.base import (
    AdapterPhase,
    AdapterSeen,
    AdapterSpec,
    Event,
    Figures,
    Gpu,
    Handle,
    Health,
    LogChunk,
    NodeStatus,
    Observed,
    Offer,
    Phase,
    ProbeUsage,
    Reason,
    Rejected,
    Sight,
    Spec,
    Unavailable,
)

GPU_TYPE = "Fake GPU"
_WAY_UP = (
    (Phase.PROVISIONING, Stage.QUEUED, "Waiting to start."),
    (Phase.LOADING, Stage.STARTING, "Starting the engine."),
    (Phase.LOADING, Stage.WARMING, "Generating the first words."),
    (Phase.READY, Stage.NONE, "Ready."),
)
_WARMING = 2  # where one that is roused goes on


@dataclass
class _Replica:
    spec: Spec
    step: int = 0
    phase: Phase = Phase.PROVISIONING
    reason: Reason | None = None
    exit_code: int | None = None
    message: str = ""
    deleting: bool = False
    log: str = "The fake engine starts.\n"
    events: list[Event] = field(default_factory=list)
    started_at: datetime | None = None
    ended_at: datetime | None = None
    idle_since: datetime | None = None
    figures: Figures = Figures(process="fake")
    gpu_indices: list[int] = field(default_factory=list)
    chats: bool = True
    silent: bool = False
    adapters: dict[str, AdapterSeen] = field(default_factory=dict)  # by id


class FakeProvisioner:
    name = "fake"

    def __init__(self, *, gpus: int = 0, address: str = "unix:/nowhere/engine.sock") -> None:
        self.gpus = gpus
        self.address = address
        self.unreachable = False
        self.measured: Measured | None = None
        self.replicas: dict[str, _Replica] = {}
        self.spoiled: dict[str, str] = {}  # names of adapters that cannot be loaded, and why

    # The contract

    def check(self) -> Health:
        self._reach()
        node = NodeStatus(
            name="fake",
            cpu_count=1,
            memory_bytes=1 << 34,
            memory_free_bytes=1 << 34,
            disk_free_bytes=1 << 40,
            gpus=[Gpu(index, GPU_TYPE, 1 << 36, held) for index, held in self._holders().items()],
        )
        return Health(ok=True, nodes=[node])

    def offers(self, spec: Spec) -> list[Offer]:
        self._reach()
        if spec.gpu_count > len(self._free_gpus()):
            return []
        variant = "cuda" if spec.gpu_count else "cpu"
        return [Offer(node="fake", variant=variant, gpu_count=spec.gpu_count)]

    def ensure(self, spec: Spec, handle: Handle | None = None) -> Handle:
        self._reach()
        if spec.replica_id not in self.replicas:
            if spec.engine != "vllm":
                raise Rejected(Reason.BAD_ARGUMENTS, f"There is no engine called {spec.engine}.")
            free = self._free_gpus()
            if spec.gpu_count > len(free):
                raise Rejected(Reason.INSUFFICIENT_CAPACITY, f"{len(free)} GPUs are free here.")
            taken = [*free[: spec.gpu_count]]
            for other in self.replicas.values():
                if other.phase is Phase.ASLEEP and set(other.gpu_indices) & set(taken):
                    self._preempt(other)
            self.replicas[spec.replica_id] = _Replica(spec, gpu_indices=taken)
        return _handle(self.replicas[spec.replica_id].spec)

    def observe(self, handle: Handle) -> Observed:
        self._reach()
        replica = self.replicas.get(handle.replica_id)
        if replica is None:
            return Observed(phase=Phase.GONE)
        observed = self._observed(replica)
        self._advance(handle.replica_id, replica)
        return observed

    def observe_all(self) -> list[Sight]:
        self._reach()
        handles = [_handle(replica.spec) for replica in self.replicas.values()]
        return [Sight(handle, replace(self.observe(handle), log_tail=[])) for handle in handles]

    def adapters(self, handle: Handle, wanted: Sequence[AdapterSpec]) -> None:
        self._reach()
        replica = self.replicas.get(handle.replica_id)
        if replica is None:
            return
        for spec in wanted:
            replica.adapters.setdefault(spec.adapter_id, self._begun(replica, spec))
        for id in replica.adapters.keys() - {spec.adapter_id for spec in wanted}:
            gone = AdapterSeen(adapter_id=id, phase=AdapterPhase.UNLOADING)
            replica.adapters[id] = gone

    def stop(self, handle: Handle, grace: float = 30.0) -> None:
        self._reach()
        replica = self.replicas.get(handle.replica_id)
        if replica is not None and replica.phase is not Phase.EXITED:
            replica.phase, replica.reason = Phase.STOPPING, Reason.CANCELLED

    def sleep(self, handle: Handle) -> bool:
        self._reach()
        replica = self.replicas.get(handle.replica_id)
        if replica is None or not replica.gpu_indices:
            return False
        if replica.phase is Phase.READY:
            replica.phase = Phase.ASLEEP
        return replica.phase is Phase.ASLEEP

    def wake(self, handle: Handle) -> None:
        self._reach()
        replica = self.replicas.get(handle.replica_id)
        if replica is None or replica.phase is not Phase.ASLEEP:
            return
        if any(self._holders()[index] for index in replica.gpu_indices):
            self._preempt(replica)
        else:
            replica.phase, replica.step = Phase.LOADING, _WARMING

    def delete(self, handle: Handle) -> None:
        self.stop(handle)
        replica = self.replicas.get(handle.replica_id)
        if replica is not None and replica.phase is Phase.EXITED:
            del self.replicas[handle.replica_id]
        elif replica is not None:
            replica.deleting = True

    def logs(self, handle: Handle, *, offset: int | None = None, limit: int = 65536) -> LogChunk:
        self._reach()
        replica = self.replicas.get(handle.replica_id)
        text = replica.log if replica else ""
        start = max(0, len(text) - limit) if offset is None else min(offset, len(text))
        return LogChunk(text[start : start + limit], min(start + limit, len(text)))

    def events(self, handle: Handle) -> list[Event]:
        self._reach()
        replica = self.replicas.get(handle.replica_id)
        return replica.events if replica else []

    # Last, because the name hides the built-in type for the annotations below it.
    def list(self) -> list[Handle]:
        self._reach()
        return [_handle(replica.spec) for replica in self.replicas.values()]

    # What may happen to it

    def crash(self, replica_id: str, exit_code: int = 1, reason: Reason = Reason.CRASHED) -> None:
        replica = self.replicas[replica_id]
        replica.phase, replica.exit_code, replica.reason = Phase.EXITED, exit_code, reason
        replica.ended_at = datetime.now(UTC)
        replica.message = f"The engine ended by itself with code {exit_code}."

    def silence(self, replica_id: str, *, over: bool = False) -> None:
        """Let it be up and not answer, or answer again."""
        self.replicas[replica_id].silent = not over

    def spoil(self, name: str, why: str) -> None:
        """Let an adapter of this name fail wherever it is to be loaded."""
        self.spoiled[name] = why

    def compute(self, replica_id: str, figures: Figures) -> None:
        """It has requests, and counts them so."""
        self.replicas[replica_id].figures = figures
        self.work(replica_id)

    def work(self, replica_id: str) -> None:
        """It has requests from now on."""
        self.replicas[replica_id].idle_since = None

    def rest(self, replica_id: str, since: datetime) -> None:
        """It has had no request since then."""
        self.replicas[replica_id].idle_since = since

    def _preempt(self, replica: _Replica) -> None:
        replica.phase, replica.reason = Phase.EXITED, Reason.PREEMPTED
        replica.ended_at, replica.message = datetime.now(UTC), "Its GPUs went to another."

    def _reach(self) -> None:
        if self.unreachable:
            raise Unavailable("The fake place cannot be reached.")

    def _begun(self, replica: _Replica, spec: AdapterSpec) -> AdapterSeen:
        why = self.spoiled.get(spec.name, "")
        if not replica.spec.settings.get("enable_lora"):
            why = "The instance was started without room for adapters."
        phase = AdapterPhase.FAILED if why else AdapterPhase.LOADING
        return AdapterSeen(adapter_id=spec.adapter_id, phase=phase, message=why)

    def _holders(self) -> dict[int, str]:
        """Of each GPU the replica that has it; empty: free."""
        holders = dict.fromkeys(range(self.gpus), "")
        for id, replica in self.replicas.items():
            if replica.phase not in {Phase.EXITED, Phase.ASLEEP}:
                holders |= dict.fromkeys(replica.gpu_indices, id)
        return holders

    def _free_gpus(self) -> Sequence[int]:
        return [index for index, holder in self._holders().items() if not holder]

    def _observed(self, replica: _Replica) -> Observed:
        stage, message = Stage.NONE, replica.message
        if replica.phase not in {Phase.STOPPING, Phase.EXITED, Phase.ASLEEP}:
            replica.phase, stage, message = _WAY_UP[replica.step]
            _note(replica, stage or replica.phase, message)
        if replica.phase is Phase.READY and replica.silent:
            replica.phase, message = Phase.DEGRADED, "The engine does not answer."
        up = replica.phase is Phase.READY
        return Observed(
            phase=replica.phase,
            generation=replica.spec.generation,
            stage=stage,
            message=message,
            reason=replica.reason,
            exit_code=replica.exit_code,
            log_tail=replica.log.splitlines() if replica.phase is Phase.EXITED else [],
            address=self.address if up else "",
            pid=1 if up else None,
            probe=ProbeUsage(6, 2) if up else None,
            engine_version="0.0-fake" if up else "",
            context_length=2048 if up else None,
            chats=replica.chats if up else None,
            node="fake",
            gpu_type=GPU_TYPE if replica.gpu_indices else "",
            gpu_indices=replica.gpu_indices,
            measured=self.measured if up else None,
            idle_since=replica.idle_since if up else None,
            started_at=replica.started_at,
            ready_at=replica.started_at if up else None,
            ended_at=replica.ended_at,
            figures=replica.figures if up else None,
            can_sleep=up and bool(replica.gpu_indices),
            adapters=[] if replica.phase is Phase.EXITED else [*replica.adapters.values()],
        )

    def _advance(self, replica_id: str, replica: _Replica) -> None:
        if replica.phase is Phase.STOPPING:
            if replica.deleting:
                del self.replicas[replica_id]
            else:
                replica.phase, replica.message = Phase.EXITED, "Stopped."
                replica.ended_at = datetime.now(UTC)
        elif replica.phase not in {Phase.EXITED, Phase.ASLEEP}:
            replica.started_at = replica.started_at or datetime.now(UTC)
            if replica.step + 1 < len(_WAY_UP):
                replica.step += 1
                replica.idle_since = datetime.now(UTC)
            _advance_adapters(replica)


def _advance_adapters(replica: _Replica) -> None:
    for id, seen in list(replica.adapters.items()):
        if seen.phase is AdapterPhase.UNLOADING:
            del replica.adapters[id]
        elif seen.phase is AdapterPhase.LOADING and replica.phase is Phase.READY:
            replica.adapters[id] = replace(seen, phase=AdapterPhase.LOADED)


def _note(replica: _Replica, reason: str, message: str) -> None:
    if not replica.events or replica.events[-1].reason != reason:
        replica.events.append(Event(datetime.now(UTC), reason, message))


def _handle(spec: Spec) -> Handle:
    return Handle(
        provisioner="fake",
        replica_id=spec.replica_id,
        instance_id=spec.instance_id,
        generation=spec.generation,
    )
