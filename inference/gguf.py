"""The header of a GGUF file: what the model is, and its tensors by name. PURE but for reading the
file that it is given; the weights themselves are not touched.

https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. The files are strangers' work, so that
all that they count is bounded, and each byte is asked for before it is there.
"""

import struct
from math import prod
from typing import BinaryIO

import msgspec

Value = bool | int | float | str | list[int]

MAGIC = b"GGUF"
VERSIONS = frozenset({2, 3})
LONGEST = 256 * 1024 * 1024  # bytes of a header; those of large vocabularies have 15 MB
MOST_MEMBERS = 65_536
MOST_TENSORS = 1_000_000
MOST_SIDES = 8
MOST_PARAMETERS = 2**50
LONGEST_NAME = 65_535  # bytes, by the format itself
LONGEST_TEXT = 4 * 1024 * 1024  # bytes of a text that is kept; chat templates have some KB
MOST_TEXTS = 4_000_000  # of a list; the largest vocabularies have a tenth of it
LONGEST_LIST = 4096  # numbers of a list that is kept; some models have a figure for each layer

STRING, ARRAY, BOOL = 8, 9, 7
NUMBERS = {
    **{0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i"},
    **{6: "<f", BOOL: "<?", 10: "<Q", 11: "<q", 12: "<d"},
}
WHOLE = frozenset({0, 1, 2, 3, 4, 5, 10, 11})


class NotGguf(Exception):
    """A file of that name which is not as the format says."""


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """What it says; of a file of which only the beginning was there, as much as that holds."""

    metadata: dict[str, Value]  # without long lists, such as the vocabulary
    parameters: int | None = None  # over all tensors; None: their list was not there
    whole: bool = False

    def text(self, name: str) -> str:
        value = self.metadata.get(name)
        return value if isinstance(value, str) else ""

    def number(self, name: str) -> int | None:
        """A positive whole number of a credible size; of a list, its greatest."""
        value = self.metadata.get(name)
        if isinstance(value, list):
            value = max(value, default=0)
        if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**40:
            return value
        return None


class _Ended(Exception):
    """The file goes on where what we have of it ends."""


class _Reader:
    def __init__(self, file: BinaryIO, longest: int) -> None:
        self._file = file
        self._left = longest

    def take(self, size: int) -> bytes:
        self._spend(size)
        data = self._file.read(size)
        if len(data) < size:
            raise _Ended
        return data

    def skip(self, size: int) -> None:
        self._spend(size)
        self._file.seek(size, 1)

    def _spend(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise NotGguf("its header has no end")

    def number(self, kind: str) -> int:
        return int(struct.unpack(kind, self.take(struct.calcsize(kind)))[0])

    def text(self, longest: int) -> str:
        length = self.number("<Q")
        if length > longest:
            raise NotGguf("a text is too long")
        return self.take(length).decode(errors="replace")


def read(file: BinaryIO, longest: int = LONGEST) -> Header:
    """Raises NotGguf."""
    reader = _Reader(file, longest)
    metadata: dict[str, Value] = {}
    try:
        if reader.take(4) != MAGIC or reader.number("<I") not in VERSIONS:
            raise NotGguf("it does not begin as a GGUF file of a known version does")
        tensors, members = reader.number("<Q"), reader.number("<Q")
        if tensors > MOST_TENSORS or members > MOST_MEMBERS:
            raise NotGguf("it holds too much")
        for _ in range(members):
            name = reader.text(LONGEST_NAME)
            value = _value(reader, reader.number("<I"))
            if value is not None:
                metadata[name] = value
        parameters = sum(_parameters(reader) for _ in range(tensors))
    except _Ended:
        return Header(metadata=metadata)
    if parameters > MOST_PARAMETERS:
        raise NotGguf("its tensors are too large")
    return Header(metadata=metadata, parameters=parameters, whole=True)


def _value(reader: _Reader, kind: int) -> Value | None:
    """None for what is not kept."""
    if kind == STRING:
        return reader.text(LONGEST_TEXT)
    if kind == ARRAY:
        return _list(reader)
    form = _form(kind)
    value: bool | int | float = struct.unpack(form, reader.take(struct.calcsize(form)))[0]
    return value


def _list(reader: _Reader) -> list[int] | None:
    kind, count = reader.number("<I"), reader.number("<Q")
    if kind == STRING:
        if count > MOST_TEXTS:
            raise NotGguf("a list is too long")
        for _ in range(count):
            reader.skip(reader.number("<Q"))
        return None
    form = _form(kind)  # a list of lists is none that anybody writes
    if kind not in WHOLE or count > LONGEST_LIST:
        reader.skip(count * struct.calcsize(form))
        return None
    return [reader.number(form) for _ in range(count)]


def _form(kind: int) -> str:
    try:
        return NUMBERS[kind]
    except KeyError:
        raise NotGguf("a value is of no known type") from None


def _parameters(reader: _Reader) -> int:
    """Of the tensor that stands here."""
    reader.text(LONGEST_NAME)
    sides = reader.number("<I")
    if sides > MOST_SIDES:
        raise NotGguf("a tensor has too many sides")
    count = prod(reader.number("<Q") for _ in range(sides))
    reader.skip(4 + 8)  # its type, and where it lies
    return count
