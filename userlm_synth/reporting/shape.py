"""What was made, over all records: counts, lengths, models, tokens, guardrails, intents, cost.

The same shape is taken of a reference, as far as it applies. `Shape.result` gives the JSON of
`shape` in `report.json`; `beside` adds what lies in files of their own.
"""

from __future__ import annotations

import hashlib
import math
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from userlm_synth.metrics import words
from userlm_synth.records import Record

Bins = list[tuple[int, int | None]]  # (low, high), both included; high None = no upper end
TURN_BINS: Bins = [*((at, at) for at in range(1, 10)), (10, None)]
WORD_BINS: Bins = [(0, 2), (3, 5), (6, 10), (11, 25), (26, 50), (51, 100), (101, None)]
TENTHS = 10  # bins of a probability
SIDES = ("user", "assistant")
TOKENS = ("prompt_tokens", "completion_tokens", "cached_tokens")
NAMES = 50  # different names that are listed; the others are added up
OTHERS = "all others"
SHOWN = 10  # unused intents that are named
UNKNOWN = "unknown"


class Shape:
    """A tally of what records look like from outside."""

    def __init__(self) -> None:
        self.dialogues = 0
        self.turns: Counter[int] = Counter()  # user turns: how many dialogues
        self.words: dict[str, Counter[int]] = {side: Counter() for side in SIDES}
        self.named: dict[str, Counter[str]] = {
            name: Counter()
            for name in ("stop_reason", "user_model", "assistant_model", "recipe_hash",
                         "language", "source")
        }  # fmt: skip
        self.guardrails: Counter[str] = Counter()
        self.tokens = {side: dict.fromkeys(TOKENS, 0) for side in SIDES}
        self.intents = array("Q")  # a hash for each dialogue that has one
        self.ends = {place: Ends() for place in ("last", "earlier")}

    def add(self, place: int, record: Record) -> None:
        """One more record."""
        self.dialogues += 1
        turns = 0
        for message in record["messages"]:
            role = message["role"]
            turns += role == "user"
            if role in self.words:
                self.words[role][count_words(message["content"])] += 1
        self.turns[turns] += 1
        for name, counter in self.named.items():
            value = record.get(name)
            if value is not None:
                counter[model_name(value)] += 1
        add_counts(self.guardrails, record.get("guardrails"))
        add_usage(self.tokens, record.get("usage"))
        if (intent := intent_of(record)) is not None:
            self.intents.append(number_of(intent))
        probabilities = record.get("end_probabilities")
        if isinstance(probabilities, list) and probabilities:
            *earlier, last = probabilities
            self.ends["last"].add(last)
            for value in earlier:
                self.ends["earlier"].add(value)

    def merge(self, later: Shape) -> None:
        """What later records look like."""
        self.dialogues += later.dialogues
        self.turns += later.turns
        for side in SIDES:
            self.words[side] += later.words[side]
            for kind in TOKENS:
                self.tokens[side][kind] += later.tokens[side][kind]
        for name in self.named:
            self.named[name] += later.named[name]
        self.guardrails += later.guardrails
        self.intents.extend(later.intents)
        for place in self.ends:
            self.ends[place].merge(later.ends[place])

    def result(self) -> Record:
        """`shape` of a set, without what lies beside the dialogues (`rejections`, `cost`)."""
        named = {name: counted(counter) for name, counter in self.named.items()}
        return {
            "dialogues": self.dialogues,
            "turns": spread(self.turns, TURN_BINS),
            "words": {
                side: {"turns": lengths.total(), **spread(lengths, WORD_BINS)}
                for side, lengths in self.words.items()
            },
            "stop_reasons": named["stop_reason"],
            "models": {side: named[f"{side}_model"] for side in SIDES},
            "recipes": named["recipe_hash"],
            "languages": named["language"],
            "sources": named["source"],
            "guardrails": counted(self.guardrails),
            "tokens": {side: dict(found) for side, found in self.tokens.items()},
            "end_probabilities": {
                "bins": [f"{at / TENTHS:.1f}\u2013{(at + 1) / TENTHS:.1f}" for at in range(TENTHS)],
                **{place: ends.result() for place, ends in self.ends.items()},
            },
        }

    def intents_used(self, given: Mapping[int, str] | None) -> Record:
        """`intents` of a set; `given`: the intents that there were, as `read_intents` gives them.

        `{distinct, per_intent: {min, median, max} | null, given | null, unused | null,
        unused_first: [id]}`; per intent: dialogues of an intent that has one.
        """
        import numpy as np

        numbers, counts = np.unique(np.frombuffer(self.intents, np.uint64), return_counts=True)
        found: Record = {"distinct": len(numbers), "per_intent": None}
        if len(numbers):
            found["per_intent"] = {
                "min": int(counts.min()),
                "median": float(np.median(counts)),
                "max": int(counts.max()),
            }
        if given is None:
            return {**found, "given": None, "unused": None, "unused_first": []}
        used = set(numbers.tolist())
        unused = [name for number, name in given.items() if number not in used]
        return {
            **found,
            "given": len(given),
            "unused": len(unused),
            "unused_first": unused[:SHOWN],
        }


