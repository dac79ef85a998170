"""From records to rows: the one way into the usage table, and what pages ask of it."""

import logging
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from django.db import DatabaseError, DataError, IntegrityError, connection, transaction
from django.utils import timezone

from billing import holds, rating, wallet
from billing.ledger import Kind
from billing.rating import Cost
from billing.usage_record import Admit, Final
from portal.lib.ids import uuid7, uuid7_floor

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
    "tag",
    "cost_nano",
    "currency",
    "transaction_id",
)
_COLUMN_LIST = ", ".join(COLUMNS)
_STAGING = "billing_usage_incoming"

# Whose key it is is looked up when its use is booked: it says nothing of a member who has left.
_INSERT = f"""
    WITH new AS (
        INSERT INTO billing_usage ({_COLUMN_LIST}, membership_id, project_id)
        SELECT {", ".join(f"i.{name}" for name in COLUMNS)}, m.id, k.project_id
        FROM {_STAGING} AS i
        LEFT JOIN accounts_apikey AS k
            ON k.id = i.key_id AND k.organization_id = i.organization_id
        LEFT JOIN accounts_membership AS m
            ON m.organization_id = k.organization_id AND m.user_id = k.created_by_id
        ORDER BY i.request_id  -- two that ship the same must not wait for each other
        ON CONFLICT (request_id) DO NOTHING
        RETURNING transaction_id, cost_nano, request_id::text AS id
    )
    SELECT transaction_id, count(*), sum(cost_nano)::bigint, min(id), max(id)
    FROM new GROUP BY transaction_id
"""  # noqa: S608

# Last use is a convenience for people: it follows the usage rows and never goes back in time.
_TOUCH_KEYS = f"""
    UPDATE accounts_apikey AS k SET last_used_at = i.last
    FROM (SELECT key_id, max(admitted_at) AS last FROM {_STAGING} GROUP BY key_id) AS i
    WHERE k.id = i.key_id AND (k.last_used_at IS NULL OR k.last_used_at < i.last)
"""  # noqa: S608


Payer = tuple[bytes, str]  # an organization, and the currency of its price


def row(admit: Admit, final: Final, cost: Cost, transaction_id: UUID | None) -> tuple[Any, ...]:
    """The usage row of one finished request, in the order of COLUMNS. Ids are as text: to make
    objects of them would cost more than all the rest."""
    usage = final.usage
    return (
        admit.request_id.hex(),
        admit.organization_id.hex(),
        admit.key_id.hex(),
        admit.instance_id.hex(),
        admit.replica_id.hex(),
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
        admit.price_version.hex(),
        admit.tag,
        cost.nano,
        cost.currency,
        transaction_id,
    )


def ingest(finished: Sequence[tuple[Admit, Final]], writer: str = "") -> int:
    """Insert the requests that are not there yet, and charge for them; how many were new.

    Idempotent by request id: a replay is a no-op. All or nothing: a failure leaves no half batch.
    `writer` is of the gateway whose journal they are from, and whose leases of credit they settle.
    """
    if not finished:
        return 0
    with transaction.atomic(), connection.cursor() as cursor:
        spent = holds.spent_by_new(finished)
        costs = rating.rate(finished)
        # One transaction of the ledger for each payer; its rows know it before it is posted.
        postings: dict[Payer, UUID] = {}
        cursor.execute(f"CREATE TEMPORARY TABLE {_STAGING} (LIKE billing_usage) ON COMMIT DROP")
        with cursor.copy(f"COPY {_STAGING} ({_COLUMN_LIST}) FROM STDIN") as copy:
            for (admit, final), cost in zip(finished, costs, strict=True):
                booked = None
                if cost.nano:
                    payer = admit.organization_id, cost.currency
                    booked = postings.get(payer) or postings.setdefault(payer, uuid7())
                copy.write_row(row(admit, final, cost, booked))
        cursor.execute(_INSERT)
        new = cursor.fetchall()
        cursor.execute(_TOUCH_KEYS)
        cursor.execute(f"DROP TABLE {_STAGING}")
        _post(postings, new)
        holds.settle(writer, spent)  # last: whoever takes a lease locks in this order, too
    return sum(count for _, count, *_ in new)


def _post(postings: dict[Payer, UUID], new: list[tuple[Any, ...]]) -> None:
    """Charge each payer for its new rows: once for all of the batch."""
    payers = {id_: payer for payer, id_ in postings.items()}
    charges = []
    for transaction_id, count, nano, first, last in new:
        if transaction_id is not None:
            organization_id, currency = payers[transaction_id]
            # A request is new only once, so the first of them makes a key that nobody has used.
            charges.append(
                wallet.Charge(
                    UUID(bytes=organization_id),
                    currency,
                    nano,
                    Kind.USAGE,
                    f"usage:{first}",
                    {"requests": count, "first": first, "last": last},
                    transaction_id,
                )
            )
    if charges:
        wallet.charge_new(charges)


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
