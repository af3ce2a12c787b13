"""The prompt templates that were found, for a person to read."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from userlm_synth.conversations.choose import KEPT, Choice
from userlm_synth.conversations.openings import hash_openings, ngrams, opening
from userlm_synth.conversations.shards import Places
from userlm_synth.conversations.templates import Templates
from userlm_synth.records import Record, user_turns

EXAMPLES = 3  # conversations of a template


def review(places: Places, choice: Choice, ngram: int) -> Iterator[Record]:
    """Each template, the largest first: its text, copies, how many stay, and three examples."""
    if not choice.templates:
        return
    of = choice.templates.of
    order = np.argsort(of, kind="stable")
    starts = np.searchsorted(of[order], np.arange(choice.templates.count + 1))
    for number in range(choice.templates.count):
        rows = order[starts[number] : starts[number + 1]]
        some = rows[np.linspace(0, len(rows) - 1, EXAMPLES).round().astype(int)]
        records = [places.record(row) for row in dict.fromkeys(some.tolist())]
        texts = [_template_text(record, choice.templates, number, ngram) for record in records]
        yield {
            "text": max(texts, key=len),
            "count": len(rows),
            "kept": int((choice.why[rows] == KEPT).sum()),
            "examples": [
                {"id": one["id"], "text": user_turns(one["messages"])[0][:500]} for one in records
            ],
        }


def _template_text(record: Record, templates: Templates, number: int, ngram: int) -> str:
    """The words of an opening that lie in its template's n-grams, gaps as an ellipsis."""
    words = opening(record, ngram)
    hashes, _ = ngrams(hash_openings([words]), ngram)
    own = templates.grams[templates.owner == number]
    inside = np.zeros(len(words) + 1, bool)
    for at in np.flatnonzero(np.isin(hashes, own)).tolist():
        inside[at : at + ngram] = True
    text = "".join(f" {word}" if yes else "\0" for word, yes in zip(words, inside, strict=False))
    return " … ".join(part.strip() for part in text.split("\0") if part.strip()) or " ".join(words)
