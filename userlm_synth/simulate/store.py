"""The live store of one dialogues folder: SQLite, one row a finished dialogue, exactly once.

A row is on the disk before it is counted (WAL, synchronous=FULL). The store belongs to one set of
models and settings; more dialogues or more intents extend it, other settings are refused.
"""

from __future__ import annotations

import fcntl
import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from userlm_synth.errors import UserError, explain_disk_full
from userlm_synth.records import Record, check, write_records

PART_SIZE = 10_000  # dialogues a part file


class OtherSettings(UserError):
    """The folder's dialogues were made by other models or settings."""


class Store:
    """`dialogues/store.sqlite`; open it with `open_store`."""

    def __init__(self, folder: Path, connection: sqlite3.Connection) -> None:
        self.folder, self.connection = folder, connection

    def done(self) -> set[str]:
        """Ids of the finished dialogues, rejected ones too."""
        return {row[0] for row in self.connection.execute("SELECT id FROM dialogues")}

    def add(self, place: int, record: Record) -> None:
        """Keep a finished dialogue; a second one of the same id is ignored."""
        schema = "rejected" if "reason" in record else "dialogue"
        check(record, schema, f"dialogue {record['id']}")
        row = (record["id"], place, record.get("reason"), json.dumps(record, ensure_ascii=False))
        with explain_disk_full(self.folder / "store.sqlite"), self.connection:
            self.connection.execute("INSERT OR IGNORE INTO dialogues VALUES (?, ?, ?, ?)", row)

    def records(self, *, rejected: bool) -> Iterator[Record]:
        """Accepted or rejected dialogues in the order of the plan."""
        sign = "NOT NULL" if rejected else "NULL"
        query = f"SELECT record FROM dialogues WHERE reason IS {sign} ORDER BY place, id"
        for (text,) in self.connection.execute(query):
            yield json.loads(text)

    def count(self, *, rejected: bool) -> int:
        """How many of one kind."""
        sign = "NOT NULL" if rejected else "NULL"
        query = f"SELECT count(*) FROM dialogues WHERE reason IS {sign}"
        return int(self.connection.execute(query).fetchone()[0])

    def export(self) -> None:
        """Write `part-*.jsonl` and `rejected.jsonl` from the store."""
        accepted = self.records(rejected=False)
        parts = -(-self.count(rejected=False) // PART_SIZE)
        for number in range(parts):
            some = (record for _, record in zip(range(PART_SIZE), accepted, strict=False))
            write_records(self.folder / f"part-{number:05d}.jsonl", some, "dialogue")
        for path in sorted(self.folder.glob("part-*.jsonl"))[parts:]:
            path.unlink()
        write_records(self.folder / "rejected.jsonl", self.records(rejected=True), "rejected")


@contextmanager
def open_store(folder: Path, key: str) -> Iterator[Store]:
    """The store of a folder, locked against a second run and tied to `key` (the settings)."""
    if not (folder / "store.sqlite").exists() and any(folder.glob("part-*.jsonl")):
        raise UserError(f"{folder}: holds dialogues without their store; choose another --out")
    with explain_disk_full(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("w")
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(
                f"{folder}: another run is writing to this folder; wait for it"
            ) from None
        with explain_disk_full(folder / "store.sqlite"):
            connection = sqlite3.connect(folder / "store.sqlite")
            try:
                _prepare(connection, folder, key)
                yield Store(folder, connection)
            finally:
                connection.close()
    except sqlite3.DatabaseError as error:
        raise UserError(f"{folder / 'store.sqlite'}: cannot be used: {error}") from error
    finally:
        lock.close()


def _prepare(connection: sqlite3.Connection, folder: Path, key: str) -> None:
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    with connection:
        connection.execute("CREATE TABLE IF NOT EXISTS settings (key TEXT NOT NULL)")
        connection.execute(
            "CREATE TABLE IF NOT EXISTS dialogues "
            "(id TEXT PRIMARY KEY, place INTEGER NOT NULL, reason TEXT, record TEXT NOT NULL)"
        )
        row = connection.execute("SELECT key FROM settings").fetchone()
        if row is None:
            connection.execute("INSERT INTO settings VALUES (?)", (key,))
        elif row[0] != key:
            raise OtherSettings(
                f"{folder}: holds dialogues of other models or settings; choose another --out"
            )
