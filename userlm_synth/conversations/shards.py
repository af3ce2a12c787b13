"""One block of a source becomes one shard on the disk: clean lines, and what later steps ask for.

A shard is three files: `N.jsonl` (clean conversations), `N.bin` (arrays, most a row a conversation)
and `N.json` (counts, and where the arrays are), which is written last: a shard that has it is
whole, and is not made again.
Shards are made in any process, in any order; what is in them depends on their block alone.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import orjson

from userlm_synth.conversations.clean import Cleaner, read_ids
from userlm_synth.conversations.openings import Array, hash_openings, signatures, user_words
from userlm_synth.conversations.sources import BadRow, Block, Fault, drafts, located, rows
from userlm_synth.conversations.splits import SPLITS, group_of, split_of
from userlm_synth.errors import UserError, explain_disk_full
from userlm_synth.recipe import Conversations
from userlm_synth.records import Record, has_form, record_problems, to_line, user_turns

COUNTS = ("forms", "unreadable", "invalid", "dropped", "changed", "redacted")  # of a `Summary`
LABELS = ("language", "country", "model", "source")


class RowForm(Protocol):
    """What a shard needs of a source: the form of a row."""

    def form(self, row: Record) -> str: ...


@dataclass(frozen=True)
class Job:
    """What all shards of a run have in common; picklable."""

    settings: Conversations
    source: RowForm
    seed: int
    folder: Path

    @property
    def ngram(self) -> int:
        """Words of an n-gram of a template."""
        return self.settings.dedup.ngram if self.settings.dedup else 7


@dataclass
class Summary:
    """The counts of a shard, or of several together."""

    rows: int = 0
    drafts: int = 0
    kept: int = 0
    rejected: list[str] = field(default_factory=list)  # every fault with its file and line
    forms: Counter[str] = field(default_factory=Counter)  # rows by their form
    unreadable: Counter[str] = field(default_factory=Counter)  # kinds of faulty rows, and files
    invalid: Counter[str] = field(default_factory=Counter)  # kinds of faulty conversations
    dropped: Counter[str] = field(default_factory=Counter)
    changed: Counter[str] = field(default_factory=Counter)
    redacted: Counter[str] = field(default_factory=Counter)

    def add(self, other: Summary) -> None:
        """Count another shard's too."""
        self.rows += other.rows
        self.drafts += other.drafts
        self.kept += other.kept
        self.rejected += other.rejected
        for name in COUNTS:
            getattr(self, name).update(getattr(other, name))


class Shard:
    """The files of one shard."""

    def __init__(self, folder: Path, number: int) -> None:
        stem = folder / f"{number:06d}"
        self.lines = stem.with_suffix(".jsonl")
        self.arrays = stem.with_suffix(".bin")
        self.dropped = stem.with_suffix(".dropped")
        self.marker = stem.with_suffix(".json")

        self._held: Record | None = None

    def summary(self) -> Summary | None:
        """The counts of a whole shard, or None."""
        try:
            held: Record = json.loads(self.marker.read_bytes())
            sizes = [file.stat().st_size for file in (self.lines, self.arrays)]
        except (OSError, ValueError):
            return None
        if held["sizes"] != sizes:
            return None
        self._held = held
        counts = {name: Counter(held["summary"][name]) for name in COUNTS}
        return Summary(**{**held["summary"], **counts})

    @property
    def facts(self) -> Record:
        """`file`, `labels` (tables of names) and `arrays` (their places) of a whole shard."""
        if self._held is None:
            assert self.summary(), self.marker
        assert self._held
        return self._held

    def load(self, *names: str) -> list[Array]:
        """Arrays of a whole shard by name."""
        found = []
        for name in names:
            kind, shape, offset = self.facts["arrays"][name]
            flat = np.fromfile(self.arrays, kind, math.prod(shape), offset=offset)
            found.append(flat.reshape(shape))
        return found

    def write(self, file: str, made: _Made, summary: Summary) -> None:
        """All files, the marker last."""
        with explain_disk_full(self.lines):
            self.lines.write_bytes(b"".join(made.lines))
            if made.dropped:
                self.dropped.write_bytes(b"".join(made.dropped))
            places, offset = {}, 0
            with self.arrays.open("wb") as out:
                for name, array in made.arrays().items():
                    out.write(np.ascontiguousarray(array).data)
                    places[name] = [array.dtype.str, array.shape, offset]
                    offset += array.nbytes
            sizes = [one.stat().st_size for one in (self.lines, self.arrays)]
            facts = {
                "file": file,
                "sizes": sizes,
                "arrays": places,
                "labels": {name: list(table) for name, table in made.labels.items()},
                "summary": summary.__dict__,
            }
            part = self.marker.with_suffix(".part")
            part.write_text(json.dumps(facts))
            part.replace(self.marker)


