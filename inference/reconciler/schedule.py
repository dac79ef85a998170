"""How many replicas are wanted at an hour. PURE."""

from collections.abc import Iterable
from datetime import datetime, time, timedelta
from typing import Protocol
from zoneinfo import ZoneInfo


class Entry(Protocol):
    """What is asked of a `ScheduleEntry`."""

    weekdays: int  # bits: Monday 1, Tuesday 2, … Sunday 64
    starts: time
    ends: time
    time_zone: str
    replica_count: int


def wanted_replicas(usual: int, entries: Iterable[Entry], now: datetime) -> int:
    """The count of the last of these entries that holds now, else the usual one."""
    for entry in entries:
        if holds(entry, now):
            usual = entry.replica_count
    return usual


def holds(entry: Entry, now: datetime) -> bool:
    """Whether it is within the entry's hours, by the clock on the wall of its time zone.

    An entry that ends before it starts goes on until the next day and belongs to the day on which
    it starts; one that ends when it starts lasts the whole day.
    """
    local = now.astimezone(ZoneInfo(entry.time_zone))
    clock = local.time().replace(tzinfo=None)
    today = _on(entry, local.weekday())
    if entry.starts < entry.ends:
        return today and entry.starts <= clock < entry.ends
    yesterday = _on(entry, (local - timedelta(days=1)).weekday())
    return (today and clock >= entry.starts) or (yesterday and clock < entry.ends)


def _on(entry: Entry, weekday: int) -> bool:
    return bool(entry.weekdays >> weekday & 1)
