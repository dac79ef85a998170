"""Which price version holds for what. PURE: the one place with the rule.

The more specific version wins, whenever it was made: an organization's own before the house's, then
one for the model before one for the engine before one for the GPU type before one for everything.
Of those for the same, the newest that has begun holds; one that `ends` gives way to the less
specific ones.
"""

from collections.abc import Iterable
from datetime import datetime
from typing import Any, Protocol, TypeVar


class Version(Protocol):
    """Empty names mean "every"."""

    @property
    def id(self) -> Any: ...  # later ones are greater
    @property
    def own(self) -> bool: ...  # of the organization's own book
    @property
    def model(self) -> str: ...
    @property
    def engine(self) -> str: ...
    @property
    def gpu_type(self) -> str: ...
    @property
    def effective_at(self) -> datetime: ...
    @property
    def ends(self) -> bool: ...


V = TypeVar("V", bound=Version)


def choose(
    versions: Iterable[V], at: datetime, *, model: str = "", engine: str = "", gpu_type: str = ""
) -> V | None:
    """The version that holds at that moment for this model on this engine and GPU type.

    None: there is no price. `versions` are those of one currency that have a rate for what is to be
    priced.
    """
    newest: dict[int, V] = {}
    for version in versions:
        if version.effective_at > at or not _is_for(version, model, engine, gpu_type):
            continue
        rank = specificity(version)
        other = newest.get(rank)
        if other is None or _age(version) > _age(other):
            newest[rank] = version
    for rank in sorted(newest, reverse=True):
        if not newest[rank].ends:
            return newest[rank]
    return None


def specificity(version: Version) -> int:
    """How much a version says of what it is for; versions for one thing all differ in it."""
    said = (version.own, bool(version.model), bool(version.engine), bool(version.gpu_type))
    return sum(weight for weight, says in zip((8, 4, 2, 1), said, strict=True) if says)


def _is_for(version: Version, model: str, engine: str, gpu_type: str) -> bool:
    return (
        version.model in {"", model}
        and version.engine in {"", engine}
        and version.gpu_type in {"", gpu_type}
    )


def _age(version: Version) -> tuple[datetime, Any]:
    return version.effective_at, version.id


def possible(versions: Iterable[V], at: datetime, *, model: str | None = None) -> list[V]:
    """Those that may hold at that moment for something, the most specific first: for this model,
    or, with None, for any.

    Left out is what another one always comes before, as a price for everything comes after one for
    just this model.
    """
    scopes: dict[tuple[bool, str, str, str], V] = {}
    for version in versions:
        if version.effective_at > at or model is not None and version.model not in {"", model}:
            continue
        scope = version.own, version.model, version.engine, version.gpu_type
        if scope not in scopes or _age(version) > _age(scopes[scope]):
            scopes[scope] = version
    held = [version for version in scopes.values() if not version.ends]
    held.sort(key=lambda v: (-specificity(v), v.model, v.engine, v.gpu_type))
    return [
        version
        for version in held
        if not any(_always_before(other, version, model) for other in held)
    ]


def _always_before(other: Version, version: Version, model: str | None) -> bool:
    """Whether `other` comes first wherever `version` is for something."""
    wider = other.engine in {"", version.engine} and other.gpu_type in {"", version.gpu_type}
    models = {"", version.model} if model is None else {"", version.model, model}
    return wider and other.model in models and specificity(other) > specificity(version)
