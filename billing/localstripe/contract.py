"""What may be sent and what is answered, by stripe-python's own types.

A parameter that the library does not know is refused as Stripe refuses it; of an enumeration only
the values that the library lists are taken. Objects are completed with the fields that Stripe
always sends, and checked, so that whatever we answer the library's readers can rely on.
"""

import types
import typing
from collections.abc import Callable, Mapping
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from typing import Any, Literal, Union, get_args, get_origin

import typing_extensions
from stripe import ListObject, StripeObject
from stripe._object_classes import get_object_class
from stripe._request_options import RequestOptions
from stripe._stripe_object import UntypedStripeObject

from billing.localstripe.errors import ApiError

_OPTIONS = frozenset(RequestOptions.__annotations__)  # of the client, not of the request
# Fields that Stripe sends of a thing only when it is so.
_ABSENT = frozenset({"deleted", "OBJECT_NAME", "sources", "subscriptions", "refunds", "tax_ids"})

# What the options' annotations name, which the modules of their heirs do not import.
_NAMES = {"StripeContext": object, "Mapping": Mapping}


class BrokenContract(AssertionError):
    """We were about to answer something that the library does not expect."""


@lru_cache
def _fields(schema: Any) -> dict[str, Any]:
    hints = typing_extensions.get_type_hints(schema, localns=_NAMES)
    return {name: hint for name, hint in hints.items() if name not in _OPTIONS}


def checked(params: dict[str, Any], schema: Any, path: str = "") -> dict[str, Any]:
    """The parameters with the types that the schema gives them. Raises ApiError."""
    fields = _fields(schema)
    for name in params:
        if name not in fields:
            raise ApiError(
                f"Received unknown parameter: {_join(path, name)}",
                code="parameter_unknown",
                param=_join(path, name),
            )
    for name in schema.__required_keys__ - _OPTIONS:
        if name not in params:
            raise ApiError(
                f"Missing required param: {_join(path, name)}.",
                code="parameter_missing",
                param=_join(path, name),
            )
    return {name: _value(fields[name], raw, _join(path, name)) for name, raw in params.items()}


def _join(path: str, name: str) -> str:
    return f"{path}[{name}]" if path else name


def _value(hint: Any, raw: Any, path: str) -> Any:
    origin, args = get_origin(hint), get_args(hint)
    if origin is Union or origin is types.UnionType:
        return _one_of(args, raw, path)
    if origin is Literal:
        if raw in args:
            return raw
        allowed = ", ".join(str(each) for each in args)
        raise ApiError(f"Invalid {path}: must be one of {allowed}", param=path)
    if origin in (list, typing.Sequence):
        return [_value(args[0], each, f"{path}[{n}]") for n, each in enumerate(_items(raw, path))]
    if origin is dict or hint is dict:
        return {str(name): str(value) for name, value in _hash(raw, path).items()}
    if hint in _SCALARS:
        return _SCALARS[hint](raw, path)
    if typing_extensions.is_typeddict(hint):
        return checked(_hash(raw, path), hint, path)
    raise BrokenContract(f"{path}: what is {hint}?")


def _one_of(args: tuple[Any, ...], raw: Any, path: str) -> Any:
    wanted = [arg for arg in args if arg is not type(None) and get_origin(arg) is not None]
    wanted += [arg for arg in args if arg is not type(None) and get_origin(arg) is None]
    wanted = [arg for arg in wanted if get_origin(arg) is not UntypedStripeObject]
    names = [n for arg in wanted if get_origin(arg) is Literal for n in get_args(arg)]
    if any(names) and str in wanted:  # "| str" is for values that come with later versions
        wanted.remove(str)
    problem = ApiError(f"Invalid {path}", param=path)
    for arg in wanted:
        try:
            return _value(arg, raw, path)
        except ApiError as error:
            problem = error
    raise problem


