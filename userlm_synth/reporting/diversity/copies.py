"""Copies over all dialogues: those that repeat others, and openings that recur. A tally.

For each dialogue 230 bytes of hashes are kept and the beginning of its text, packed, so that a
million of them fit in half a GiB; texts are unpacked only for what is shown.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from userlm_synth.conversations.openings import WORDS, user_words
from userlm_synth.metrics import words
from userlm_synth.records import Record, user_turns
from userlm_synth.reporting.diversity.alike import (
    THRESHOLD,
    Alike,
    Prints,
    alike,
    recurring,
    text_hash,
)

LOT = 1000  # dialogues hashed and packed together
SHOWN = 500  # characters of a dialogue's user turns that are kept to be shown
OPENING = 4  # words
LOOKED_AT = 200  # characters in which an opening's words are looked for
PAIRS, GROUPS, OPENINGS, IDS = 10, 5, 20, 5  # shown at most; ids of each group

COMPARED = (
    f"the first {WORDS} words of the user's turns, their word 3-grams, by MinHash; "
    "two texts of fewer than 3 words are alike only when identical"
)


def opening_of(text: str) -> str:
    """The first 4 words of a text, or all where there are fewer; '' without a word."""
    return " ".join(words(text[:LOOKED_AT])[:OPENING])


@dataclass(frozen=True, eq=False)
class _Lot:
    """Some dialogues, in order."""

    places: NDArray[np.int64]
    prints: Prints
    openings: NDArray[np.uint64]  # a hash of each opening; 0: none
    texts: bytes  # packed JSON: [[id, beginning of the user's turns, opening], ...]


class Copies:
    """The tally: `add` each dialogue, `merge` later ones, `result` in the end."""

    def __init__(self) -> None:
        self._lots: list[_Lot] = []
        self._waiting: list[tuple[int, int, list[str], int, list[str]]] = []

    def add(self, place: int, record: Record) -> None:
        """Take in the dialogue of row `place`."""
        turns = user_turns(record["messages"])
        if not turns:
            return
        exact = text_hash("\0".join(turns))
        opening = opening_of(turns[0])
        shown = "\n".join(turns)[:SHOWN]
        kept = [str(record.get("id", f"row {place}")), shown, opening]
        number = text_hash(opening) if opening else 0
        self._waiting.append((place, exact, user_words(record, 1)[0], number, kept))
        if len(self._waiting) >= LOT:
            self._pack()

    def _pack(self) -> None:
        if not self._waiting:
            return
        places, exact, openings, numbers, kept = zip(*self._waiting, strict=True)
        self._waiting = []
        lot = _Lot(
            np.array(places, np.int64),
            Prints.of(exact, openings),
            np.array(numbers, np.uint64),
            zlib.compress(json.dumps(kept).encode(), 1),
        )
        self._lots.append(lot)

    def __getstate__(self) -> dict[str, Any]:
        self._pack()
        return self.__dict__.copy()

    def merge(self, later: Copies) -> None:
        """Add those of later rows."""
        self._pack()
        later._pack()
        self._lots += later._lots

    def result(self) -> Record:
        """`{"openings": [...], "near_duplicates": {...}}`; see `openings` and `near_duplicates`."""
        self._pack()
        return {"openings": self.openings(), "near_duplicates": self.near_duplicates()}

    def _count(self) -> int:
        return sum(len(lot.places) for lot in self._lots)

    def _texts(self, rows: Sequence[int]) -> dict[int, list[str]]:
        """[id, text, opening] of some rows; each lot is unpacked once."""
        ends = np.cumsum([len(lot.places) for lot in self._lots])
        found: dict[int, list[str]] = {}
        unpacked, current = [], -1
        for row in sorted(set(rows)):
            at = int(np.searchsorted(ends, row, side="right"))
            if at != current:
                unpacked, current = json.loads(zlib.decompress(self._lots[at].texts)), at
            found[row] = unpacked[row - int(ends[at]) + len(unpacked)]
        return found

    def _places(self, row: int) -> int:
        for lot in self._lots:
            if row < len(lot.places):
                return int(lot.places[row])
            row -= len(lot.places)
        raise IndexError(row)

    def openings(self) -> list[Record]:
        """The most frequent openings that two dialogues or more have, most frequent first, at most
        20: `{"words": "how do i fix", "count": int, "share": % of all dialogues}`.

        An opening is the first 4 words of the first user turn, or all where there are fewer.
        """
        self._pack()
        numbers = np.concatenate([np.zeros(0, np.uint64), *(lot.openings for lot in self._lots)])
        _, first, counts = np.unique(numbers, return_index=True, return_counts=True)
        known = (numbers[first] != 0) & (counts > 1)
        first, counts = first[known], counts[known]
        order = np.lexsort((first, -counts))[:OPENINGS]
        texts = self._texts(first[order].tolist())
        return [
            {
                "words": texts[int(first[at])][2],
                "count": int(counts[at]),
                "share": 100 * int(counts[at]) / len(numbers),
            }
            for at in order
        ]

    def near_duplicates(self) -> Record:
        """What repeats what over all dialogues::

            {"n": dialogues, "compared": how, "threshold": 0.8,
             "share": % with another that is identical or near,
             "surplus": % that could go so that one of each group is left,
             "identical": {"share": %, "groups": int,
                           "largest": [{"count", "ids" [<= 5], "text"}] (<= 5)},
             "near": {"share": % in a group of different texts, "groups": int,
                      "largest": [{"count", "different", "ids" [<= 5], "text"}] (<= 5)},
             "pairs": [{"ids" [2], "places" [2], "texts" [2], "similarity" 0.5 to 1}] (<= 10)}

        "pairs" are the nearest that are not identical, a dialogue in one pair only; texts are the
        first 500 characters of the user's turns, and places row numbers in the whole set.
        """
        self._pack()
        count = self._count()
        found = alike(Prints.joined([lot.prints for lot in self._lots]))
        identical, different = self._groups(found)
        groups = len(np.unique(found.group))
        return {
            "n": count,
            "compared": COMPARED,
            "threshold": THRESHOLD,
            "share": _percent(int(recurring(found.group).sum()), count),
            "surplus": _percent(count - groups, count),
            "identical": identical,
            "near": different,
            "pairs": self._pairs(found),
        }

    def _groups(self, found: Alike) -> tuple[Record, Record]:
        """Groups of identical texts, and groups that hold different ones."""
        n = len(found.same)
        texts = np.bincount(found.same, minlength=n)
        members = np.bincount(found.group, minlength=n)
        different = np.bincount(found.group[np.flatnonzero(texts)], minlength=n)
        parts = []
        for labels, sizes in (
            (found.same, texts * (texts > 1)),
            (found.group, members * (different > 1)),
        ):
            largest = np.lexsort((np.arange(n), -sizes))[:GROUPS]
            rows = {
                int(head): np.flatnonzero(labels == head)[:IDS].tolist()
                for head in largest
                if sizes[head] > 0
            }
            kept = self._texts([row for some in rows.values() for row in some])
            shown = [
                {
                    "count": int(sizes[head]),
                    "different": int(different[head]) if labels is found.group else 1,
                    "ids": [kept[row][0] for row in some],
                    "text": kept[some[0]][1],
                }
                for head, some in rows.items()
            ]
            part = {
                "share": _percent(int(sizes.sum()), n),
                "groups": int((sizes > 0).sum()),
                "largest": shown,
            }
            parts.append(part)
        return parts[0], parts[1]

    def _pairs(self, found: Alike) -> list[Record]:
        used: set[int] = set()
        chosen: list[tuple[int, int, float]] = []
        for one, two, near in found.pairs:
            if used.isdisjoint({one, two}) and len(chosen) < PAIRS:
                used |= {one, two}
                chosen.append((min(one, two), max(one, two), near))
        kept = self._texts(list(used))
        return [
            {
                "ids": [kept[one][0], kept[two][0]],
                "places": [self._places(one), self._places(two)],
                "texts": [kept[one][1], kept[two][1]],
                "similarity": near,
            }
            for one, two, near in chosen
        ]


def _percent(part: int, whole: int) -> float:
    return 100 * part / whole if whole else 0.0
