"""The periods that budgets are for: months, and fiscal years that begin with any month. PURE."""

from datetime import datetime, tzinfo
from enum import StrEnum


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
