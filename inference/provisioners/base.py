"""What the reconciler may ask of a place where engines run.

All methods are synchronous, quick and idempotent: they set something going or look at it, and never
wait for an engine. `observe` is how one learns what came of it. Places do not decide: a replica
runs at most once, whatever becomes of it; starting again is a new replica.

Errors, drawn by what the caller can do:

    ProvisionerError
    ├── Retryable      try the same again later
    ├── Rejected       this will not do here as it stands: `reason` for programs, text for people
    └── Unavailable    the place cannot be reached: nothing is known, so nothing may be re-created
"""

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from typing import Protocol

import msgspec

from inference.lifecycle import Stage
from inference.measured import Measured


class Reason(StrEnum):
    """Why an engine does not run: the closed set."""

    INSUFFICIENT_CAPACITY = "insufficient_capacity"
    QUOTA_EXCEEDED = "quota_exceeded"
    IMAGE_ERROR = "image_error"  # the engine's own environment cannot be had
    BAD_ARGUMENTS = "bad_arguments"  # settings or a model that the engine refuses
    OUT_OF_MEMORY = "out_of_memory"
    LOAD_TIMEOUT = "load_timeout"
    NODE_LOST = "node_lost"
    PREEMPTED = "preempted"
    TIME_LIMIT = "time_limit"
    CRASHED = "crashed"
    CANCELLED = "cancelled"  # ended because it was asked to
    BACKEND_UNREACHABLE = "backend_unreachable"  # hub, registry or cluster does not answer


class ProvisionerError(Exception):
    retryable = False


class Retryable(ProvisionerError):
    retryable = True


class Rejected(ProvisionerError):
    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


class Unavailable(ProvisionerError):
    retryable = True


class Draft(msgspec.Struct, kw_only=True, frozen=True):
    """A second model, which guesses what the first one then checks; the fields are as a Spec's."""

    source: str
    model_id: str
    revision: str
    path: str = ""


class Spec(msgspec.Struct, kw_only=True, frozen=True):
    """One replica: what should run. Never changes for a given `replica_id`."""

    replica_id: str
    instance_id: str
    generation: int
    engine: str  # "vllm"
    model_source: str  # "bundled" | "local" | "hub"
    model_id: str
    model_revision: str  # the commit hash for "hub"
    model_path: str = ""  # the folder, for "bundled" and "local"
    model_file: str = ""  # the chosen .gguf in it; empty: all its safetensors
    draft: Draft | None = None
    served_model_name: str
    settings: dict[str, bool | int | float | str] = {}
    gpu_count: int = 0
    hub_token: str = ""  # for gated models; kept in memory only, handed on by environment

    def __repr__(self) -> str:  # the token must not reach a traceback or a log
        return f"Spec({self.replica_id!r}, {self.engine!r}, {self.model_id!r})"


class AdapterSpec(msgspec.Struct, kw_only=True, frozen=True):
    """A LoRA adapter that a replica should have. Never changes for a given `adapter_id`."""

    adapter_id: str
    name: str  # what the engine serves it by
    source: str  # "local" | "hub"
    model_id: str
    model_revision: str  # the commit hash for "hub"
    path: str = ""  # the folder, for "local"
    hub_token: str = ""  # kept in memory only, handed on by environment

    def __repr__(self) -> str:  # the token must not reach a traceback or a log
        return f"AdapterSpec({self.adapter_id!r}, {self.name!r}, {self.model_id!r})"


class AdapterPhase(StrEnum):
    LOADING = "loading"  # being fetched, or waiting for the engine
    LOADED = "loaded"  # the engine serves it by its name
    FAILED = "failed"  # not tried again by itself
    UNLOADING = "unloading"  # not wanted any more, and still there


class AdapterSeen(msgspec.Struct, kw_only=True, frozen=True):
    adapter_id: str
    phase: AdapterPhase
    message: str = ""  # a sentence for people


