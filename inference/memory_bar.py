"""Memory as a bar of parts, laid out for `templates/cotton/memory-bar.html`: an SVG and a legend.

Coordinates are whole numbers, whatever the reader's language; a drawing has no other text.
"""

from dataclasses import dataclass

from django.template.defaultfilters import filesizeformat
from django.utils.functional import Promise
from django.utils.translation import gettext as _

from inference.fit import Fit

WIDTH = 600
SPARE = 5  # the colour of what is left


@dataclass(frozen=True)
class Part:
    number: int  # its colour
    label: str | Promise
    size: str
    x: int
    width: int


def parts(fit: Fit) -> list[Part]:
    """Weights, KV cache, engine, what is left, from left to right; none where it does not run."""
    if not fit.runs:
        return []
    sizes = [
        (1, _("Weights"), fit.weight_bytes),
        (2, _("Conversations (KV cache)"), fit.kv_room_bytes),
        (3, _("Engine"), fit.overhead_bytes),
        (SPARE, _("Spare"), fit.spare_bytes),
    ]
    whole = max(1, sum(size for _number, _label, size in sizes))
    laid, before = [], 0
    for number, label, size in sizes:
        x, end = before * WIDTH // whole, (before + size) * WIDTH // whole
        laid.append(Part(number, label, filesizeformat(size), x, end - x))
        before += size
    return laid
