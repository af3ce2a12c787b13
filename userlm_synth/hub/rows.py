"""A run's dialogues as Parquet shards: looked at once, then written, block by block.

The first pass checks every record and counts what the card says; the second scans for personal
data and writes. Neither holds more than a few blocks, so that 1,000,000 dialogues take the memory
of a thousand. The same dialogues give the same bytes, whatever the number of processes.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

from userlm_synth import privacy
from userlm_synth.errors import Problems, UserError
from userlm_synth.hub.scan import Found, redacted_record, scan_record
from userlm_synth.progress import Progress
from userlm_synth.records import Record, check, open_text, parse_json, read_lines

if TYPE_CHECKING:
    import pyarrow as pa

COLUMNS = (
    "messages", "id", "intent", "persona", "intent_id", "stop_reason", "source", "language",
    "user_model", "assistant_model", "seed", "end_probabilities", "recipe_hash",
)  # fmt: skip
AS_JSON = ("metadata", "guardrails", "usage")  # open-ended objects: one string column each
BLOCK = 500  # dialogues that one process takes at a time
GROUP_ROWS = 1_000  # in a row group of Parquet
GROUP_BYTES = 32 << 20  # of a row group in memory; one of large dialogues has fewer rows
SHARD = 450_000_000  # bytes; a shard that has as many is closed, so that none reaches 500 MB
SMALL = 16 << 20  # bytes of JSONL that are not worth another process
SHOWN = range(4, 9)  # messages of the dialogue that a card shows
SHOWN_SIZE = 4_000  # and its characters, at most
SPLITS = ("train", "validation")
NAMES = ("stop_reason", "user_model", "assistant_model", "source", "recipe_hash")
COUNTED = ("split", "language", "guardrails", *NAMES)


def split_of(intent: str, share: float) -> str:
    """Train or validation, by a hash of the intent's text alone."""
    digest = hashlib.blake2b(intent.encode(), digest_size=8).digest()
    return SPLITS[int.from_bytes(digest, "big") / 2**64 < share]


def split_by_intent(dialogues: Sequence[Record], share: float) -> dict[str, list[Record]]:
    """Train and validation with no intent in both."""
    parts: dict[str, list[Record]] = {name: [] for name in SPLITS}
    for one in dialogues:
        parts[split_of(one["intent"], share)].append(one)
    return {name: part for name, part in parts.items() if part}


def dialogue_files(run: Path) -> list[Path]:
    """The accepted dialogues of a run folder, of its dialogues/ folder, or one JSONL file."""
    if run.is_file():
        return [run]
    for folder in (run / "dialogues", run):
        if files := sorted(folder.glob("part-*.jsonl*")):
            return files
    where = run / "dialogues" if (run / "dialogues").is_dir() else run
    raise UserError(f"{where}: no accepted dialogue to publish (part-*.jsonl)")


# ---- the first pass ----------------------------------------------------------------------------


@dataclass
class Facts:
    """What the card says of all dialogues."""

    counts: dict[str, Counter[str]] = field(
        default_factory=lambda: {name: Counter() for name in COUNTED}
    )
    turns: Counter[int] = field(default_factory=Counter)  # of the user, a dialogue
    example: Record = field(default_factory=dict)

    @property
    def total(self) -> int:
        """Dialogues in all."""
        return sum(self.counts["split"].values())

    def add(self, record: Record, split: str) -> None:
        """One more dialogue."""
        self.counts["split"][split] += 1
        for name in NAMES:
            self.counts[name][record[name]] += 1
        if record["language"]:
            self.counts["language"][record["language"]] += 1
        self.counts["guardrails"].update(record["guardrails"])
        self.turns[sum(one["role"] == "user" for one in record["messages"])] += 1
        if not self.example or (not _is_shown(self.example) and _is_shown(record)):
            self.example = record


def _is_shown(record: Record) -> bool:
    """Whether a dialogue is long enough to see one, and short enough for a card."""
    size = sum(len(one["content"]) for one in record["messages"])
    return len(record["messages"]) in SHOWN and size <= SHOWN_SIZE


def look(files: Sequence[Path], share: float, *, redact: bool) -> Facts:
    """Check and count all dialogues; raises `Problems` with every line that is wrong.

    With `redact` the splits are those of the intents with placeholders in them: two intents that
    become one must not be in two splits.
    """
    facts, problems, seen = Facts(), [], set[int]()
    with Progress("checking", None, "dialogues") as progress:
        for file in files:
            for line, record in read_lines(file):
                try:
                    check(record, "dialogue", f"{file}:{line}")
                except Problems as error:
                    problems += error.lines
                    continue
                # 8 bytes of hash: ids of a million dialogues take 100 MB, not more
                name = hashlib.blake2b(record["id"].encode(), digest_size=8).digest()
                if (short := int.from_bytes(name, "big")) in seen:
                    problems.append(f"{file}:{line}: id: {record['id']!r} is there twice")
                seen.add(short)
                intent = privacy.redact(record["intent"])[0] if redact else record["intent"]
                facts.add(record, split_of(intent, share))
                progress.step()
    if problems:
        raise Problems(problems)
    if not facts.total:
        raise UserError(f"{files[0]}: no accepted dialogue to publish")
    return facts


