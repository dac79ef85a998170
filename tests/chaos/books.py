"""What the promises P1 and P2 mean, as arithmetic over four accounts of the same requests. PURE.

The gateways' journals say what was admitted, the table says what is billed, the engine says what it
made, the clients say what they got. No two of them share code or memory.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from tests.chaos.engine import Made


@dataclass(frozen=True)
class Row:
    """A usage row, as far as it matters here."""

    request_id: str
    client_request_id: str
    prompt: int
    completion: int
    outcome: str
    source: str


@dataclass
class Seen:
    """One call as its client saw it."""

    client_request_id: str
    kind: str
    request_id: str = ""  # ours, from the head of the answer
    status: int = 0
    complete: bool = False  # nothing of the answer is missing
    told: tuple[int, int] | None = None  # prompt and completion tokens, where the answer says so
    pieces: int = 0  # events with content that arrived
    hung_up: bool = False  # on purpose, in the middle


@dataclass
class Findings:
    """Request ids by what is wrong with them; all empty is what we promise."""

    lost: list[str] = field(default_factory=list)
    double: list[str] = field(default_factory=list)
    overcharged: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)  # complete, and yet not what the engine made
    invented: list[str] = field(default_factory=list)  # a row that was never admitted
    too_little: list[str] = field(default_factory=list)  # less than a client got that hung up

    @property
    def none(self) -> bool:
        return not any(vars(self).values())


def compare(
    admitted: Iterable[str],
    rows: Iterable[Row],
    made: Mapping[str, list[Made]],
    seen: Iterable[Seen],
) -> Findings:
    """Hold the four against each other."""
    rows = list(rows)
    by_id = {row.request_id: row for row in rows}
    admitted = set(admitted)
    found = Findings()
    found.lost += admitted - by_id.keys()
    found.lost += made.keys() - by_id.keys() - admitted  # the engine worked, nobody wrote it down
    found.invented += by_id.keys() - admitted
    found.double += _more_than_one(row.request_id for row in rows)
    found.double += _more_than_one(row.client_request_id for row in rows)  # each calls only once
    for row in rows:
        _hold_against_engine(row, made.get(row.request_id, []), found)
    for call in seen:
        _hold_against_client(call, by_id.get(call.request_id), found)
    return found


def _more_than_one(ids: Iterable[str]) -> list[str]:
    return [id_ for id_, count in Counter(ids).items() if count > 1]


def _hold_against_engine(row: Row, made: list[Made], found: Findings) -> None:
    most = Made(
        max((m.prompt for m in made), default=0), max((m.completion for m in made), default=0)
    )
    if row.prompt > most.prompt or row.completion > most.completion:
        found.overcharged.append(row.request_id)
    elif row.outcome == "completed" and not any(
        m.complete and (m.prompt, m.completion) == (row.prompt, row.completion) for m in made
    ):
        found.wrong.append(row.request_id)


def _hold_against_client(call: Seen, row: Row | None, found: Findings) -> None:
    if call.complete and call.status == 200:
        if row is None or row.outcome != "completed":
            found.lost.append(call.request_id)
        elif call.told is not None and call.told != (row.prompt, row.completion):
            found.wrong.append(call.request_id)
    elif row is not None and row.outcome == "client_gone" and row.completion < call.pieces:
        found.too_little.append(call.request_id)
