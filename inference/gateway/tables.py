"""What the gateway knows: keys, instances with their replicas, routes, providers. PURE.

`snapshot` fills these from PostgreSQL; everything on the way of a request reads them.
"""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from inference.engines.base import Wire


class Meter(StrEnum):
    """What a limit counts."""

    REQUESTS = "requests"
    TOKENS = "tokens"  # prompt and completion
    CONCURRENT = "concurrent"  # requests under way
    SPEND = "spend"  # nano-units of the organization's currency
    CREDIT = "credit"  # likewise, of what it has: a limit that nobody sets


class Window(StrEnum):
    """For how long a limit counts, from one fixed border in UTC to the next."""

    MINUTE = "minute"
    DAY = "day"
    MONTH = "month"
    NOW = "now"  # of CONCURRENT and CREDIT, which have no window


@dataclass(slots=True, frozen=True)
class Limit:
    id: bytes
    scope: str  # of "organization", "project", "member", "key", "instance", for words
    meter: Meter
    window: Window
    amount: int


@dataclass(slots=True, frozen=True)
class Credit(Limit):
    """What an organization may spend. Its id is the organization's."""

    scope: str = "credit"
    meter: Meter = Meter.CREDIT
    window: Window = Window.NOW
    amount: int = 0  # billing knows
    currency: str = ""  # ISO 4217
    page: str = ""  # address of the page to top it up
    postpaid: bool = False  # it is a credit line
    suspended: bool = False  # used up: nothing that costs is let in


@dataclass(slots=True, frozen=True)
class Price:
    """Nano-units (1e-9 of the currency) for a million tokens; cached and reasoning are subsets."""

    version_id: bytes
    prompt: int = 0
    cached: int = 0
    completion: int = 0
    reasoning: int = 0
    request: int = 0  # nano-units for each request
    discount: int = 0  # basis points off the whole
    currency: str = ""  # ISO 4217
    missing: bool = False  # there is none, so nothing is let in (a price of 0 is one)
    costs: bool = field(init=False)  # anything at all

    def __post_init__(self) -> None:
        rates = self.prompt, self.cached, self.completion, self.reasoning, self.request
        object.__setattr__(self, "costs", any(rates))


FREE = Price(bytes(16))


@dataclass(slots=True, eq=False)
class Replica:
    id: bytes
    instance_id: bytes
    address: str
    context_length: int | None
    outstanding: int = 0
    failures: int = 0  # in a row, of the replica's own making
    open_until: float = 0.0  # monotonic seconds; until then nobody is sent there


@dataclass(slots=True, eq=False)
class Instance:
    id: bytes
    organization_id: bytes
    name: str
    state: str
    endpoints: frozenset[str]  # paths under /v1 that its engine offers
    created_at: datetime
    engine: str = "vllm"
    wire: Wire = Wire()  # how that engine's answers are counted
    wanted: bool = True  # a person wants it to run; a stopping one takes no more requests
    limits: tuple[Limit, ...] = ()
    asleep: bool = False  # it is to sleep until a request or a person wakes it
    waited_for: bool = False  # requests wait while it is not ready: it sleeps, or comes from there
    failure: str = ""  # why it could not start, a sentence for people
    stage: str = ""  # of its start
    typical_start_seconds: int | None = None  # as measured
    woken_at: float = 0.0  # seconds since 1970-01-01 UTC; 0: not by a wish to wake
    queue_size: int = 0  # requests that may wait for a slot; 0: refuse at once
    queue_seconds: int = 30
    price: Price = FREE
    replicas: list[Replica] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class Adapter:
    """A LoRA adapter of an instance: a name of its own for some of its replicas."""

    name: str
    created_at: datetime
    instance: Instance  # as this adapter has it: only the replicas that have loaded it
    failure: str = ""  # why it cannot be loaded, a sentence for people
    loading: bool = False  # its instance serves, and has not loaded it (yet)


@dataclass(slots=True, eq=False)
class Provider:
    """An OpenAI-compatible service elsewhere, called with the organization's own secret."""

    id: bytes
    organization_id: bytes
    name: str
    base_url: str  # https://…/v1, without a slash at its end
    secret: str = field(repr=False)
    price: Price = FREE
    outstanding: int = 0
    failures: int = 0
    open_until: float = 0.0


@dataclass(slots=True, frozen=True)
class Target:
    """One way of a route: an instance, or a provider's model."""

    instance_id: bytes | None
    provider_id: bytes | None
    provider_model: str
    tier: int  # 0 is tried first; a higher one only when all of the lower have failed
    weight: int  # of the traffic within its tier


@dataclass(slots=True, eq=False)
class Route:
    id: bytes
    organization_id: bytes
    name: str
    data_may_leave: bool  # whether an own instance's request may fall back to a provider
    created_at: datetime
    targets: tuple[Target, ...] = ()


@dataclass(slots=True, eq=False)
class Key:
    id: bytes
    organization_id: bytes
    kind: str
    models_allowed: frozenset[str]  # empty: all
    expires_at: float | None  # seconds since 1970-01-01 UTC
    limits: tuple[Limit, ...] = ()  # its own, its maker's and its organization's
    origins: frozenset[str] = frozenset()  # browser origins that may use it; "*": any
    membership_id: bytes = b""  # of who made it
    credit: Credit | None = None  # its organization's; None: not known yet
