"""What there is: objects, remembered answers, and webhooks on their way, in one SQLite file."""

import json
import random
import sqlite3
import string
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_TABLES = """
    CREATE TABLE IF NOT EXISTS object (
        seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT UNIQUE NOT NULL, kind TEXT NOT NULL,
        body TEXT NOT NULL);
    CREATE INDEX IF NOT EXISTS object_by_kind ON object (kind, seq);
    CREATE TABLE IF NOT EXISTS remembered (
        key TEXT PRIMARY KEY, asked TEXT NOT NULL, status INTEGER NOT NULL, body TEXT NOT NULL);
    CREATE TABLE IF NOT EXISTS delivery (
        id INTEGER PRIMARY KEY AUTOINCREMENT, event TEXT NOT NULL, endpoint TEXT NOT NULL,
        due REAL NOT NULL, tries INTEGER NOT NULL DEFAULT 0, done INTEGER NOT NULL DEFAULT 0);
    CREATE INDEX IF NOT EXISTS delivery_due ON delivery (done, due);
"""
_LETTERS = string.ascii_letters + string.digits


class Store:
    """Used from one thread. What happens between `begin` and its end happens or does not."""

    def __init__(self, path: Path | None = None) -> None:
        self.db = sqlite3.connect(path or ":memory:", isolation_level=None, check_same_thread=False)
        self.db.execute("PRAGMA journal_mode = WAL")
        self.db.execute("PRAGMA synchronous = OFF")
        self.db.executescript(_TABLES)
        self.random = random.Random()  # noqa: S311  ids here are no secrets
        self.skew = 0  # seconds that its clock is ahead, for tests

    @property
    def clock(self) -> float:
        return time.time() + self.skew

    @property
    def now(self) -> int:
        return int(self.clock)

    def new_id(self, prefix: str, length: int = 24) -> str:
        return f"{prefix}_{''.join(self.random.choices(_LETTERS, k=length))}"

    @contextmanager
    def transaction(self) -> Iterator[None]:
        self.db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self.db.execute("ROLLBACK")
            raise
        self.db.execute("COMMIT")

    def put(self, body: dict[str, Any]) -> dict[str, Any]:
        """Insert it, or put it in the place of what it was."""
        self.db.execute(
            "INSERT INTO object (id, kind, body) VALUES (?, ?, ?) "
            "ON CONFLICT (id) DO UPDATE SET body = excluded.body",
            [body["id"], body["object"], json.dumps(body)],
        )
        return body

    def get(self, kind: str, id: str) -> dict[str, Any] | None:
        row = self.db.execute(
            "SELECT body FROM object WHERE id = ? AND kind = ?", [id, kind]
        ).fetchone()
        return json.loads(row[0]) if row else None

    def any(self, id: str) -> dict[str, Any] | None:
        row = self.db.execute("SELECT body FROM object WHERE id = ?", [id]).fetchone()
        return json.loads(row[0]) if row else None

    def all(self, kind: str) -> Iterator[dict[str, Any]]:
        """Newest first."""
        rows = self.db.execute("SELECT body FROM object WHERE kind = ? ORDER BY seq DESC", [kind])
        for (body,) in rows.fetchall():
            yield json.loads(body)

    def delete(self, id: str) -> None:
        self.db.execute("DELETE FROM object WHERE id = ?", [id])

    def remembered(self, key: str) -> tuple[str, int, str] | None:
        found: tuple[str, int, str] | None = self.db.execute(
            "SELECT asked, status, body FROM remembered WHERE key = ?", [key]
        ).fetchone()
        return found

    def remember(self, key: str, asked: str, status: int, body: str) -> None:
        self.db.execute(
            "INSERT OR REPLACE INTO remembered VALUES (?, ?, ?, ?)", [key, asked, status, body]
        )

    def forget_keys(self) -> None:
        """As Stripe does after a day."""
        self.db.execute("DELETE FROM remembered")
