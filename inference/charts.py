"""Lines over time, laid out for `templates/cotton/chart.html`: an SVG and the same as a table.

Coordinates are written with points, whatever the reader's language; a drawing has no other text.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from django.utils.formats import number_format
from django.utils.functional import Promise

WIDTH, HEIGHT = 600, 150
MISSING = "–"
Values = Sequence[float | None]


@dataclass(frozen=True)
class Line:
    """One line; its number is its colour and its dashes."""

    number: int
    label: str | Promise
    path: str
    values: list[str]

    @property
    def last(self) -> str:
        """The newest value that is known."""
        return next((value for value in reversed(self.values) if value != MISSING), MISSING)


@dataclass(frozen=True)
class Chart:
    id: str
    title: str | Promise
    unit: str | Promise
    moments: list[datetime]
    top: float
    lines: list[Line]
    note: str | Promise = ""
    limit: float | None = None  # a target, drawn as a dashed red line
    limit_label: str | Promise = ""
    rows: list[tuple[datetime, list[str]]] = field(default_factory=list)

    @property
    def limit_y(self) -> str:
        return _y(self.limit, self.top) if self.limit is not None else ""

    @property
    def top_label(self) -> str:
        return shown(self.top)

    @property
    def is_empty(self) -> bool:
        return not any(line.path for line in self.lines)


def chart(
    id: str,
    title: str | Promise,
    unit: str | Promise,
    moments: list[datetime],
    lines: Sequence[tuple[str | Promise, Values]],
    *,
    limit: float | None = None,
    limit_label: str | Promise = "",
    note: str | Promise = "",
) -> Chart:
    """Lay it out. The axis ends at a round number above every value and the target."""
    values = [value for _label, series in lines for value in series if value is not None]
    top = round_up(max([*values, limit or 0.0]))
    drawn = [
        Line(number, label, path(series, top), [shown(value) for value in series])
        for number, (label, series) in enumerate(lines, start=1)
    ]
    rows = [(at, [line.values[n] for line in drawn]) for n, at in enumerate(moments)]
    known = [row for row in reversed(rows) if any(value != MISSING for value in row[1])]
    return Chart(id, title, unit, moments, top, drawn, note, limit, limit_label, known)


def path(values: Values, top: float) -> str:
    """The line's path: it is broken where nothing is known, and one value alone is a dot."""
    step = WIDTH / max(1, len(values) - 1)
    parts, before = [], False
    for number, value in enumerate(values):
        if value is not None:
            x = f"{number * step:.1f}"
            parts.append(f"{'L' if before else 'M'}{x} {_y(value, top)}")
            if not before:
                parts.append("h0")
        before = value is not None
    return " ".join(parts)


def round_up(value: float) -> float:
    """The next of 1, 2 and 5 times a power of ten."""
    if not value > 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    # The last is for a value like 9.9999… × its power, where floats do not quite agree.
    return next(n * power for n in (1, 2, 5, 10, 100) if n * power >= value)


def shown(value: float | None) -> str:
    """With three digits that count, as the reader's language writes numbers."""
    if value is None:
        return MISSING
    whole_digits = len(str(int(abs(value)))) if abs(value) >= 1 else 0
    digits = 0 if value == int(value) else max(0, 3 - whole_digits)
    return number_format(round(value, digits), digits, force_grouping=True)


def _y(value: float, top: float) -> str:
    return f"{HEIGHT - value * HEIGHT / top:.1f}"
