"""Identifiers. UUIDv7 (RFC 9562, section 5.7): 48 bits of Unix milliseconds, then random bits.

They sort by time, so a primary key made of one is also an index by time and a partition key.
"""

import os
import time
from datetime import UTC, datetime
from uuid import UUID


def uuid7(unix_ms: int | None = None) -> UUID:
    """A new UUIDv7 for now, or for the given moment in milliseconds since 1970-01-01 UTC."""
    ms = time.time_ns() // 1_000_000 if unix_ms is None else unix_ms
    value = (ms << 80) | int.from_bytes(os.urandom(10), "big")
    value = (value & ~(0xF << 76)) | (0x7 << 76)
    value = (value & ~(0x3 << 62)) | (0x2 << 62)
    return UUID(int=value)


def uuid7_time(value: UUID) -> datetime:
    """The moment (UTC, to the millisecond) that a UUIDv7 carries."""
    return datetime.fromtimestamp((value.int >> 80) / 1000, UTC)


def uuid7_floor(moment: datetime) -> UUID:
    """The smallest UUIDv7 of that moment: `request_id >= uuid7_floor(t)` means "since t"."""
    ms = int(moment.timestamp() * 1000)
    return UUID(int=(ms << 80) | (0x7 << 76) | (0x2 << 62))
