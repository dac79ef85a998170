"""Months as people count them, and the periods that budgets are for: months, and fiscal years that
begin with any month. PURE: a month begins at midnight of its first day in a time zone."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, tzinfo
from enum import StrEnum
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


class PeriodKind(StrEnum):
    MONTH = "month"
    FISCAL_YEAR = "fiscal_year"


def bounds(
    kind: str, now: datetime, zone: tzinfo, first_month: int = 1
) -> tuple[datetime, datetime]:
    """When the period of this moment began and when it ends: midnights of that time zone."""
    here = now.astimezone(zone)
    if kind == PeriodKind.MONTH:
        months = here.year * 12 + here.month - 1
        return _first_of(months, zone), _first_of(months + 1, zone)
    year = here.year if here.month >= first_month else here.year - 1
    months = year * 12 + first_month - 1
    return _first_of(months, zone), _first_of(months + 12, zone)


def _first_of(months: int, zone: tzinfo) -> datetime:
    """The first midnight of the month with this number since the year 0."""
    return datetime(months // 12, months % 12 + 1, 1, tzinfo=zone)