class Handle(msgspec.Struct, kw_only=True, frozen=True):
    """What finds a replica again; kept as JSON in `Replica.handle` (msgspec.to_builtins)."""

    provisioner: str
    replica_id: str
    instance_id: str
    generation: int
    data: dict[str, str] = {}  # the place's own: a job number, a pod's name


class Phase(StrEnum):
    PROVISIONING = "provisioning"  # stages queued, installing_engine, downloading
    LOADING = "loading"  # a process is up: stages starting, loading, warming
    READY = "ready"  # a real generation succeeded
    DEGRADED = "degraded"  # was ready, the process is up and does not answer
    ASLEEP = "asleep"  # holds no GPU, keeps its weights at hand and wakes in seconds
    STOPPING = "stopping"
    EXITED = "exited"  # will not run again; logs are still there
    GONE = "gone"  # not known here (any more)


class Progress(msgspec.Struct, frozen=True):
    done: int
    total: int | None  # None: not known yet
    unit: str  # "bytes" | "packages"
    seconds_left: int | None = None  # at the pace of the last seconds; None: cannot be told


class ProbeUsage(msgspec.Struct, frozen=True):
    """What readiness probes have consumed: in the engine's counters, on nobody's bill."""

    prompt_tokens: int
    completion_tokens: int
    requests: int = 1


class Histogram(msgspec.Struct, frozen=True):
    """Durations in seconds, counted: `counts[i]` of those up to `bounds[i]` and above the bound
    before it; one count more than bounds, for what is above them all."""

    bounds: list[float]
    counts: list[int]
    total: float = 0.0  # the sum of all durations


class GpuFigures(msgspec.Struct, frozen=True):
    """One GPU at a moment, as its driver says. Sizes in bytes."""

    index: int
    memory_used: int
    memory_total: int
    utilization: float  # 0 to 1: the part of the last moment in which anything ran


class Figures(msgspec.Struct, kw_only=True, frozen=True):
    """What an engine counts and measures of itself. None: it does not say."""

    process: str  # counters start again at 0 where this is another one
    prompt_tokens: int = 0  # counters, since the process began
    completion_tokens: int = 0
    requests: int = 0
    preemptions: int = 0
    prefix_queries: int = 0
    prefix_hits: int = 0
    running: int = 0  # requests, now
    waiting: int = 0
    kv_cache_usage: float | None = None  # 0 to 1
    ttft: Histogram | None = None  # to the first token
    itl: Histogram | None = None  # between tokens
    e2e: Histogram | None = None  # the whole request
    queue_time: Histogram | None = None
    gpus: list[GpuFigures] = []  # those it holds
    cpu_seconds: float | None = None  # a counter: processor time of all its processes
    memory_bytes: int | None = None  # resident, of all its processes


class Observed(msgspec.Struct, kw_only=True, frozen=True):
    phase: Phase
    generation: int = 0
    stage: Stage = Stage.NONE
    message: str = ""  # a sentence for people
    progress: Progress | None = None
    address: str = ""  # "unix:/path/engine.sock" or "http://host:port"; read anew each time
    pid: int | None = None
    exit_code: int | None = None  # negative: the signal that ended it
    reason: Reason | None = None  # set when exited
    log_tail: list[str] = []  # the last lines, when exited
    probe: ProbeUsage | None = None
    engine_version: str = ""
    context_length: int | None = None  # tokens, as the engine serves it
    chats: bool | None = None  # whether the model has a chat template; None: it does not say
    node: str = ""  # the machine's name
    gpu_type: str = ""
    gpu_indices: list[int] = []
    measured: Measured | None = None
    started_at: datetime | None = None  # UTC, the process's start
    ready_at: datetime | None = None
    ended_at: datetime | None = None  # UTC, when it exited
    figures: Figures | None = None
    # UTC: since when it has had no request and no counter has moved. None: it computes, it is not
    # ready, or its engine does not say.
    idle_since: datetime | None = None
    can_sleep: bool = False  # `sleep` would free its GPUs and keep it at hand
    adapters: list[AdapterSeen] = []  # that it has, is to have, or has not got rid of


