"""Chats in, clean conversations out: one record form, split so that no user is in two splits.

    userlm-synth prepare --source chats.jsonl.gz --out DIR

The split of a conversation depends on a keyed hash of its user (or of itself, or of a metadata
field) alone, so it stays the same when data is added.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from userlm_synth.errors import Problems, UserError
from userlm_synth.progress import say
from userlm_synth.records import Record, read_lines, record_problems, write_records

if TYPE_CHECKING:
    from userlm_synth.recipe import Conversations

SPLITS = ("train", "validation", "test")
KNOWN = ("id", "source", "user_id", "language", "intent", "persona", "messages", "metadata")


def load_source(settings: Conversations, seed: int) -> list[Record]:
    """Every conversation of a source, in the record form, all faults listed at once."""
    if settings.source == "quickstart":
        from userlm_synth.world import make_conversations

        return make_conversations(settings.count, seed)
    return list(read_chats(Path(settings.source)))


def read_chats(path: Path) -> Iterator[Record]:
    """Conversations of a JSONL file (.gz too) with at least `messages` on each line.

    Missing fields are filled in (the id from the line number), unknown ones move to `metadata`.
    """
    problems: list[str] = []
    seen: dict[str, int] = {}
    count = 0
    for line, raw in read_lines(path):
        count += 1
        record = _as_conversation(raw, path, line)
        found = record_problems(record, "conversation")
        if not found and record["id"] in seen:
            found = [f"id: {record['id']!r} is on line {seen[record['id']]} too"]
        if found:
            problems += [f"{path}:{line}: {problem}" for problem in found]
            continue
        seen[record["id"]] = line
        if not problems:
            yield record
    if problems:
        raise Problems(problems)
    if not count:
        raise UserError(
            f"{path}: is empty; it needs at least one conversation, a JSON object a line"
        )


def _as_conversation(raw: object, path: Path, line: int) -> Record:
    if not isinstance(raw, dict):
        raise UserError(f"{path}:{line}: (record): is a JSON object, not {type(raw).__name__}")
    extra = {key: value for key, value in raw.items() if key not in KNOWN}
    given = raw.get("metadata")
    return {
        "id": str(raw.get("id") or f"{path.name.split('.')[0]}-{line:07d}"),
        "source": raw.get("source") or path.name,
        "user_id": raw.get("user_id"),
        "language": raw.get("language"),
        "intent": raw.get("intent"),
        "persona": raw.get("persona"),
        "messages": raw.get("messages", []),
        "metadata": {**extra, **given} if isinstance(given, dict) else given or extra,
    }


def group_of(record: Record, split_by: str) -> str:
    """What is never divided between splits: the user, the conversation, or a metadata value."""
    if split_by == "user":
        user = record["user_id"]
        return f"user {user}" if user else f"conversation {record['id']}"
    if split_by == "conversation":
        return f"conversation {record['id']}"
    key = split_by.removeprefix("metadata.")
    if key not in record["metadata"]:
        raise UserError(
            f"conversations.split_by: conversation {record['id']} has no metadata.{key}; "
            f"it has: {', '.join(sorted(record['metadata'])) or 'none'}"
        )
    return f"{key} {record['metadata'][key]}"


def split_of(group: str, shares: tuple[float, float, float], seed: int) -> str:
    """The split of a group: a hash keyed by the seed, as a number in [0, 1), against the shares."""
    digest = hashlib.blake2b(group.encode(), key=f"split {seed}".encode(), digest_size=8).digest()
    place = int.from_bytes(digest, "big") / 2**64
    if place < shares[0]:
        return "train"
    return "validation" if place < shares[0] + shares[1] else "test"


def split(records: list[Record], settings: Conversations, seed: int) -> dict[str, list[Record]]:
    """Train, validation and test; a split that was asked for and stayed empty is an error."""
    shares = (settings.train, settings.validation, settings.test)
    parts: dict[str, list[Record]] = {name: [] for name in SPLITS}
    for record in records:
        parts[split_of(group_of(record, settings.split_by), shares, seed)].append(record)
    for name, share in zip(SPLITS, shares, strict=True):
        if share > 0 and not parts[name]:
            raise UserError(
                f"conversations.{name}: no conversation fell into this split ({len(records)} in "
                f"all, split by {settings.split_by}); give it a larger share, or change the seed"
            )
    return parts


def prepare(settings: Conversations, out: Path, seed: int) -> Record:
    """Write `train/validation/test.jsonl` into `out`; returns counts."""
    records = load_source(settings, seed)
    parts = split(records, settings, seed)
    for name, part in parts.items():
        write_records(out / f"{name}.jsonl", part, "conversation")
    with_intent = sum(record["intent"] is not None for record in records)
    counts = {name: len(part) for name, part in parts.items()}
    say(
        f"  {len(records):,} conversations ({with_intent:,} with an intent): "
        + ", ".join(f"{name} {count:,}" for name, count in counts.items())
    )
    return {**counts, "with_intent": with_intent}
