"""Which first turns are judged, and what people are told from: equally many of each row.

The paper takes texts of 50 to 200 tokens, enough for a detector. First turns are often shorter, so
that short ones can be taken where there are not enough; every row says which it has.
"""

from __future__ import annotations

import random
import unicodedata
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from userlm_synth.errors import Problems, UserError
from userlm_synth.metrics import words
from userlm_synth.records import read_lines, user_turns

HUMAN = "human"
LONG = range(50, 201)  # tokens, as in the paper
FEWEST = 20  # texts of a row, of people and of the contrast
FEWEST_LONG = 30  # of each row, for `auto` to take long texts
WHAT = {"long": "of 50 to 200 tokens", "short": "that are not empty"}

Texts = Mapping[str, str]  # by the conversation's id


def tokens(text: str) -> int:
    """Words, and marks of punctuation one by one: the same for every model, without a tokenizer.

    The paper does not say whose tokens it counts; language models mostly count a few more.
    """
    return len(words(text)) + sum(unicodedata.category(one)[0] in "PS" for one in text)


@dataclass(frozen=True)
class Choice:
    """The same number of texts for each row (`kind`: long or short), or why a row has none."""

    kind: str
    rows: dict[str, Texts]
    missing: dict[str, str]


def choose(rows: Mapping[str, Texts], mode: str, *, limit: int, seed: int) -> Choice:
    """As many texts as the smallest row that has enough, `limit` at most, drawn by `seed`.

    `long`: those of 50 to 200 tokens; `short`: all that are not empty; `auto`: long where every
    row has `FEWEST_LONG` such texts. A row with fewer than `FEWEST` is left out, with its reason.
    """
    if limit < FEWEST:
        few = f"needs {FEWEST} first turns a row; evaluate.first_turns is {limit}"
        return Choice("short", {}, dict.fromkeys(rows, few))
    if mode == "auto":
        enough = [row for row in rows.values() if len(_those(row, "short")) >= FEWEST]
        counts = [len(_those(row, "long")) for row in enough]
        mode = "long" if min(counts, default=0) >= FEWEST_LONG else "short"
    first = sorted(rows, key=lambda label: label != HUMAN)
    those = {label: _those(rows[label], mode) for label in first}
    missing = {
        label: f"needs {FEWEST} first turns {WHAT[mode]}; there are {len(row)}"
        for label, row in those.items()
        if len(row) < FEWEST
    }
    there = {label: row for label, row in those.items() if label not in missing}
    return Choice(mode, equal(there, limit, seed), missing)


def _those(row: Texts, mode: str) -> Texts:
    return {name: text for name, text in row.items() if fits(text, mode)}


def fits(text: str, mode: str) -> bool:
    """Whether a text is of a kind, `long` or `short`."""
    return tokens(text) in LONG if mode == "long" else bool(text.strip())


def equal(rows: Mapping[str, Texts], limit: int, seed: int) -> dict[str, Texts]:
    """The same number of texts for each row, by `seed`; first those whose id most rows have."""
    n = min([limit, *map(len, rows.values())])
    having = Counter(name for row in rows.values() for name in row)
    order = sorted(having)
    random.Random(seed).shuffle(order)
    order.sort(key=lambda name: -having[name])
    drawn = {label: [name for name in order if name in row][:n] for label, row in rows.items()}
    return {label: {name: rows[label][name] for name in names} for label, names in drawn.items()}


def read_contrast(path: Path) -> list[tuple[str, str]]:
    """(group, text) of a JSONL file: `text`, or the first user turn of `messages`.

    The group is the intent's or conversation's id, so that what was said to an intent is not
    learnt from when what people said to it is judged.
    """
    found, problems = [], []
    for number, record in read_lines(path):
        text = _text_of(record)
        if text is None:
            problems.append(f"{path}:{number}: needs `text`, or `messages` with a user's turn")
        elif text.strip():
            name = record.get("intent_id") or record.get("id") or f"{path.name}:{number}"
            found.append((str(name), text))
    if problems:
        raise Problems(problems)
    if not found:
        raise UserError(f"{path}: is empty; it needs texts that no person wrote, one a line")
    return found


def _text_of(record: Any) -> str | None:
    try:
        text = record["text"] if "text" in record else user_turns(record["messages"])[0]
    except (IndexError, KeyError, TypeError):
        return None
    return text if isinstance(text, str) else None