class Sight(msgspec.Struct, frozen=True):
    """One of all replicas that a place knows, as it is now."""

    handle: Handle
    observed: Observed


class Gpu(msgspec.Struct, frozen=True):
    index: int
    name: str
    memory_bytes: int
    replica_id: str = ""  # who holds it; empty: free


class EngineStatus(msgspec.Struct, kw_only=True, frozen=True):
    """An engine's environment at a place."""

    name: str
    variant: str  # "cpu" | "cuda"
    version: str
    installed: bool
    message: str = ""
    progress: Progress | None = None


class Walls(msgspec.Struct, kw_only=True, frozen=True):
    """Whether engines at a place are kept from everything else there."""

    up: bool
    message: str  # a sentence for people: how, or why not


class NodeStatus(msgspec.Struct, kw_only=True, frozen=True):
    """A machine. Sizes in bytes."""

    name: str
    cpu_count: int
    memory_bytes: int
    memory_free_bytes: int
    disk_free_bytes: int
    gpus: list[Gpu] = []
    walls: Walls | None = None  # None: not known


class Health(msgspec.Struct, kw_only=True, frozen=True):
    ok: bool
    message: str = ""
    nodes: list[NodeStatus] = []
    engines: list[EngineStatus] = []


class Offer(msgspec.Struct, kw_only=True, frozen=True):
    """One way in which a spec could run here now."""

    node: str
    variant: str  # "cpu" | "cuda"
    gpu_type: str = ""
    gpu_count: int = 0
    memory_bytes: int = 0  # of the GPUs, else of the machine: what the engine may take
    message: str = ""


class Event(msgspec.Struct, frozen=True):
    at: datetime
    reason: str
    message: str


class LogChunk(msgspec.Struct, frozen=True):
    """Text of an engine's log. `next_offset` asks for what follows; old text is dropped in time."""

    text: str
    next_offset: int


class Provisioner(Protocol):
    """Every method may raise Unavailable."""

    name: str

    def check(self) -> Health: ...

    def offers(self, spec: Spec) -> list[Offer]:
        """Ways to run it now; none when there is no room."""
        ...

    def ensure(self, spec: Spec, handle: Handle | None = None) -> Handle:
        """See to it that the replica is on its way or up. Raises Rejected, Retryable."""
        ...

    def observe(self, handle: Handle) -> Observed: ...

    def observe_all(self) -> list[Sight]:
        """All replicas that this place knows: one look for all, however many there are. Without
        the tails of logs, which would make it long."""
        ...

    def adapters(self, handle: Handle, wanted: Sequence[AdapterSpec]) -> None:
        """See to it that the replica gets these LoRA adapters and no others, now or once it is
        ready. What becomes of each is observed; none of them can harm the replica. One that has
        failed stays so, until it is not wanted and then wanted again."""
        ...

    def stop(self, handle: Handle, grace: float = 30.0) -> None:
        """Begin to end it, once it has answered what it is answering: a polite signal, and within
        `grace` seconds the last one. Asked again, the shorter grace holds. Keeps the logs."""
        ...

    def sleep(self, handle: Handle) -> bool:
        """Begin to free its GPUs and keep it at hand, once what it computes is done; asking again
        changes nothing. False where it cannot, so that it has to be stopped. One that is asleep
        may be ended at any time (`preempted`), for its place can be given to others."""
        ...

    def wake(self, handle: Handle) -> None:
        """Begin to rouse one that is asleep; `observe` is how one learns what came of it."""
        ...

    def delete(self, handle: Handle) -> None:
        """Begin to remove process, socket and files; `observe` says GONE when all is gone."""
        ...

    def logs(self, handle: Handle, *, offset: int | None = None, limit: int = 65536) -> LogChunk:
        """At most `limit` bytes from `offset`; without an offset, the end."""
        ...

    def events(self, handle: Handle) -> list[Event]: ...

    def list(self) -> list[Handle]:
        """All replicas this place knows, so that forgotten ones can be removed."""
        ...
