"""Why did an engine not start, and what helps? PURE.

`diagnose` reads an exit code and the end of a log; `remedies` turns what it found into things that
a person can have done. Both are asked by the node, when an engine ends, and by pages, which read a
kept log again: a diagnosis is derived and never stored.
"""

from inference.doctor.codes import FINDINGS, Code
from inference.doctor.diagnosis import Diagnosis, diagnose
from inference.doctor.loops import LOOPS, loop, loop_in
from inference.doctor.paths import without_paths
from inference.doctor.remedies import Kind, Remedy, Situation, remedies

__all__ = [
    "FINDINGS",
    "LOOPS",
    "Code",
    "Diagnosis",
    "Kind",
    "Remedy",
    "Situation",
    "diagnose",
    "loop",
    "loop_in",
    "remedies",
    "without_paths",
]
