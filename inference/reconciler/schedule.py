"""How many replicas are wanted at an hour. PURE."""

from collections.abc import Collection, Iterable, Iterator
from datetime import UTC, datetime, time, timedelta
from typing import Protocol
from zoneinfo import ZoneInfo

WEEK = timedelta(days=7)
MOMENT = timedelta.resolution


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


def none_since(entries: Collection[Entry], now: datetime) -> datetime | None:
    """Since when these want no replica; None where they want some. Not longer than a week: what
    has always been so has no beginning."""
    if wanted_replicas(1, entries, now) > 0:
        return None
    turns = {at for entry in entries for at in _turns(entry, now)}
    some_before = (at for at in turns if wanted_replicas(1, entries, at - MOMENT) > 0)
    return max(some_before, default=now - WEEK)


def _turns(entry: Entry, now: datetime) -> Iterator[datetime]:
    """When it began or ended to hold in the last week. Not to the minute where a clock that is put
    forward skips that minute."""
    zone = ZoneInfo(entry.time_zone)
    today = now.astimezone(zone).date()
    for days in range(WEEK.days + 1):
        for clock in (entry.starts, entry.ends):
            at = datetime.combine(today - timedelta(days=days), clock, zone).astimezone(UTC)
            if now - WEEK < at <= now:
                yield at


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
