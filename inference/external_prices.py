"""List prices of external services, as the operator has entered them in a TOML file:

    [[price]]
    name = "Some service, some model"
    input = "0.50"      # per million tokens
    output = "1.50"
    currency = "USD"
    source = "https://…"
    date = 2026-11-28

We ship none: they change every few weeks, and a stale one would mislead.
"""

import tomllib
from decimal import Decimal
from pathlib import Path

import msgspec

from inference.costs import BadPrices, ListPrice


class _File(msgspec.Struct, forbid_unknown_fields=True):
    price: list[ListPrice] = []


def read(path: Path | None) -> list[ListPrice]:
    """Those of the file, none without one. Raises BadPrices."""
    if path is None:
        return []
    try:
        return msgspec.convert(tomllib.loads(path.read_text(), parse_float=Decimal), _File).price
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BadPrices(str(error)) from error
    except msgspec.ValidationError as error:
        raise BadPrices(str(error)) from error
