"""Personal data and secrets in everything that a release holds: dialogues, recipe, report.

Unlike a scan of conversations this looks at every text of a record, ids and keys too: all of it
would be published. What is found is counted and placed, never shown.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from userlm_synth.errors import UserError
from userlm_synth.pages import number
from userlm_synth.privacy import find, redact
from userlm_synth.records import Record

#: Made by this program, hex alone: what looks like a number in it is chance.
OURS = re.compile(r"dlg-[0-9a-f]{20}|[0-9a-f]{16}")
#: Names that every dialogue has, and the two sides: a third of its strings, none of them a text.
NAMES = frozenset((
    "id", "source", "user_id", "language", "intent", "persona", "messages", "role", "content",
    "metadata", "intent_id", "seed", "user", "assistant", "stop_reason", "user_model",
    "assistant_model", "guardrails", "end_probabilities", "usage", "recipe_hash", "prompt_tokens",
    "completion_tokens", "cached_tokens", "repetition",
))  # fmt: skip


@dataclass
class Found:
    """How much of each kind, and where the first stands."""

    counts: Counter[str] = field(default_factory=Counter)
    first: tuple[str, str] | None = None  # place, kind

    def add(self, place: str, kind: str) -> None:
        """One more."""
        self.counts[kind] += 1
        self.first = self.first or (place, kind)

    def merge(self, later: Found) -> None:
        """What was found in what comes after."""
        self.counts.update(later.counts)
        self.first = self.first or later.first


def texts(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """(place, text) of every string in JSON data, the keys of mappings too."""
    if isinstance(value, str):
        if value not in NAMES and not OURS.fullmatch(value):
            yield path, value
    elif isinstance(value, dict):
        for key, item in value.items():
            inner = f"{path}.{key}" if path else str(key)
            if key not in NAMES:
                yield path or "(keys)", str(key)
            yield from texts(item, inner)
    elif isinstance(value, (list, tuple)):
        for place, item in enumerate(value):
            yield from texts(item, f"{path}[{place}]")


def scan_record(record: Record, found: Found) -> bool:
    """Add what a dialogue holds to `found`; True where it holds anything."""
    clean = True
    for place, text in texts(record):
        # a message's place is the message: "messages[1]"
        for one in find(text):
            where = redact(place.removesuffix(".content"))[0]
            found.add(f"dialogue {redact(str(record['id']))[0]!r}, {where}", one.kind)
            clean = False
    return not clean


def scan_value(value: Any, name: str, found: Found) -> None:
    """Add what any JSON data or text holds to `found`, under its file's name."""
    for _, text in texts(value):
        for one in find(text):
            found.add(name, one.kind)


def redacted(value: Any, counts: Counter[str]) -> Any:
    """The same JSON data with a placeholder for each finding, keys too; counts them by kind."""
    if isinstance(value, str):
        if OURS.fullmatch(value):
            return value
        clean, more = redact(value)
        counts.update(more)
        return clean
    if isinstance(value, dict):
        return {redacted(key, counts): redacted(item, counts) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [redacted(item, counts) for item in value]
    return value


def redacted_record(record: Record, place: int, counts: Counter[str]) -> Record:
    """A dialogue with placeholders; an id that held something stays the only one of its name."""
    clean: Record = redacted(record, counts)
    if clean["id"] != record["id"]:
        clean["id"] = f"{clean['id']}-{place}"
    return clean


def listed(counts: Counter[str]) -> str:
    """`EMAIL 2, PHONE 1`, the most frequent first."""
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{kind} {number(count)}" for kind, count in ranked)


def refusal(run: Path, found: Found) -> UserError:
    """Why nothing is published, in one line without a secret in it."""
    assert found.first
    place, kind = found.first
    return UserError(
        f"{run}: personal data or secrets in what would be published ({listed(found.counts)}), "
        f"the first in {place}; set push.redact=true (--redact) to publish placeholders such as "
        f"[{kind}] in their place"
    )