# ---- the second pass ---------------------------------------------------------------------------


def arrow_schema() -> pa.Schema:
    """The columns, `messages` first."""
    import pyarrow as pa

    message = pa.struct([("role", pa.string()), ("content", pa.string())])
    kinds = {"messages": pa.list_(message), "seed": pa.int64()}
    kinds["end_probabilities"] = pa.list_(pa.float64())
    return pa.schema([(name, kinds.get(name, pa.string())) for name in (*COLUMNS, *AS_JSON)])


@dataclass(frozen=True)
class Prepared:
    """A block, ready to be written."""

    tables: dict[str, pa.Table]
    rows: int
    found: Found
    redacted: Counter[str]


def prepare(lines: Sequence[bytes], place: int, share: float, redact: bool) -> Prepared:
    """The rows of a block as a table for each split, with placeholders where asked for."""
    import pyarrow as pa

    rows: dict[str, list[Record]] = {}
    found, counts = Found(), Counter[str]()
    for number, line in enumerate(lines, place):
        record = parse_json(line)
        if scan_record(record, found) and redact:
            record = redacted_record(record, number, counts)
        split = split_of(record["intent"], share)
        as_json = {one: json.dumps(record[one], ensure_ascii=False) for one in AS_JSON}
        rows.setdefault(split, []).append({**{c: record[c] for c in COLUMNS}, **as_json})
    tables = {
        split: pa.Table.from_pylist(part, schema=arrow_schema()) for split, part in rows.items()
    }
    return Prepared(tables, len(lines), found, counts)


def write_splits(
    files: Sequence[Path], folder: Path, share: float, *, redact: bool, total: int
) -> tuple[dict[str, Record], Found, Counter[str]]:
    """Write `SPLIT-00000-of-0000N.parquet` of each split.

    Returns of each split `{rows, bytes, memory}` (bytes on the disk, and in Arrow), what was found
    and what was replaced.
    """
    shards = {split: Shards(folder, split) for split in SPLITS}
    found, counts = Found(), Counter[str]()
    with Progress("writing", total, "dialogues") as progress:
        for block in _prepared(files, share, redact):
            found.merge(block.found)
            counts.update(block.redacted)
            if redact or not found.counts:  # what is refused need not be written
                for split, table in block.tables.items():
                    shards[split].add(table)
            progress.step(block.rows)
    splits = {split: writer.close() for split, writer in shards.items()}
    return {split: facts for split, facts in splits.items() if facts["rows"]}, found, counts


def _prepared(files: Sequence[Path], share: float, redact: bool) -> Iterator[Prepared]:
    """All blocks in order; by all processors where there is much to do."""
    blocks = ((lines, place, share, redact) for place, lines in _blocks(files))
    workers = os.cpu_count() or 1
    if workers == 1 or sum(file.stat().st_size for file in files) <= SMALL:
        yield from (prepare(*block) for block in blocks)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        waiting: deque[Future[Prepared]] = deque()
        for block in blocks:
            waiting.append(pool.submit(prepare, *block))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _blocks(files: Iterable[Path]) -> Iterator[tuple[int, list[bytes]]]:
    """(place of the first, lines) of `BLOCK` dialogues each."""
    place, lines = 0, list[bytes]()
    for file in files:
        with open_text(file) as opened:
            for line in opened:
                if line.strip():
                    lines.append(line)
                if len(lines) == BLOCK:
                    yield place, lines
                    place, lines = place + BLOCK, []
    if lines:
        yield place, lines


class Shards:
    """Parquet files of one split; they get their names when their number is known."""

    def __init__(self, folder: Path, split: str) -> None:
        self.folder, self.split = folder, split
        self.waiting: list[pa.Table] = []
        self.writer: Any = None
        self.paths: list[Path] = []
        self.rows = self.memory = 0

    def add(self, table: pa.Table) -> None:
        """More rows; written as whole row groups."""
        self.waiting.append(table)
        rows = sum(one.num_rows for one in self.waiting)
        if rows >= GROUP_ROWS or sum(one.nbytes for one in self.waiting) >= GROUP_BYTES:
            self._write()

    def _write(self) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = pa.concat_tables(self.waiting).combine_chunks()
        self.waiting = []
        if self.writer is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.paths.append(self.folder / f"{self.split}-{len(self.paths):05d}.part")
            self.writer = pq.ParquetWriter(self.paths[-1], table.schema, compression="zstd")
        self.writer.write_table(table)
        self.rows += table.num_rows
        self.memory += table.nbytes
        if self.paths[-1].stat().st_size >= SHARD:
            self._end()

    def _end(self) -> None:
        if self.writer is not None:
            self.writer.close()
        self.writer = None

    def close(self) -> Record:
        """Write the rest and name the files; `{rows, bytes, memory}`."""
        if self.waiting:
            self._write()
        self._end()
        size = 0
        for number, path in enumerate(self.paths):
            name = f"{self.split}-{number:05d}-of-{len(self.paths):05d}.parquet"
            size += path.stat().st_size
            path.rename(self.folder / name)
        return {"rows": self.rows, "bytes": size, "memory": self.memory}
