"""The books of one request: ADMIT, CHECKPOINT, FINAL; what it used of its limits; its figures."""

import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from billing.usage_record import Admit, Final, Outcome, Usage, UsageSource
from inference.gateway import access, metrics
from inference.gateway.journal import now_us
from inference.gateway.output import Output
from inference.gateway.tables import FREE, Key, Price
from inference.gateway.tracing import Span

if TYPE_CHECKING:
    from inference.gateway.connection import GatewayProtocol
    from inference.gateway.limits import Permit

log = logging.getLogger(__name__)

NOBODY = bytes(16)
NOTHING = Usage()

Then = Callable[[], None]


class Bill(Output):
    """One request, metered. Times are monotonic seconds."""

    __slots__ = (
        "_held",
        "_permits",
        "_price",
        "_series",
        "admitted",
        "ended",
        "first_at",
        "received",
        "span",
    )

    def __init__(self, protocol: "GatewayProtocol") -> None:
        super().__init__(protocol)
        self.received = 0.0  # when its last byte came
        self.first_at = 0.0  # when the first content of its answer went out
        self.admitted = False  # there is an ADMIT
        self.ended = False  # its end is decided; the last bytes may still wait for the disk
        self.span: Span | None = None
        self._series: metrics.Series | None = None  # while it counts as under way
        self._price: Price = FREE
        self._permits: tuple[Permit, ...] = ()
        self._held = 0  # nano-units that are set aside for it: the most that it may cost

    def admit(
        self,
        key: Key,
        instance_id: bytes,
        replica_id: bytes,
        model: str,
        stream: bool,
        price: Price,
    ) -> None:
        """Before each attempt at an engine; the newest counts. `written` is called in a moment."""
        record = Admit(
            self.request_id,
            key.organization_id,
            key.id,
            instance_id,
            replica_id,
            model,
            self.call.endpoint,
            stream,
            now_us(),
            self.client_request_id,
            price.version_id,
            self.tag,
            self._held,
        )
        self.runtime.journal.admit(record, self.written)
        self.admitted = True
        self._price = price
        self.count_as(key.organization_id, instance_id, model)

    def written(self, ok: bool) -> None:
        """The ADMIT is in the journal, or cannot be: nothing is served that is not metered."""
        raise NotImplementedError

    def count_as(self, organization_id: bytes, instance_id: bytes, model: str) -> None:
        """Whose figures it is part of; the newest counts."""
        series = metrics.series(organization_id, instance_id, model, self.call.endpoint)
        if series is not self._series:
            if self._series is not None:
                self._series.withdraw()
            self._series = series
            series.begin()

    def first_content(self, now: float) -> None:
        self.first_at = now

    def final(
        self,
        used: Usage,
        source: UsageSource,
        outcome: Outcome,
        status: int,
        finish: str,
        then: Then | None,
    ) -> None:
        """Close the request's books; `then` runs when that is on disk, or nobody ever hears it."""
        if self.ended:
            return
        self.ended = True
        now = time.monotonic()
        spent = self.count(status, used, now)

        def closed(durable: bool) -> None:
            if then is None or self.protocol.transport is None:
                return
            if durable:
                then()
            else:
                log.error("an answer is held back, for its usage cannot be recorded")
                self.protocol.cut()

        if not self.admitted:
            closed(True)
            return
        record = Final(
            self.request_id,
            used,
            source,
            outcome,
            status,
            finish,
            round((self.first_at - self.received) * 1e6) if self.first_at else -1,
            round((now - self.received) * 1e6),
            spent,
        )
        self.runtime.journal.final(record, closed)

    def _tell(self, status: int, used: Usage, now: float) -> None:
        """The trace and the access log, where there are any."""
        series, key, endpoint = self._series, self.key, self.call.endpoint
        organization, instance, model = "", "", ""
        if series is not None:
            organization, instance, model, _ = series.figures.labels
        if self.span is not None:
            self.span.end(status, used, model, endpoint, instance)
        if self.runtime.access is not None:
            self.runtime.access.add(
                access.Line(
                    datetime.now(UTC),
                    self.shown_id.decode(),
                    status,
                    endpoint,
                    organization,
                    key.id.hex() if key else "",
                    model,
                    instance,
                    self.client_request_id,
                    used.prompt_tokens,
                    used.completion_tokens,
                    used.cached_tokens,
                    used.reasoning_tokens,
                    round((self.first_at - self.received) * 1000, 1) if self.first_at else None,
                    round((now - self.received) * 1000, 1),
                )
            )

    def count(self, status: int, used: Usage, now: float) -> int:
        """Once, at the end: the figures, and what it takes of its limits. Nano-units of the credit
        that was set aside."""
        spent = 0
        permits, self._permits = self._permits, ()
        for permit in permits:
            spent += permit.leave(used, self._price if self.admitted else FREE)
        if self.runtime.tells:
            self._tell(status, used, now)
        series, self._series = self._series, None
        if series is not None:
            ttft = self.first_at - self.received if self.first_at else -1.0
            series.end(status, used, now - self.received, ttft)
        else:
            organization_id = NOBODY if self.key is None else self.key.organization_id
            metrics.series(organization_id, NOBODY, "", self.call.endpoint).refuse(status)
            metrics.BOOK.limited += status == 429
        return spent
