"""What a day's hash is made of. PURE: rows of the ledger in, bytes out; docs/operate.md has it for
people who want to check it with a program of their own.

The bytes of a day are lines of JSON without blanks, keys in alphabetical order, UTF-8, each ended
by a line feed: first one of the day itself (`Head`), then one for each transaction (`Transaction`),
in the order of their ids, with its entries in the order of theirs. The day's hash is their SHA-256,
and it is part of the first line of the next day.
"""

import hashlib

import msgspec

NOTHING_BEFORE = "0" * 64  # the hash before the first day


# Fields are in alphabetical order, which is the order in which they are written.
class Account(msgspec.Struct, frozen=True):
    created_at: str  # times are of UTC: 2026-11-28T09:30:00.000000Z
    currency: str
    id: str
    kind: str
    organization: str | None  # null: the house's own
    reference: str


class Entry(msgspec.Struct, frozen=True):
    account: Account | msgspec.Raw  # raw: an account's JSON, made once for its many entries
    id: int
    nano: int


class Transaction(msgspec.Struct, frozen=True):
    created_at: str
    currency: str
    day: str
    description: str
    entries: list[Entry]
    id: str
    key: str
    kind: str
    organization: str | None
    refers_to: str  # the text that PostgreSQL has for the JSON
    reverses: str | None


class Head(msgspec.Struct, frozen=True):
    day: str
    previous: str
    sealed_at: str | None  # null: not sealed


class DayHash:
    """The hash of one day, fed with its transactions one by one."""

    def __init__(self, head: Head) -> None:
        self._encoder = msgspec.json.Encoder()
        self._sha = hashlib.sha256()
        self._add(head)

    def add(self, transaction: Transaction) -> None:
        self._add(transaction)

    def _add(self, line: Head | Transaction) -> None:
        self._sha.update(self._encoder.encode(line))
        self._sha.update(b"\n")

    @property
    def hex(self) -> str:
        return self._sha.hexdigest()


def account_json(account: Account) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(account))
