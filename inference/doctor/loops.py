"""Crash loops in words: the reconciler writes them down, pages read them again. PURE."""

import re

from inference.doctor.codes import gettext_noop

LOOPS = gettext_noop("It started and died %(deaths)s times within %(minutes)s min.")
_LOOPS = re.compile(r"^It started and died (?P<deaths>\d+) times within (?P<minutes>\d+) min\.")


def loop(deaths: int, minutes: int, last: str) -> str:
    """Why it is not started any more, and what was wrong in the end."""
    return f"{LOOPS % {'deaths': deaths, 'minutes': minutes}} {last}".strip()


def loop_in(message: str) -> dict[str, int]:
    """The figures in such a sentence; none in any other."""
    found = _LOOPS.match(message)
    return {name: int(figure) for name, figure in found.groupdict().items()} if found else {}
