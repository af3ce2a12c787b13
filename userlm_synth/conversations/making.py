"""A block of a source becomes a shard: read, cleaned, given personas, redacted, checked, hashed.

Shards are made in any process, in any order; what is in them depends on their block alone.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import orjson

from userlm_synth.conversations.clean import Cleaner
from userlm_synth.conversations.excluded import read_ids
from userlm_synth.conversations.openings import Array, hash_openings, signatures, user_words
from userlm_synth.conversations.shards import COLUMNS, LABELS, Content, Shard, Summary
from userlm_synth.conversations.sources import BadRow, Block, Fault, drafts, located, rows
from userlm_synth.conversations.splits import SPLITS, group_of, split_of
from userlm_synth.errors import UserError
from userlm_synth.recipe import Conversations, PersonaText
from userlm_synth.records import Record, has_form, record_problems, to_line, user_turns


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


class ShardMaker:
    """Makes the shards of a job; one a process."""

    def __init__(self, job: Job) -> None:
        self.job = job
        clean = job.settings.clean
        excluded = read_ids(Path(clean.exclude_ids)) if clean and clean.exclude_ids else frozenset()
        self.cleaner = Cleaner(clean, excluded) if clean else None
        persona = job.settings.persona
        self.persona = PersonaText(persona) if persona is not None else None

    def make(self, block: Block) -> Summary:
        """One shard; with `on_error: stop` and a fault, its files are not written."""
        summary, made = Summary(), _Rows(self.job)
        for number, row in rows(block):
            where = located(block.file, number)
            if isinstance(row, Fault):
                summary.reject(summary.unreadable, where, [row.reason])
                continue
            summary.rows += 1
            try:
                form = self.job.source.form(row)
                found = drafts(row, form, self.job.settings, block.file, number)
            except (BadRow, UserError) as error:
                summary.reject(summary.unreadable, where, [str(error)])
                continue
            summary.forms[form] += 1
            for draft in found:
                self._one(draft, where, number, summary, made)
        if not summary.rejected or self.job.settings.on_error == "reject":
            Shard(self.job.folder, block.number).write(made.content(block.file), summary)
        return summary

    def _one(self, draft: Record, where: str, number: int, summary: Summary, made: _Rows) -> None:
        """Clean, give a persona to, redact and check one draft."""
        summary.drafts += 1
        record: Record | None = draft
        if self.cleaner:
            record, reason, changed = self.cleaner(draft)
            if record is None:
                summary.dropped[str(reason)] += 1
                if self.job.settings.keep_dropped:
                    made.dropped.append(aside(str(reason), where, draft))
                return
            summary.changed.update(changed)
        assert record
        if self.persona:
            summary.personas[_give_persona(record, self.persona)] += 1
        if self.job.settings.redact:
            from userlm_synth.privacy import redact_record

            summary.redacted.update(redact_record(record))
        line = self._line(record)
        if not line:
            summary.reject(summary.invalid, where, record_problems(record, "conversation"))
            return
        try:
            made.add(record, line, number)
        except UserError as error:  # no metadata to split by
            summary.reject(summary.invalid, where, [str(error)])
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


def _give_persona(record: Record, persona: PersonaText) -> str:
    """Write the persona of a record that has none; returns what happened, for the counts."""
    if (record["persona"] or "").strip():
        return "persona given by the source"
    record["persona"], lacking = persona.of(record)
    return f"no persona, as there is no {lacking}" if lacking else "persona written"


class _Rows:
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

    def content(self, file: str) -> Content:
        """All of it."""
        labels = {name: list(table) for name, table in self.labels.items()}
        return Content(file, self.lines, self.dropped, self._arrays(), labels)

    def _arrays(self) -> dict[str, Array]:
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


def hash64(text: str) -> int:
    """64 bits of BLAKE2b."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def aside(reason: str, where: str, record: object) -> bytes:
    """A line of `dropped.jsonl`."""
    line = {"reason": reason, "where": where, "record": record}
    try:
        return orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)
    except TypeError:  # lone surrogates and numbers of more than 64 bits
        return json.dumps(line).encode() + b"\n"