class Ends:
    """Probabilities that the user leaves, in tenths."""

    def __init__(self) -> None:
        self.counts = [0] * TENTHS
        self.total = 0.0

    def add(self, value: Any) -> None:
        """One more, where the user model gave it."""
        if isinstance(value, (int, float)) and 0 <= value <= 1:
            self.counts[min(int(value * TENTHS), TENTHS - 1)] += 1
            self.total += value

    def merge(self, later: Ends) -> None:
        """Those of later records."""
        self.counts = [one + other for one, other in zip(self.counts, later.counts, strict=True)]
        self.total += later.total

    def result(self) -> Record:
        """`{count, mean | null, counts: [10]}`."""
        count = sum(self.counts)
        mean = self.total / count if count else None
        return {"count": count, "mean": mean, "counts": self.counts}


# ---- one record ----------------------------------------------------------------------------------

#: Bytes of ASCII as a letter or digit, an apostrophe, or what parts words.
_KINDS = (
    bytes(
        ord("a") if chr(code).isalnum() else code if chr(code) == "'" else ord(" ")
        for code in range(128)
    )
    + b" " * 128
)
#: Common marks outside ASCII that part words, as what does so inside it; an apostrophe joins them.
_MARKS = {ord(mark): " " for mark in "\u201c\u201d\u2018\u2013\u2014\u2026\u00a0"} | {0x2019: "'"}


def count_words(text: str) -> int:
    """`len(metrics.words(text))`, many times as fast where all letters are ASCII.

    A word begins with a letter that no letter stands before, nor a letter and one apostrophe.
    """
    plain = text if text.isascii() else text.translate(_MARKS)
    if not plain.isascii():
        return len(words(text))
    kinds = b" " + plain.encode("ascii").translate(_KINDS)
    return kinds.count(b" a") + kinds.count(b" 'a") + kinds.count(b"''a")


def model_name(model: Any) -> str:
    """A name as one line: a string as it is, a mapping as its values joined by ``@``."""
    if isinstance(model, dict):
        return "@".join(str(value) for value in model.values() if value) or UNKNOWN
    return str(model)[:200] or UNKNOWN


def intent_of(record: Record) -> str | None:
    """What tells a record's intent from others: its id, else its text."""
    for name in ("intent_id", "intent"):
        value = record.get(name)
        if isinstance(value, str) and value.strip():
            return value
    return None


def number_of(text: str) -> int:
    """64 bits of a text's hash."""
    digest = hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def add_counts(total: Counter[str], counts: Any) -> None:
    """Add a mapping of counts; what is none is left out (`trust.schema` names it)."""
    if isinstance(counts, dict):
        for name, count in counts.items():
            if isinstance(count, int) and count > 0:
                total[str(name)] += count


def add_usage(total: dict[str, dict[str, int]], usage: Any) -> None:
    """Add a record's tokens by side."""
    if not isinstance(usage, dict):
        return
    for side, kinds in total.items():
        found = usage.get(side)
        if isinstance(found, dict):
            for kind in TOKENS:
                count = found.get(kind)
                if isinstance(count, int) and count > 0:
                    kinds[kind] += count


# ---- counts --------------------------------------------------------------------------------------


def counted(counts: Mapping[str, int], most: int = NAMES) -> dict[str, int]:
    """Most frequent first, ties by name; those after the first `most` together."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    rest = sum(count for _, count in ordered[most:])
    return {**dict(ordered[:most]), **({OTHERS: rest} if rest else {})}


def spread(counts: Counter[int], bins: Bins) -> Record:
    """`{bins: [label], counts: [int], mean, median, p90}` of values and how often each occurs.

    Exact, as all values are kept; median and 90th percentile by linear interpolation, as numpy's.
    """
    total = counts.total()
    found: Record = {"bins": labels(bins), "counts": histogram(counts, bins)}
    if not total:
        return {**found, "mean": None, "median": None, "p90": None}
    mean = sum(value * count for value, count in counts.items()) / total
    return {
        **found,
        "mean": mean,
        "median": quantile(counts, 0.5),
        "p90": quantile(counts, 0.9),
    }


def quantile(counts: Counter[int], share: float) -> float:
    """The value below which `share` of all lie (Hyndman & Fan 1996, type 7)."""
    place = share * (counts.total() - 1)
    low, part = math.floor(place), place - math.floor(place)
    one, other = _at(counts, low), _at(counts, low + (1 if part else 0))
    return one + part * (other - one)


def _at(counts: Counter[int], place: int) -> int:
    """The value at a place of all values in order."""
    ordered = sorted(counts.items())
    for value, count in ordered:
        place -= count
        if place < 0:
            return value
    return ordered[-1][0]


def histogram(counts: Counter[int], bins: Bins) -> list[int]:
    """How many values lie in each bin; values below the first bin are in none."""
    return [
        sum(
            count
            for value, count in counts.items()
            if value >= low and (high is None or value <= high)
        )
        for low, high in bins
    ]


def labels(bins: Iterable[tuple[int, int | None]]) -> list[str]:
    """Bins as people read them."""
    return [
        f"{low}+" if high is None else str(low) if low == high else f"{low}\u2013{high}"
        for low, high in bins
    ]
