"""From records to rows: the one way into the usage table, and what pages ask of it."""

import logging
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from django.db import DatabaseError, DataError, IntegrityError, connection, transaction
from django.utils import timezone

from billing import holds
from billing.usage_record import Admit, Final
from portal.lib.ids import uuid7_floor

log = logging.getLogger(__name__)

REFUSALS = (DataError, IntegrityError)  # what a database says of a row that it will never take

COLUMNS = (
    "request_id",
    "organization_id",
    "key_id",
    "instance_id",
    "replica_id",
    "model",
    "endpoint",
    "stream",
    "prompt_tokens",
    "cached_tokens",
    "completion_tokens",
    "reasoning_tokens",
    "source",
    "outcome",
    "status",
    "finish_reason",
    "ttft_us",
    "duration_us",
    "admitted_at",
    "client_request_id",
    "price_version_id",
)
_COLUMN_LIST = ", ".join(COLUMNS)
_STAGING = "billing_usage_incoming"

# Last use is a convenience for people: it follows the usage rows and never goes back in time.
_TOUCH_KEYS = f"""
    UPDATE accounts_apikey AS k SET last_used_at = i.last
    FROM (SELECT key_id, max(admitted_at) AS last FROM {_STAGING} GROUP BY key_id) AS i
    WHERE k.id = i.key_id AND (k.last_used_at IS NULL OR k.last_used_at < i.last)
"""  # noqa: S608


def row(admit: Admit, final: Final) -> tuple[Any, ...]:
    """The usage row of one finished request, in the order of COLUMNS."""
    usage = final.usage
    return (
        UUID(bytes=admit.request_id),
        UUID(bytes=admit.organization_id),
        UUID(bytes=admit.key_id),
        UUID(bytes=admit.instance_id),
        UUID(bytes=admit.replica_id),
        admit.model,
        admit.endpoint,
        admit.stream,
        usage.prompt_tokens,
        usage.cached_tokens,
        usage.completion_tokens,
        usage.reasoning_tokens,
        str(final.source),
        str(final.outcome),
        final.status,
        final.finish_reason,
        final.ttft_us if final.ttft_us >= 0 else None,
        final.duration_us,
        datetime.fromtimestamp(admit.admitted_at_us / 1_000_000, UTC),
        admit.client_request_id,
        UUID(bytes=admit.price_version),
    )


def ingest(finished: Sequence[tuple[Admit, Final]], writer: str = "") -> int:
    """Insert the requests that are not there yet; returns how many were new.

    Idempotent by request id: a replay is a no-op. All or nothing: a failure leaves no half batch.
    `writer` is of the gateway whose journal they are from, and whose leases of credit they settle.
    """
    if not finished:
        return 0
    with transaction.atomic(), connection.cursor() as cursor:
        spent = holds.spent_by_new(finished)
        cursor.execute(f"CREATE TEMPORARY TABLE {_STAGING} (LIKE billing_usage) ON COMMIT DROP")
        with cursor.copy(f"COPY {_STAGING} ({_COLUMN_LIST}) FROM STDIN") as copy:
            for admit, final in finished:
                copy.write_row(row(admit, final))
        cursor.execute(
            f"INSERT INTO billing_usage ({_COLUMN_LIST}) SELECT {_COLUMN_LIST} FROM {_STAGING} "  # noqa: S608
            "ON CONFLICT (request_id) DO NOTHING"
        )
        new = cursor.rowcount
        cursor.execute(_TOUCH_KEYS)
        cursor.execute(f"DROP TABLE {_STAGING}")
        holds.settle(writer, spent)  # last: whoever takes a lease locks in this order, too
    return new


def ingest_or_set_aside(
    finished: Sequence[tuple[Admit, Final]],
    writer: str = "",
) -> list[tuple[Admit, Final, DatabaseError]]:
    """Ingest; where the batch is refused, find the rows at fault and return them with the reason.

    One impossible record must not hold up everybody's bill behind it. Only refusals of the data
    are handled; a database that is away raises OperationalError, and the caller tries again.
    """
    try:
        ingest(finished, writer)
    except REFUSALS as error:
        if len(finished) == 1:
            admit, final = finished[0]
            log.error("usage row %s was refused: %s", UUID(bytes=admit.request_id), error)
            return [(admit, final, error)]
        middle = len(finished) // 2
        first, second = finished[:middle], finished[middle:]
        return ingest_or_set_aside(first, writer) + ingest_or_set_aside(second, writer)
    return []


def ensure_partitions(now: datetime | None = None, months_ahead: int = 2) -> None:
    """Make the monthly partitions of this month and the next ones.

    Where rows are in the default partition already (the clock jumped, the schedule slept), they are
    moved into the new partition in the same transaction, so that nothing is ever out of place.
    """
    first = (
        (now or timezone.now())
        .astimezone(UTC)
        .replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    )
    for _ in range(months_ahead + 1):
        following = (first + timedelta(days=32)).replace(day=1)
        _ensure_partition(first, following)
        first = following


def _ensure_partition(start: datetime, end: datetime) -> None:
    name = f"billing_usage_{start:%Y_%m}"
    low, high = uuid7_floor(start), uuid7_floor(end)
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(hashtext('billing_usage partitions'))")
        cursor.execute("SELECT to_regclass(%s)", [name])
        if cursor.fetchone()[0] is not None:
            return
        cursor.execute(f"CREATE TABLE {name} (LIKE billing_usage INCLUDING ALL)")
        cursor.execute(
            f"WITH moved AS (DELETE FROM billing_usage_default "  # noqa: S608
            "WHERE request_id >= %s AND request_id < %s RETURNING *) "
            f"INSERT INTO {name} SELECT * FROM moved",
            [low, high],
        )
        # Django refuses parameters in DDL, and both bounds are UUIDs of our own making.
        cursor.execute(
            f"ALTER TABLE billing_usage ATTACH PARTITION {name} "
            f"FOR VALUES FROM ('{low}') TO ('{high}')"
        )
