"""What the supervisor remembers of a replica across its own restarts: `state.json`, 0600."""

import os
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

import msgspec

from inference.engines.base import Variant, gettext_noop
from inference.lifecycle import Stage
from inference.measured import Measured
from inference.node.processes import Identity
from inference.provisioners.base import (
    AdapterPhase,
    AdapterSeen,
    AdapterSpec,
    Event,
    Figures,
    Handle,
    Observed,
    Phase,
    ProbeUsage,
    Progress,
    Reason,
    Spec,
)

EVENTS_KEPT = 100


class Wish(StrEnum):
    RUN = "run"
    SLEEP = "sleep"
    STOP = "stop"
    DELETE = "delete"


class AdapterStep(StrEnum):
    """How far an adapter is."""

    WANTED = "wanted"  # to be fetched
    HERE = "here"  # in the replica's own folder; the engine does not have it yet
    LOADED = "loaded"
    FAILED = "failed"
    UNWANTED = "unwanted"  # the engine may still have it
    OFF = "off"  # the engine has let go of it; requests under way may still need its files


class AdapterRecord(msgspec.Struct, kw_only=True):
    spec: AdapterSpec  # without its hub token
    step: AdapterStep = AdapterStep.WANTED
    message: str = gettext_noop("Waiting to be fetched.")
    wanted_token: bool = False
    off_at: datetime | None = None  # since when the engine has not had it any more

    def seen(self) -> AdapterSeen:
        return AdapterSeen(
            adapter_id=self.spec.adapter_id, phase=_ADAPTER_PHASES[self.step], message=self.message
        )


_ADAPTER_PHASES = {
    AdapterStep.WANTED: AdapterPhase.LOADING,
    AdapterStep.HERE: AdapterPhase.LOADING,
    AdapterStep.LOADED: AdapterPhase.LOADED,
    AdapterStep.FAILED: AdapterPhase.FAILED,
    AdapterStep.UNWANTED: AdapterPhase.UNLOADING,
}


class Record(msgspec.Struct, kw_only=True):
    """The spec is kept without its hub token, which is never written down."""

    spec: Spec
    variant: Variant
    gpu_indices: list[int]
    memory_bytes: int  # reserved until it is ready and the system's own count has it
    wanted_token: bool = False
    wish: Wish = Wish.RUN
    grace: float = 0.0  # seconds
    phase: Phase = Phase.PROVISIONING
    stage: Stage = Stage.QUEUED
    message: str = ""
    progress: Progress | None = None
    weights: str = ""  # the folder, once it is on this machine
    draft_weights: str = ""  # the draft model's
    launching: bool = False  # between the decision to start and knowing the process
    shim: Identity | None = None
    started_at: datetime | None = None
    dozes: bool = False  # its engine has been put to sleep, and not been woken since
    roused_at: datetime | None = None
    ready_at: datetime | None = None
    ended_at: datetime | None = None
    engine_version: str = ""
    context_length: int | None = None
    chats: bool | None = None
    measured: Measured | None = None
    probe: ProbeUsage | None = None
    figures: Figures | None = None
    idle_since: datetime | None = None
    exit_code: int | None = None
    reason: Reason | None = None
    log_tail: list[str] = []
    events: list[Event] = []
    adapters: list[AdapterRecord] = []

    def move(self, phase: Phase, stage: Stage, message: str) -> None:
        """Enter a phase and stage, with the sentence for people; a new one is an event."""
        if (phase, stage) != (self.phase, self.stage) or not self.events:
            self.events.append(Event(datetime.now(UTC), stage or phase, message))
            del self.events[:-EVENTS_KEPT]
        self.phase, self.stage, self.message, self.progress = phase, stage, message, None

    @property
    def is_stocked(self) -> bool:
        """Whether all that it needs was found on this machine."""
        return bool(self.weights) and (self.spec.draft is None or bool(self.draft_weights))

    def handle(self) -> Handle:
        spec = self.spec
        return Handle(
            provisioner="local",
            replica_id=spec.replica_id,
            instance_id=spec.instance_id,
            generation=spec.generation,
        )

    def observed(self, address: str, *, can_sleep: bool) -> Observed:
        up = self.phase in {Phase.READY, Phase.DEGRADED}
        return Observed(
            phase=self.phase,
            generation=self.spec.generation,
            stage=self.stage,
            message=self.message,
            progress=self.progress,
            address=address if up else "",
            pid=self.shim.pid if self.shim else None,
            exit_code=self.exit_code,
            reason=self.reason,
            log_tail=self.log_tail,
            probe=self.probe,
            engine_version=self.engine_version,
            context_length=self.context_length,
            chats=self.chats,
            measured=self.measured,
            gpu_indices=self.gpu_indices,
            started_at=self.started_at,
            ready_at=self.ready_at,
            figures=self.figures if up else None,
            idle_since=self.idle_since if self.phase is Phase.READY else None,
            ended_at=self.ended_at,
            can_sleep=can_sleep and self.phase is Phase.READY,
            adapters=self._adapters_seen(),
        )

    def _adapters_seen(self) -> list[AdapterSeen]:
        """One that has ended has none; of one that is off, only files are left."""
        if self.phase is Phase.EXITED:
            return []
        return [one.seen() for one in self.adapters if one.step is not AdapterStep.OFF]

    def save(self, folder: Path) -> None:
        draft = folder / "state.json.new"
        fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(msgspec.json.encode(self))
        draft.replace(folder / "state.json")


def load(folder: Path) -> Record:
    """Raises FileNotFoundError, msgspec.DecodeError (msgspec.ValidationError is one)."""
    return msgspec.json.decode((folder / "state.json").read_bytes(), type=Record)