class Places:
    """Rows of the whole, back in their shards."""

    def __init__(self, shards: Sequence[Shard]) -> None:
        self.shards = shards
        sizes = [len(shard.load("number")[0]) for shard in shards]
        self.starts = np.cumsum([0, *sizes])

    def _find(self, row: int) -> tuple[Shard, int]:
        number = int(np.searchsorted(self.starts, row, "right")) - 1
        return self.shards[number], row - int(self.starts[number])

    def where(self, row: int) -> str:
        """`chats.jsonl:12`."""
        shard, place = self._find(row)
        return f"{shard.facts['file']}:{shard.load('number')[0][place]}"

    def record(self, row: int) -> Record:
        """The clean conversation."""
        shard, place = self._find(row)
        line = shard.load("line")[0]
        with shard.lines.open("rb") as file:
            file.seek(line[place])
            record: Record = orjson.loads(file.read(line[place + 1] - line[place]))
        return record


class _Made:
    """Rows of a shard in the making."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.lines: list[bytes] = []
        self.dropped: list[bytes] = []
        self.words: list[list[str]] = []
        self.columns: dict[str, list[int]] = {name: [] for name in COLUMNS}
        self.turn_words: list[int] = []
        self.labels: dict[str, dict[str, int]] = {name: {} for name in LABELS}

    def add(self, record: Record, line: bytes, number: int) -> None:
        """A clean conversation from row `number`, and its line."""
        settings = self.job.settings
        said = [text.split() for text in user_turns(record["messages"])]
        group = group_of(record, settings.split_by)
        shares = (settings.train, settings.validation, settings.test)
        known = {**record["metadata"], "language": record["language"], "source": record["source"]}
        own = hash64(group)
        by_user = settings.split_by == "user"
        said_first, length = user_words(record, self.job.ngram) if settings.dedup else ([], 0)
        row = {
            "number": number,
            "id": hash64(record["id"]),
            "exact": hash64("\x1f".join(map(" ".join, said)).lower()),
            "group": own,
            "user": own if by_user else hash64(group_of(record, "user")),
            "split": SPLITS.index(split_of(group, shares, self.job.seed)),
            "opening": length,
            "turns": len(record["messages"]),
            "user_turns": len(said),
            "with_intent": record["intent"] is not None,
            **{name: self._label(name, known.get(name)) for name in LABELS},
        }
        for name, value in row.items():
            self.columns[name].append(value)
        self.turn_words += map(len, said)
        self.words.append(said_first)
        self.lines.append(line)

    def _label(self, name: str, value: object) -> int:
        table = self.labels[name]
        return table.setdefault(str(value) if value else "unknown", len(table))

    def arrays(self) -> dict[str, Array]:
        """Columns as arrays; the user's first words, their starts and signatures."""
        found = {name: np.array(self.columns[name], kind) for name, kind in COLUMNS.items()}
        found["turn_words"] = np.array(self.turn_words, np.int32)
        found["line"] = np.cumsum([0, *map(len, self.lines)])
        words = hash_openings(self.words)
        return {
            **found,
            "words": words.words,
            "starts": words.starts,
            "signatures": signatures(words),
        }


COLUMNS: dict[str, type[np.generic]] = {
    "number": np.int64,  # row, or line, in the source's file
    "id": np.uint64,
    "exact": np.uint64,  # of the user's turns, case and white space aside
    "group": np.uint64,
    "user": np.uint64,
    "split": np.uint8,
    "opening": np.int32,  # of the user's first words
    "turns": np.int32,
    "user_turns": np.int32,
    "with_intent": np.bool_,
    **dict.fromkeys(LABELS, np.int32),
}