def _items(raw: Any, path: str) -> list[Any]:
    if isinstance(raw, dict) and all(name.isdecimal() for name in raw):
        return [raw[name] for name in sorted(raw, key=int)]
    raise ApiError(f"Invalid array: {path}", param=path)


def _hash(raw: Any, path: str) -> dict[str, Any]:
    if isinstance(raw, dict):
        return raw
    raise ApiError(f"Invalid object: {path}", code="parameter_invalid", param=path)


def _text(raw: Any, path: str) -> str:
    if not isinstance(raw, str):
        raise ApiError(f"Invalid string: {path}", param=path)
    if len(raw) > 5000:
        raise ApiError(f"Invalid string: {path} is too long", param=path)
    return raw


def _integer(raw: Any, path: str) -> int:
    if isinstance(raw, str) and raw.lstrip("-").isdecimal():
        return int(raw)
    raise ApiError(f"Invalid integer: {raw}", code="parameter_invalid_integer", param=path)


def _boolean(raw: Any, path: str) -> bool:
    if raw in {"true", "false"}:
        return bool(raw == "true")
    raise ApiError(f"Invalid boolean: {raw}", param=path)


def _decimal(raw: Any, path: str) -> Decimal:
    try:
        return Decimal(_text(raw, path))
    except InvalidOperation as error:
        raise ApiError(f"Invalid decimal: {raw}", param=path) from error


_SCALARS: dict[Any, Callable[[Any, str], Any]] = {
    str: _text,
    int: _integer,
    bool: _boolean,
    float: _decimal,
    Decimal: _decimal,
    Any: _text,
}


def complete(kind: str, fields: dict[str, Any]) -> dict[str, Any]:
    """An object of this kind, with every field that Stripe sends. Raises BrokenContract."""
    return _completed(get_object_class("V1", kind), fields | {"object": kind}, kind)


def _completed(cls: Any, fields: dict[str, Any], path: str) -> dict[str, Any]:
    hints = {n: h for n, h in cls.__annotations__.items() if not n.startswith("_")}
    unknown = fields.keys() - hints.keys()
    if unknown:
        raise BrokenContract(f"{path} has no {', '.join(sorted(unknown))}")
    whole = {}
    for name, hint in hints.items():
        if name in fields:
            whole[name] = _kept(hint, fields[name], f"{path}.{name}")
        elif name not in _ABSENT:
            whole[name] = _default(hint, f"{path}.{name}")
    return whole


def _kept(hint: Any, value: Any, path: str) -> Any:
    """The value, if it fits."""
    if value is None:
        if type(None) not in get_args(hint):
            raise BrokenContract(f"{path} cannot be null")
        return None
    parts = get_args(hint) if get_origin(hint) is Union else (hint,)
    literals = [n for part in parts if get_origin(part) is Literal for n in get_args(part)]
    if literals and isinstance(value, str) and value not in literals:
        raise BrokenContract(f"{path} cannot be {value!r}")
    for part in parts:
        if isinstance(part, type) and issubclass(part, StripeObject) and isinstance(value, dict):
            if "object" in part.__annotations__ or part is ListObject:
                return value  # an object of its own, which was checked when it was made
            return _completed(part, value, path)
    _check_type(parts, value, path)
    return value


def _check_type(parts: tuple[Any, ...], value: Any, path: str) -> None:
    plain = [part for part in parts if part in (int, str, bool)]
    if len(parts) == len([p for p in parts if p is type(None)]) + len(plain) and not any(
        type(value) is part for part in plain
    ):
        raise BrokenContract(f"{path} cannot be {value!r}")


def _default(hint: Any, path: str) -> Any:
    if type(None) in get_args(hint):
        return None
    if hint is bool:
        return False
    if hint is int:
        return 0
    if get_origin(hint) is list:
        return []
    if get_origin(hint) is UntypedStripeObject:
        return {}
    if isinstance(hint, type) and issubclass(hint, StripeObject):
        return _completed(hint, {}, path)
    raise BrokenContract(f"{path} is missing")
