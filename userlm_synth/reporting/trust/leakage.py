"""Leakage: text of the users' turns that was copied from the training conversations.

A run of words is copied where each 8 of its words in a row stand in a row somewhere in the user
turns of the training conversations. The same is counted for the reference, which people wrote: what
they happen to share with the training conversations is the floor.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from userlm_synth.records import Record
from userlm_synth.reporting.trust.passages import (
    BATCH,
    WORDS,
    Hashes,
    hash_words,
    occur,
    open_training,
    passages,
)
from userlm_synth.reporting.trust.share import Share, beside

SHOWN = 200  # words of the longest run that are shown


class Leakage:
    """Passages of the user turns that the training conversations hold too; part of a tally.

    Turns wait until there are enough to look up at once.
    """

    def __init__(self, training: Path) -> None:
        self.training = training
        self.share = Share()
        self.longest: Record | None = None
        self._waiting: list[tuple[int, str, int, list[str]]] = []  # row, id, message, words
        self._size = 0
        self._known: Hashes | None = None

    def add(self, place: int, name: str, turns: Sequence[tuple[int, list[str]]]) -> None:
        """The user turns of a conversation: (number of the message, its words)."""
        for number, words in turns:
            if len(words) >= WORDS:
                self._waiting.append((place, name, number, words))
                self._size += len(words)
        if self._size >= BATCH:
            self.flush()

    def flush(self) -> None:
        """Look up what waits."""
        if not self._waiting:
            return
        found, turn = passages(hash_words(words for *_, words in self._waiting))
        if self._known is None:
            self._known = open_training(self.training)
        copied = occur(found, self._known)
        owner = np.array([row for row, *_ in self._waiting], dtype=np.int64)[turn]
        rows, whole = np.unique(owner, return_counts=True)
        part = np.bincount(np.searchsorted(rows, owner[copied]), minlength=len(rows))
        for one, all_of_it in zip(part.tolist(), whole.tolist(), strict=True):
            self.share.add(one, all_of_it)
        self._look_for_longest(copied, turn)
        self._waiting, self._size = [], 0

    def _look_for_longest(self, copied: NDArray[np.bool_], turn: NDArray[np.int64]) -> None:
        hits = np.flatnonzero(copied)
        if not len(hits):
            return
        breaks = np.flatnonzero((np.diff(hits) != 1) | (np.diff(turn[hits]) != 0)) + 1
        starts = np.concatenate([np.zeros(1, np.int64), breaks])
        lengths = np.diff(np.append(starts, len(hits)))
        best = int(np.argmax(lengths))
        length = int(lengths[best]) + WORDS - 1
        if self.longest is None or length > self.longest["words"]:
            first = int(hits[starts[best]])
            at = int(turn[first])
            begin = first - int(np.searchsorted(turn, at))
            row, name, number, words = self._waiting[at]
            text = " ".join(words[begin : begin + min(length, SHOWN)])
            self.longest = {
                "words": length, "text": text, "row": row, "id": name, "message": number,
            }  # fmt: skip

    def merge(self, later: Leakage) -> None:
        """Sums of both, and the longer run; of two that are as long, the earlier."""
        self.flush()
        later.flush()
        self.share.merge(later.share)
        longest = later.longest
        if longest and (self.longest is None or longest["words"] > self.longest["words"]):
            self.longest = longest

    def __getstate__(self) -> dict[str, Any]:
        self.flush()
        return {**self.__dict__, "_known": None}


def leakage_part(made: Leakage, people: Leakage | None, training: Record | None) -> Record:
    """`trust.leakage`: {kind: "leakage", words: 8, training: {name, conversations,
    passages}, share: `share.beside` (% of passages), made: side, people: side|null}; side:
    {passages, copied, dialogues: with a passage, dialogues_with_a_copy, longest: {words,
    text (lower-case words, the first 200), row, id, message}|null}."""
    sides = [_side(made), _side(people) if people else None]
    return {
        "kind": "leakage",
        "words": WORDS,
        "training": {
            key: (training or {}).get(key) for key in ("name", "conversations", "passages")
        },
        "share": beside(made.share, people.share if people else None),
        "made": sides[0],
        "people": sides[1],
    }


def _side(found: Leakage) -> Record:
    found.flush()
    return {
        "passages": found.share.whole,
        "copied": found.share.part,
        "dialogues": found.share.n,
        "dialogues_with_a_copy": found.share.having,
        "longest": found.longest,
    }
