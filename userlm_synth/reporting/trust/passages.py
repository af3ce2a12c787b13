"""Passages of text as hashes: every 8 words in a row, and those of the training conversations.

The training passages are kept in a file, sorted, which worker processes read as shared memory.
Words are without case, punctuation and apostrophes.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from userlm_synth.conversations.openings import Letters, Openings
from userlm_synth.records import Record, user_turns

Hashes = NDArray[np.uint64]

WORDS = 8  # of a passage
BATCH = 100_000  # words that are hashed at once
KEPT = 2_000_000  # new hashes that a tally holds before it joins them with the others
REMEMBERED = 500_000  # words whose hashes a process keeps


# ---- words and their hashes ----------------------------------------------------------------------


_LETTERS = Letters({0x27: None, 0x2019: None})  # apostrophes go


def plain_words(text: str) -> list[str]:
    """Lower-case words, five times as fast as `metrics.words`; ``don't`` and ``don’t`` are
    ``dont``. In scripts without spaces each letter is a word."""
    return text.lower().translate(_LETTERS).split()


class _Hashes(dict[str, int]):
    """64-bit hashes of words, the same in every process."""

    def __missing__(self, word: str) -> int:
        if len(self) > REMEMBERED:
            self.clear()
        digest = hashlib.blake2b(word.encode("utf-8", "replace"), digest_size=8).digest()
        self[word] = value = int.from_bytes(digest, "little")
        return value


_HASHES = _Hashes()


def hash_words(turns: Iterable[Sequence[str]]) -> Openings:
    """The words of some turns as hashes, one after another."""
    found, starts = array("Q"), [0]
    for one in turns:
        found.extend(map(_HASHES.__getitem__, one))
        starts.append(len(found))
    return Openings(np.frombuffer(found, np.uint64), np.array(starts, np.int64))


def passages(turns: Openings) -> tuple[Hashes, NDArray[np.int64]]:
    """64-bit hashes of every `WORDS` words in a row, and the turn that each is of.

    A polynomial in the words' hashes modulo 2**64, mixed once more (`openings.ngrams` keeps fewer
    bits, and takes all numbers for one word).
    """
    counts = np.maximum(np.diff(turns.starts) - WORDS + 1, 0)
    turn = np.repeat(np.arange(len(counts)), counts)
    first = np.cumsum(counts) - counts
    places = np.arange(len(turn)) - first[turn] + turns.starts[:-1][turn]
    value = np.zeros(len(places), np.uint64)
    for offset in range(WORDS):
        value = value * np.uint64(0x9E3779B97F4A7C15) + turns.words[places + offset]
    value ^= value >> np.uint64(29)
    value *= np.uint64(0xBF58476D1CE4E5B9)
    return value ^ (value >> np.uint64(32)), turn


# ---- what training holds -------------------------------------------------------------------------


class TrainingPassages:
    """A tally of the training conversations: their different passages, to be saved for `Leakage`.

    About 8 bytes a word of the users' turns.
    """

    def __init__(self) -> None:
        self.conversations = 0
        self._turns: list[list[str]] = []
        self._waiting = 0
        self._fresh: list[Hashes] = []
        self._known: Hashes = np.zeros(0, np.uint64)

    def add(self, place: int, record: Record) -> None:
        """The user turns of a conversation."""
        self.conversations += 1
        for turn in user_turns(record["messages"]):
            words = plain_words(turn)
            if len(words) >= WORDS:
                self._turns.append(words)
                self._waiting += len(words)
        if self._waiting >= BATCH:
            self._hash()

    def merge(self, later: TrainingPassages) -> None:
        """Those of both."""
        self.conversations += later.conversations
        self._fresh.append(later.hashes())
        self._join()

    def hashes(self) -> Hashes:
        """The different passages' hashes, ascending."""
        self._hash()
        self._join(0)
        return self._known

    def _hash(self) -> None:
        if self._turns:
            self._fresh.append(np.unique(passages(hash_words(self._turns))[0]))
            self._turns, self._waiting = [], 0
            self._join()

    def _join(self, kept: int | None = None) -> None:
        """Fresh hashes go to the known ones once there are many: a share of those known, so that
        the known ones are not sorted too often."""
        most = max(KEPT, len(self._known) // 2) if kept is None else kept
        if sum(map(len, self._fresh)) > most:
            self._known = np.unique(np.concatenate([self._known, *self._fresh]))
            self._fresh = []

    def result(self) -> Record:
        """{conversations, passages}: how many there are, and how many different passages."""
        return {"conversations": self.conversations, "passages": len(self.hashes())}

    def save(self, path: Path) -> Record:
        """Write the hashes as a NumPy file for `Leakage`; gives `result`."""
        with path.open("wb") as file:
            np.save(file, self.hashes())
        return self.result()


def save_training(records: Iterable[Record], path: Path) -> Record:
    """The passages of training conversations in a file, in this process; gives their counts."""
    tally = TrainingPassages()
    for place, record in enumerate(records):
        tally.add(place, record)
    return tally.save(path)


def open_training(path: Path) -> Hashes:
    """The saved hashes, in memory that processes share; an empty file cannot be mapped."""
    empty = path.stat().st_size <= 128
    found: Hashes = np.load(path, mmap_mode=None if empty else "r", allow_pickle=False)
    return found


def occur(queries: Hashes, known: Hashes) -> NDArray[np.bool_]:
    """Which of the queries are among the known ones; in the order of size, so that neighbours in
    the file are read together."""
    if not len(known) or not len(queries):
        return np.zeros(len(queries), dtype=bool)
    order = np.argsort(queries)
    place = np.minimum(np.searchsorted(known, queries[order]), len(known) - 1)
    there = np.empty(len(queries), dtype=bool)
    there[order] = known[place] == queries[order]
    return there
