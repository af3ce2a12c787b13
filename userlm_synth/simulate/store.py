"""The live store of one dialogues folder: SQLite, each finished dialogue once, turns as they come.

A finished dialogue is on the disk before it is counted (WAL, synchronous=FULL), and so are the
turns of those in progress, from which they go on after a crash. Writes gather for a moment and go
to the disk together. The store belongs to one set of models and settings; more dialogues or more
intents extend it, other settings are refused.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from userlm_synth.errors import UserError, explain_disk_full
from userlm_synth.locks import locked
from userlm_synth.records import Record, check, make_folder, write_records

PART_SIZE = 10_000  # dialogues a part file
FORMAT = 2  # of the store; another one is refused
GATHER = 0.02  # seconds that rows wait for others, so that they share a commit
WAITING = 5_000  # rows that may wait to be written, before whoever adds more waits too

SCHEMA = """
CREATE TABLE settings (format INTEGER NOT NULL, settings TEXT NOT NULL);
CREATE TABLE dialogues (id TEXT PRIMARY KEY, place INTEGER NOT NULL, reason TEXT,
                        record TEXT NOT NULL);
CREATE INDEX in_order ON dialogues (place, id);
CREATE TABLE turns (id TEXT NOT NULL, number INTEGER NOT NULL, turn TEXT NOT NULL,
                    PRIMARY KEY (id, number));
"""
# One statement for many rows: sqlite3 takes Python's lock back after each row of `executemany`,
# and has to wait for it while the event loop is at work.
ADD_TURNS = """
INSERT OR REPLACE INTO turns SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'),
json_extract(value, '$[2]') FROM json_each(?)
"""
ADD_DIALOGUES = """
INSERT OR IGNORE INTO dialogues SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'),
json_extract(value, '$[2]'), json_extract(value, '$[3]') FROM json_each(?)
"""
FORGET_TURNS = """
DELETE FROM turns WHERE id IN (SELECT json_extract(value, '$[0]') FROM json_each(?))
"""
KNOWN = "SELECT id FROM dialogues WHERE id IN (SELECT value FROM json_each(?))"


class OtherSettings(UserError):
    """The folder's dialogues were made by other models, settings or another version."""