def hash64(text: str) -> int:
    """64 bits of BLAKE2b."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


class ShardMaker:
    """Makes the shards of a job; one a process."""

    def __init__(self, job: Job) -> None:
        self.job = job
        clean = job.settings.clean
        excluded = read_ids(Path(clean.exclude_ids)) if clean and clean.exclude_ids else frozenset()
        self.cleaner = Cleaner(clean, excluded) if clean else None

    def make(self, block: Block) -> Summary:
        """One shard; with `on_error: stop` and a fault, its files are not written."""
        summary, made = Summary(), _Made(self.job)
        for number, row in rows(block):
            if isinstance(row, Fault):
                summary.unreadable[kind_of(row.reason)] += 1
                summary.rejected.append(located(block.file, number, row.reason))
                continue
            summary.rows += 1
            try:
                form = self.job.source.form(row)
                found = list(drafts(row, form, self.job.settings, block.file, number))
                summary.forms[form] += 1
            except (BadRow, UserError) as error:
                summary.unreadable[kind_of(str(error))] += 1
                summary.rejected.append(located(block.file, number, str(error)))
                continue
            for place, draft in enumerate(found, 1):
                draft["id"] = draft["id"] or self._name(block.file, number, place, len(found))
                self._one(draft, block.file, number, summary, made)
        if not summary.rejected or self.job.settings.on_error == "reject":
            Shard(self.job.folder, block.number).write(block.file, made, summary)
        return summary

    def _name(self, file: str, number: int, place: int, count: int) -> str:
        source = Path(self.job.settings.source)
        inside = Path(file).relative_to(source) if source.is_dir() else Path(Path(file).name)
        stem = inside.with_name(inside.name.split(".")[0]).as_posix()
        return f"{stem}-{number:07d}" + (f"-{place}" if count > 1 else "")

    def _one(self, draft: Record, file: str, number: int, summary: Summary, made: _Made) -> None:
        """Clean, redact and check one draft."""
        summary.drafts += 1
        record: Record | None = draft
        if self.cleaner:
            record, reason, changed = self.cleaner(draft)
            if record is None:
                summary.dropped[str(reason)] += 1
                if self.job.settings.keep_dropped:
                    made.dropped.append(aside(str(reason), located(file, number, ""), draft))
                return
            summary.changed.update(changed)
        assert record
        if self.job.settings.redact:
            from userlm_synth.privacy import redact_record

            summary.redacted.update(redact_record(record))
        line = self._line(record)
        if not line:
            problems = record_problems(record, "conversation")
            summary.invalid[kind_of(problems[0])] += 1
            summary.rejected += [located(file, number, problem) for problem in problems]
            return
        try:
            made.add(record, line, number)
        except UserError as error:  # no metadata to split by
            summary.invalid[kind_of(str(error))] += 1
            summary.rejected.append(located(file, number, str(error)))
            return
        summary.kept += 1

    def _line(self, record: Record) -> bytes:
        """A valid record as a line of JSON, else nothing."""
        try:
            line = orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE)
        except TypeError:  # a lone surrogate, or a number of more than 64 bits
            line = b""
        # Cleaning leaves no NaN, so this is all that `record_problems` could find, in less time.
        quick = self.cleaner and line and b"\\u0000" not in line
        if quick and has_form(record, "conversation"):
            return line
        if record_problems(record, "conversation"):
            return b""
        return line or to_line(record).encode()


def aside(reason: str, where: str, record: object) -> bytes:
    """A line of `dropped.jsonl`."""
    line = {"reason": reason, "where": where.removesuffix(": "), "record": record}
    try:
        return orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)
    except TypeError:  # lone surrogates and numbers of more than 64 bits
        return json.dumps(line).encode() + b"\n"


def kind_of(fault: str) -> str:
    """What many faults have in common: `not JSON (... at column 7)` -> `not JSON`."""
    reason = re.split(r" \(|; ", fault)[0]
    return re.sub(r"'[^']*'|\"[^\"]*\"|\d+", "...", reason)[:80]
