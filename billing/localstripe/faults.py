"""What goes wrong on purpose, by chance from a seed."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from random import Random
from typing import Any


@dataclass
class Faults:
    """Shares are from 0 to 1, times in seconds."""

    duplicates: int = 1  # each event comes once to so many times
    delay: float = 0.0  # each delivery comes so much later, at most: so they are shuffled
    lost_answers: float = 0.0  # of requests that were done, how many get no answer
    failures: float = 0.0  # of requests that were not done, how many get a 500
    remembered: float = 0.5  # of those 500s, how many are kept under the idempotency key
    hold: bool = False  # deliveries wait until they are asked for
    seed: int = 1
    dice: Random = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self.dice = Random(self.seed)  # noqa: S311

    @classmethod
    def of(cls, told: dict[str, Any]) -> "Faults":
        """Raises ValueError."""
        known = {each.name: each for each in fields(cls) if each.init}
        if unknown := told.keys() - known.keys():
            raise ValueError(f"there is no fault {', '.join(sorted(unknown))}")
        return cls(**told)

    def told(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if name != "dice"}

    def delays(self) -> Iterator[float]:
        """Of each delivery of one event."""
        for _ in range(self.dice.randint(1, max(1, self.duplicates))):
            yield self.dice.random() * self.delay

    def chance(self, share: float) -> bool:
        return share > 0 and self.dice.random() < share
