"""The fact of consumption that the gateway writes and the meter ships. PURE.

Three records share one request id (TRUST, Metering 2): ADMIT before the engine is contacted,
CHECKPOINT as a stream advances, FINAL before the last bytes of the answer are released.
`settle` folds the records of one request into the one that becomes a usage row.
"""

from enum import StrEnum

import msgspec


class UsageSource(StrEnum):
    """Where the token counts come from."""

    ENGINE = "engine"  # the engine's own usage of the finished answer
    CHECKPOINT = "checkpoint"  # the engine's running usage when the stream was cut
    TOKENIZER = "tokenizer"  # the engine's tokenizer endpoint, for engines that send no usage
    NONE = "none"  # nothing was delivered: refused, failed or never started
    ABSENT = "absent"  # an answer was delivered without usage: flagged, never billed by guess


class Outcome(StrEnum):
    """How the request ended, seen from the client."""

    COMPLETED = "completed"
    CLIENT_GONE = "client_gone"
    REFUSED = "refused"  # we said no before an engine was contacted
    ENGINE_ERROR = "engine_error"  # the engine answered with an error status
    UPSTREAM_FAILED = "upstream_failed"  # the engine broke off or could not be reached
    GATEWAY_DIED = "gateway_died"  # settled by the meter from a dead gateway's journal


class Usage(msgspec.Struct, array_like=True):
    """Token counts. cached is a part of prompt, reasoning a part of completion."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0


class Admit(msgspec.Struct, array_like=True, tag="A"):
    """Written before the engine is contacted. Times are microseconds since 1970-01-01 UTC."""

    request_id: bytes  # 16 bytes, UUIDv7
    organization_id: bytes
    key_id: bytes
    instance_id: bytes
    replica_id: bytes
    model: str
    endpoint: str  # the path after /v1/, e.g. "chat/completions"
    stream: bool
    admitted_at_us: int
    client_request_id: str = ""
    price_version: bytes = bytes(16)
    tag: str = ""  # the caller's own word for what it was for
    held: int = 0  # nano-units set aside for it: the most that it may cost


class Checkpoint(msgspec.Struct, array_like=True, tag="C"):
    """The running usage of a stream; the newest one wins."""

    request_id: bytes
    usage: Usage


class Final(msgspec.Struct, array_like=True, tag="F"):
    """The end of a request. Durations are microseconds by the monotonic clock."""

    request_id: bytes
    usage: Usage
    source: UsageSource
    outcome: Outcome
    status: int  # HTTP status that the client saw; 499 where it hung up before one
    finish_reason: str
    ttft_us: int  # -1 where no token was sent
    duration_us: int
    spent: int = 0  # nano-units of what was set aside, as the gateway has counted


Record = Admit | Checkpoint | Final


def settle(admit: Admit, checkpoint: Checkpoint | None, died_at_us: int) -> Final:
    """The FINAL of a request whose gateway died: its last CHECKPOINT, or nothing delivered."""
    delivered = checkpoint is not None
    return Final(
        request_id=admit.request_id,
        usage=checkpoint.usage if checkpoint else Usage(),
        source=UsageSource.CHECKPOINT if delivered else UsageSource.NONE,
        outcome=Outcome.GATEWAY_DIED,
        status=200 if delivered else 502,
        finish_reason="",
        ttft_us=-1,
        duration_us=max(0, died_at_us - admit.admitted_at_us),
    )
