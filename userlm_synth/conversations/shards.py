"""Shards: what is known of one block of a source, on the disk.

A shard is three files: `N.jsonl` (clean conversations), `N.bin` (arrays, most a row a conversation)
and `N.json` (counts, and where the arrays are), which is written last: a shard that has it is
whole, and is not made again.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import orjson

from userlm_synth.conversations.openings import Array
from userlm_synth.errors import explain_disk_full
from userlm_synth.records import Record

COUNTS = (  # of a `Summary`
    "forms", "unreadable", "invalid", "dropped", "changed", "personas", "redacted",
)  # fmt: skip
LABELS = ("language", "country", "model", "source")


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


def kind_of(fault: str) -> str:
    """What many faults have in common: `not JSON (... at column 7)` -> `not JSON`."""
    reason = re.split(r" \(|; ", fault)[0]
    return re.sub(r"'[^']*'|\"[^\"]*\"|\d+", "...", reason)[:80]


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
    personas: Counter[str] = field(default_factory=Counter)
    redacted: Counter[str] = field(default_factory=Counter)

    def reject(self, kinds: Counter[str], where: str, reasons: Sequence[str]) -> None:
        """Count a row or conversation that cannot be used, and list why."""
        kinds[kind_of(reasons[0])] += 1
        self.rejected += [f"{where}: {reason}" for reason in reasons]

    def add(self, other: Summary) -> None:
        """Count another shard's too."""
        self.rows += other.rows
        self.drafts += other.drafts
        self.kept += other.kept
        self.rejected += other.rejected
        for name in COUNTS:
            getattr(self, name).update(getattr(other, name))


@dataclass(frozen=True)
class Content:
    """What a shard holds."""

    file: str  # of the source, as shown to people
    lines: list[bytes]
    dropped: list[bytes]  # lines of `dropped.jsonl`
    arrays: Mapping[str, Array]
    labels: Mapping[str, list[str]]  # what the numbers of the columns in LABELS stand for


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

    def write(self, content: Content, summary: Summary) -> None:
        """All files, the marker last."""
        with explain_disk_full(self.lines):
            self.lines.write_bytes(b"".join(content.lines))
            if content.dropped:
                self.dropped.write_bytes(b"".join(content.dropped))
            places, offset = {}, 0
            with self.arrays.open("wb") as out:
                for name, array in content.arrays.items():
                    out.write(np.ascontiguousarray(array).data)
                    places[name] = [array.dtype.str, array.shape, offset]
                    offset += array.nbytes
            sizes = [one.stat().st_size for one in (self.lines, self.arrays)]
            facts = {
                "file": content.file,
                "sizes": sizes,
                "arrays": places,
                "labels": content.labels,
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
