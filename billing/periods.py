"""Months as people count them. PURE: a month begins at midnight of its first day in a time zone."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo


@dataclass(frozen=True, order=True)
class Month:
    """A calendar month, wherever that is."""

    year: int
    number: int  # 1 to 12

    @classmethod
    def at(cls, moment: datetime, zone: ZoneInfo) -> "Month":
        """The month in which this moment lies there."""
        local = moment.astimezone(zone)
        return cls(local.year, local.month)

    @classmethod
    def parse(cls, text: str) -> "Month":
        """Of "2026-11". Raises ValueError."""
        day = date.fromisoformat(f"{text}-01")
        return cls(day.year, day.month)

    @property
    def following(self) -> "Month":
        return Month(self.year + self.number // 12, self.number % 12 + 1)

    def start(self, zone: ZoneInfo) -> datetime:
        """When it begins there, in UTC. Where clocks skip midnight, with the first moment of the
        day; where they show it twice, with the first of the two."""
        return datetime(self.year, self.number, 1, tzinfo=zone).astimezone(UTC)

    def end(self, zone: ZoneInfo) -> datetime:
        """When the next begins."""
        return self.following.start(zone)

    def __str__(self) -> str:
        return f"{self.year:04d}-{self.number:02d}"


def last_day(end: datetime, zone: ZoneInfo) -> date:
    """The last day of a period that ends then."""
    return (end - timedelta(microseconds=1)).astimezone(zone).date()
