"""What every record is checked for: personal data and secrets in it, and its form.

Of what was found only the kind and the place are kept, never the text itself.
"""

from __future__ import annotations

from collections import Counter

import orjson

from userlm_synth.privacy import find_in_record, redact
from userlm_synth.records import Record, has_form, record_problems
from userlm_synth.reporting.trust.share import Share, beside

PLACES = 20  # findings that are named
WRONG = 10  # records that are explained
#: What a conversation has beside its messages; other datasets say it in other words or not at all.
REST: Record = {
    "id": "row", "source": "dataset", "user_id": None, "language": None, "intent": None,
    "persona": None, "metadata": {},
}  # fmt: skip


class Private:
    """Personal data and secrets: how many by kind, and where the first are; part of a tally."""

    def __init__(self) -> None:
        self.share = Share()
        self.counts: Counter[str] = Counter()
        self.dialogues: Counter[str] = Counter()
        self.places: list[Record] = []

    def add(self, place: int, record: Record) -> None:
        """One more conversation."""
        found = find_in_record(record)
        self.share.add(bool(found), 1)
        if not found:
            return
        kinds = [kind for _, kind, _ in found]
        self.counts.update(kinds)
        self.dialogues.update(set(kinds))
        name = redact(str(record.get("id")))[0]
        for field, kind, _ in found[: PLACES - len(self.places)]:
            self.places.append({"row": place, "id": name, "field": field, "kind": kind})

    def merge(self, later: Private) -> None:
        """The sums of both, and the first places."""
        self.share.merge(later.share)
        self.counts.update(later.counts)
        self.dialogues.update(later.dialogues)
        self.places = (self.places + later.places)[:PLACES]


def private_part(made: Private, people: Private | None) -> Record:
    """`trust.privacy`: {kind: "privacy", count, dialogues: with any, share: `share.beside` (% of
    dialogues), kinds: {KIND: {count, dialogues}}, most frequent first, places: [{row, id, field,
    kind}], the first 20}."""
    order = sorted(made.counts, key=lambda kind: (-made.counts[kind], kind))
    return {
        "kind": "privacy",
        "count": made.counts.total(),
        "dialogues": made.share.having,
        "share": beside(made.share, people.share if people else None),
        "kinds": {
            kind: {"count": made.counts[kind], "dialogues": made.dialogues[kind]} for kind in order
        },
        "places": made.places,
    }


class Form:
    """Records that break the dialogue schema, or the rules of a conversation; part of a tally.

    A record with a `stop_reason` claims to be a dialogue of ours, and all of it is checked; of any
    other its messages are.
    """

    def __init__(self) -> None:
        self.claimed = Counter[str]()
        self.share = Share()
        self.places: list[Record] = []

    def add(self, place: int, record: Record) -> None:
        """One more record."""
        schema = "dialogue" if "stop_reason" in record else "conversation"
        checked = record if schema == "dialogue" else {**REST, "messages": record["messages"]}
        right = _writes(checked) and has_form(checked, schema)
        self.claimed[schema] += 1
        self.share.add(not right, 1)
        if not right and len(self.places) < WRONG:
            problem = (record_problems(checked, schema) or ["(record): cannot be written"])[0]
            at = {"row": place, "id": redact(str(record.get("id")))[0]}
            self.places.append({**at, "problem": redact(problem)[0]})

    def merge(self, later: Form) -> None:
        """The sums of both, and the first records."""
        self.claimed.update(later.claimed)
        self.share.merge(later.share)
        self.places = (self.places + later.places)[:WRONG]


def _writes(record: Record) -> bool:
    """Whether a record is UTF-8 without NUL characters, as every reader of JSON needs it."""
    try:
        return b"\\u0000" not in orjson.dumps(record)
    except (TypeError, ValueError):
        return False


def form_part(made: Form) -> Record:
    """`trust.schema`: {kind: "schema", checked: {dialogue, conversation: records that claim to be
    one}, count: wrong ones, share: % of all, or null, places: [{row, id, problem}], the first 10}.
    """
    share = made.share.side()
    return {
        "kind": "schema",
        "checked": {name: made.claimed[name] for name in ("dialogue", "conversation")},
        "count": made.share.part,
        "share": share["value"] if share else None,
        "places": made.places,
    }