class Store:
    """`dialogues/store.sqlite`; open it with `open_store`."""

    def __init__(self, folder: Path, connection: sqlite3.Connection) -> None:
        self.folder, self.connection = folder, connection
        self.reader = sqlite3.connect(folder / "store.sqlite")  # sees what is on the disk
        self.turns: list[tuple[str, int, str]] = []
        self.finished: list[tuple[str, int, str | None, str]] = []
        self.notes: list[Callable[[], None]] = []
        self.thread = ThreadPoolExecutor(1, "userlm_synth-store")
        self.writer: asyncio.Task[None] | None = None
        self.failure: BaseException | None = None
        self.room = asyncio.Event()

    # ---- writing -----------------------------------------------------------------------------

    async def turn(self, dialogue: str, number: int, turn: Record) -> None:
        """Keep a turn of a dialogue in progress; on the disk some hundredths of a second later."""
        self.turns.append((dialogue, number, _dumps(turn)))
        await self._written_soon()

    async def add(self, place: int, record: Record, kept: Callable[[], None]) -> None:
        """Keep a finished dialogue, and forget its turns; `kept` is called once it is on the disk.

        A second one of the same id is ignored.
        """
        check(record, "rejected" if "reason" in record else "dialogue", f"dialogue {record['id']}")
        self.finished.append((record["id"], place, record.get("reason"), _dumps(record)))
        self.notes.append(kept)
        await self._written_soon()

    async def _written_soon(self) -> None:
        if self.failure:
            raise self.failure
        if self.writer is None or self.writer.done():
            self.writer = asyncio.create_task(self._write_all())
        while len(self.turns) + len(self.finished) > WAITING and not self.failure:
            self.room.clear()
            await self.room.wait()

    async def _write_all(self) -> None:
        loop = asyncio.get_running_loop()
        while self.turns or self.finished:
            await asyncio.sleep(GATHER)
            turns, finished, notes = self.turns, self.finished, self.notes
            self.turns, self.finished, self.notes = [], [], []
            over = {row[0] for row in finished}
            turns = [row for row in turns if row[0] not in over]
            try:
                await loop.run_in_executor(self.thread, self._commit, turns, finished)
            except BaseException as error:
                self.failure = error
                return
            finally:
                self.room.set()
            for kept in notes:
                kept()

    def _commit(self, turns: list[Any], finished: list[Any]) -> None:
        with explain_disk_full(self.folder / "store.sqlite"), self.connection:
            if turns:
                self.connection.execute(ADD_TURNS, (_dumps(turns),))
            if finished:
                rows = _dumps(finished)
                self.connection.execute(ADD_DIALOGUES, (rows,))
                self.connection.execute(FORGET_TURNS, (rows,))

    async def flush(self) -> None:
        """Wait until everything is on the disk; raises what went wrong in writing."""
        if self.writer:
            await self.writer
        if self.failure:
            raise self.failure

    # ---- reading -----------------------------------------------------------------------------

    def known(self, ids: Iterable[str]) -> set[str]:
        """Those of some ids whose dialogues are finished, rejected ones too."""
        return {row[0] for row in self.reader.execute(KNOWN, (_dumps(list(ids)),))}

    def in_progress(self) -> dict[str, list[Record]]:
        """The turns of each dialogue that is begun and not finished."""
        found: dict[str, list[Record]] = {}
        rows = self.reader.execute("SELECT id, turn FROM turns ORDER BY id, number")
        for name, turn in rows:
            found.setdefault(name, []).append(json.loads(turn))
        return found

    def records(self, *, rejected: bool) -> Iterator[Record]:
        """Accepted or rejected dialogues in the order of the plan."""
        for (text,) in self.reader.execute(
            f"SELECT record FROM dialogues INDEXED BY in_order WHERE {_where(rejected)} "
            "ORDER BY place, id"
        ):
            yield json.loads(text)

    def count(self, *, rejected: bool | None = None) -> int:
        """How many of one kind, or of both."""
        query = f"SELECT count(*) FROM dialogues WHERE {_where(rejected)}"
        return int(self.reader.execute(query).fetchone()[0])

    def tally(self, value: str, *, rejected: bool) -> dict[str, int]:
        """How many records have which value of a field, as an SQL expression on `record`."""
        query = (
            f"SELECT {value}, count(*) FROM dialogues WHERE {_where(rejected)} "
            "GROUP BY 1 ORDER BY 2 DESC, 1"
        )
        return {str(name): count for name, count in self.reader.execute(query)}

    def regenerated(self) -> dict[str, int]:
        """Accepted dialogues' user turns that were sampled again, by reason."""
        query = (
            "SELECT each.key, sum(each.value) FROM dialogues, "
            "json_each(dialogues.record, '$.guardrails') AS each WHERE reason IS NULL "
            "GROUP BY 1 ORDER BY 2 DESC, 1"
        )
        return dict(self.reader.execute(query).fetchall())

    def usages(self, limit: int = 100_000) -> list[Record]:
        """The tokens of each finished dialogue, of both kinds."""
        query = "SELECT json_extract(record, '$.usage') FROM dialogues LIMIT ?"
        return [json.loads(text) for (text,) in self.reader.execute(query, (limit,))]

    def export(self) -> None:
        """Write `part-*.jsonl` and `rejected.jsonl` from the store."""
        self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # room, where that is scarce
        accepted = self.records(rejected=False)
        parts = -(-self.count(rejected=False) // PART_SIZE)
        for number in range(parts):
            some = (record for _, record in zip(range(PART_SIZE), accepted, strict=False))
            write_records(self.folder / f"part-{number:05d}.jsonl", some, "dialogue")
        for path in sorted(self.folder.glob("part-*.jsonl"))[parts:]:
            path.unlink()
        write_records(self.folder / "rejected.jsonl", self.records(rejected=True), "rejected")


def _where(rejected: bool | None) -> str:
    return "true" if rejected is None else f"reason IS {'NOT ' if rejected else ''}NULL"


def _dumps(value: Any) -> str:
    import orjson

    return orjson.dumps(value).decode()


@contextmanager
def open_store(folder: Path, settings: Record) -> Iterator[Store]:
    """The store of a folder, locked against a second run and tied to `settings` (plain data)."""
    if not (folder / "store.sqlite").exists() and any(folder.glob("part-*.jsonl")):
        raise UserError(f"{folder}: holds dialogues without their store; choose another --out")
    make_folder(folder)
    with locked(folder, f"{folder}: another run is writing to this folder; wait for it"):
        try:
            with explain_disk_full(folder / "store.sqlite"):
                connection = sqlite3.connect(folder / "store.sqlite", check_same_thread=False)
                try:
                    _prepare(connection, folder, settings)
                    store = Store(folder, connection)
                    try:
                        yield store
                    finally:
                        store.thread.shutdown()
                        store.reader.close()
                finally:
                    connection.close()
        except sqlite3.DatabaseError as error:
            raise UserError(f"{folder / 'store.sqlite'}: cannot be used: {error}") from error


def _prepare(connection: sqlite3.Connection, folder: Path, settings: Record) -> None:
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA wal_autocheckpoint=250")  # pages, 1 MB: the log stays short
    tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master")}
    if "settings" not in tables:
        with connection:
            connection.executescript(f"BEGIN; {SCHEMA}")
            row = (FORMAT, json.dumps(settings, sort_keys=True))
            connection.execute("INSERT INTO settings VALUES (?, ?)", row)
        return
    columns = [row[1] for row in connection.execute("PRAGMA table_info(settings)")]
    made = connection.execute("SELECT * FROM settings").fetchone()
    if columns != ["format", "settings"] or made[0] != FORMAT:
        raise OtherSettings(
            f"{folder}: its store was made by another version of userlm-synth; choose another --out"
        )
    former = json.loads(made[1])
    changes = [f"{key} was {was}, is {now}" for key, was, now in _changes(former, settings)]
    if changes:
        more = f" and {len(changes) - 3} more" if len(changes) > 3 else ""
        raise OtherSettings(
            f"{folder}: holds dialogues of other models or settings; choose another --out "
            f"({'; '.join(changes[:3])}{more})"
        )


def _changes(former: Any, now: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """What differs between two settings: dotted path, the former and the present value."""
    if isinstance(former, dict) and isinstance(now, dict):
        for key in sorted({*former, *now}):
            inner = f"{path}.{key}" if path else str(key)
            yield from _changes(former.get(key), now.get(key), inner)
    elif json.dumps(former) != json.dumps(now):
        yield path, json.dumps(former), json.dumps(now)
