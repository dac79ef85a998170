"""Rows as a CSV file, streamed, so that no length is too long."""

import csv
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any


def lines(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> Iterator[str]:
    """The file, line by line."""
    writer = csv.writer(_Echo())
    yield writer.writerow(header)
    for row in rows:
        yield writer.writerow([_cell(value) for value in row])


class _Echo:
    """A file for csv.writer that hands back each line."""

    def write(self, line: str) -> str:
        return line


def _cell(value: Any) -> Any:
    """Times as ISO 8601, amounts without exponents; text that a spreadsheet would run as a formula
    is made plain text."""
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Decimal):
        return f"{value:f}"
    if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")):
        return f"'{value}"
    return value
