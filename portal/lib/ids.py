"""Identifiers. UUIDv7 (RFC 9562, section 5.7): 48 bits of Unix milliseconds, then random bits.

They sort by time, so a primary key made of one is also an index by time and a partition key.
"""

import os
import random
import time
from datetime import UTC, datetime
from uuid import UUID

# Seeded by the system once per process: an id is no secret, and asking for each costs a call.
_bits = random.Random().getrandbits  # noqa: S311
_VERSION_AND_VARIANT = (0x7 << 76) | (0x2 << 62)
_NEITHER = ~((0xF << 76) | (0x3 << 62))


def uuid7(unix_ms: int | None = None) -> UUID:
    """A new UUIDv7 for now, or for the given moment in milliseconds since 1970-01-01 UTC."""
    ms = time.time_ns() // 1_000_000 if unix_ms is None else unix_ms
    value = (ms << 80) | int.from_bytes(os.urandom(10), "big")
    return UUID(int=(value & _NEITHER) | _VERSION_AND_VARIANT)


def uuid7_pair() -> tuple[bytes, bytes]:
    """A new UUIDv7 for now: its 16 bytes, and its text in ASCII. For the gateway's hot path."""
    ms = time.time_ns() // 1_000_000
    value = (((ms << 80) | _bits(80)) & _NEITHER) | _VERSION_AND_VARIANT
    raw = value.to_bytes(16, "big")
    text = raw.hex()
    shown = f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
    return raw, shown.encode()


def uuid7_time(value: UUID) -> datetime:
    """The moment (UTC, to the millisecond) that a UUIDv7 carries."""
    return datetime.fromtimestamp((value.int >> 80) / 1000, UTC)


def uuid7_floor(moment: datetime) -> UUID:
    """The smallest UUIDv7 of that moment: `request_id >= uuid7_floor(t)` means "since t"."""
    ms = int(moment.timestamp() * 1000)
    return UUID(int=(ms << 80) | (0x7 << 76) | (0x2 << 62))
