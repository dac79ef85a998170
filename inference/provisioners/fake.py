"""A place that exists only in memory: for tests of whoever talks to provisioners, and for demos.

It keeps the contract of `base` and moves one step further each time it is looked at, so that a
caller sees every phase without waiting. What a real place suffers can be done to it: `crash`,
`silence`, `unreachable`, `gpus`; `compute`, `work` and `rest` are what its tenants do.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from msgspec.structs import replace

from inference.lifecycle import Stage
from inference.provisioners.base import (
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


class FakeProvisioner:
    name = "fake"

    def __init__(self, *, gpus: int = 0, address: str = "unix:/nowhere/engine.sock") -> None:
        self.gpus = gpus
        self.address = address
        self.unreachable = False
        self.replicas: dict[str, _Replica] = {}

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
            self.replicas[spec.replica_id] = _Replica(spec, gpu_indices=[*free[: spec.gpu_count]])
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

    def stop(self, handle: Handle, grace: float = 30.0) -> None:
        self._reach()
        replica = self.replicas.get(handle.replica_id)
        if replica is not None and replica.phase is not Phase.EXITED:
            replica.phase, replica.reason = Phase.STOPPING, Reason.CANCELLED

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

    def _reach(self) -> None:
        if self.unreachable:
            raise Unavailable("The fake place cannot be reached.")

    def _holders(self) -> dict[int, str]:
        """Of each GPU the replica that has it; empty: free."""
        holders = dict.fromkeys(range(self.gpus), "")
        for id, replica in self.replicas.items():
            if replica.phase is not Phase.EXITED:
                holders |= dict.fromkeys(replica.gpu_indices, id)
        return holders

    def _free_gpus(self) -> Sequence[int]:
        return [index for index, holder in self._holders().items() if not holder]

    def _observed(self, replica: _Replica) -> Observed:
        stage, message = Stage.NONE, replica.message
        if replica.phase not in {Phase.STOPPING, Phase.EXITED}:
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
            idle_since=replica.idle_since if up else None,
            started_at=replica.started_at,
            ready_at=replica.started_at if up else None,
            ended_at=replica.ended_at,
            figures=replica.figures if up else None,
        )

    def _advance(self, replica_id: str, replica: _Replica) -> None:
        if replica.phase is Phase.STOPPING:
            if replica.deleting:
                del self.replicas[replica_id]
            else:
                replica.phase, replica.message = Phase.EXITED, "Stopped."
                replica.ended_at = datetime.now(UTC)
        elif replica.phase is not Phase.EXITED:
            replica.started_at = replica.started_at or datetime.now(UTC)
            if replica.step + 1 < len(_WAY_UP):
                replica.step += 1
                replica.idle_since = datetime.now(UTC)


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
