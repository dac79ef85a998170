"""Which function answers which address, and the lists and expansions that are alike everywhere."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from billing.localstripe.errors import ApiError
from billing.localstripe.world import Object, World

Handler = Callable[..., Object]


@dataclass(frozen=True)
class Route:
    method: str
    path: re.Pattern[str]
    schema: Any  # of stripe-python, for the parameters
    handler: Handler


class Routes:
    """A table that each resource fills with its own part."""

    def __init__(self) -> None:
        self.all: list[Route] = []

    def __call__(self, method: str, path: str, schema: Any) -> Callable[[Handler], Handler]:
        pattern = re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", path) + "$")

        def enter(handler: Handler) -> Handler:
            self.all.append(Route(method, pattern, schema, handler))
            return handler

        return enter

    def match(self, method: str, path: str) -> tuple[Route, dict[str, str]]:
        """Raises ApiError."""
        for route in self.all:
            if route.method == method and (found := route.path.match(path)):
                return route, found.groupdict()
        raise ApiError(f"Unrecognized request URL ({method}: {path}).", status=404)

    def readable(self, kind: str, path: str, retrieve: Any, list_: Any) -> None:
        """The two ways to read that nearly every kind has."""
        if retrieve is not None:
            self("GET", f"{path}/{{id}}", retrieve)(lambda world, p, id: world.need(kind, id))
        if list_ is not None:
            self("GET", path, list_)(lambda world, p: page(world, kind, path, p))


def page(world: World, kind: str, url: str, params: Object) -> Object:
    """One page of a list, newest first. What is not about the page is a field to compare."""
    about = {n: v for n, v in params.items() if n not in _PAGING and (n, v) != ("status", "all")}
    rows = [row for row in world.store.all(kind) if _fits(row, about)]
    if after := params.get("starting_after"):
        rows = rows[_place(rows, after, "starting_after") + 1 :]
    if before := params.get("ending_before"):
        place = _place(rows, before, "ending_before")
        rows = rows[max(0, place - _limit(params)) : place]
    limit = _limit(params)
    return {"object": "list", "url": url, "has_more": len(rows) > limit, "data": rows[:limit]}


_PAGING = frozenset({"limit", "starting_after", "ending_before", "expand", "delivery_success"})


def _limit(params: Object) -> int:
    limit = params.get("limit", 10)
    if not 1 <= limit <= 100:
        raise ApiError("Invalid limit: must be from 1 to 100", param="limit")
    return int(limit)


def _place(rows: list[Object], id: str, param: str) -> int:
    for place, row in enumerate(rows):
        if row["id"] == id:
            return place
    raise ApiError(f"No such object: '{id}'", code="resource_missing", param=param)


def _fits(row: Object, about: Object) -> bool:
    for name, wanted in about.items():
        has = row.get("type" if name == "types" else name)
        if isinstance(wanted, dict):
            if not _within(has, wanted):
                return False
        elif has not in wanted if name == "types" else has != wanted:
            return False
    return True


def _within(moment: Any, wanted: Object) -> bool:
    return (
        moment >= wanted.get("gte", moment)
        and moment <= wanted.get("lte", moment)
        and (("gt" not in wanted) or moment > wanted["gt"])
        and (("lt" not in wanted) or moment < wanted["lt"])
    )


def expanded(world: World, body: Object, paths: list[str]) -> Object:
    """With the objects themselves where their ids were. Raises ApiError."""
    for path in paths:
        if path.count(".") > 3:
            raise ApiError("You cannot expand more than 4 levels.", param="expand")
        _expand(world, body, path.split("."), path)
    return body


def _expand(world: World, inside: Any, keys: list[str], path: str) -> None:
    for each in _each(inside):
        key = keys[0]
        if key not in each:
            raise ApiError(f"This property cannot be expanded ({path}).", param="expand")
        if isinstance(each[key], str) and (found := world.store.any(each[key])) is not None:
            each[key] = found
        if keys[1:] and each[key] is not None:
            _expand(world, each[key], keys[1:], path)


def _each(inside: Any) -> Iterator[Object]:
    if isinstance(inside, dict):
        yield inside
    elif isinstance(inside, list):
        yield from inside
