"""What tells copies apart: the first words of the user's turns, as hashes.

The opening is the user's first turn; where that is shorter than `ngram` words ("hi"), the user's
next turns follow until there are as many. Templates are told by openings, near-duplicates by all
that the user says; of either the first 200 words count. Everything is vectorised over a batch of
conversations, and is the same in every process and on every machine.
"""

from __future__ import annotations

import hashlib
import unicodedata
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from userlm_synth.records import Record

Array = np.ndarray[Any, Any]

WORDS = 200  # of an opening; templates are told by their beginning
CHARACTERS = 8 * WORDS  # read of it, at most
SHINGLE = 3  # words in a row, for MinHash
GRAM = 44  # bits of an n-gram's hash
BANDS, ROWS = 20, 6  # of a signature: two openings of Jaccard 0.8 meet with probability 0.998
REMEMBERED = 500_000  # words whose hashes a process keeps

# scripts without spaces: Thai, Lao, Burmese, Khmer, kana, Chinese; a letter is a word there
_UNSPACED = ((0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x3040, 0x30FF),
             (0x3400, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x3FFFF))  # fmt: skip


class Letters(dict[int, "int | str | None"]):
    """For `str.translate`: letters, marks and digits stay, all else parts words."""

    def __missing__(self, code: int) -> int | str | None:
        kind = unicodedata.category(chr(code))[0]
        value: int | str | None = code if kind in "LMN" else " "
        if kind in "LM" and any(low <= code <= high for low, high in _UNSPACED):
            value = f" {chr(code)} "
        self[code] = value
        return value


_LETTERS = Letters()


def words_of(text: str) -> list[str]:
    """Lower-case words without punctuation; a letter each in scripts that have no spaces."""
    return text[:CHARACTERS].lower().translate(_LETTERS).split()


def user_words(record: Record, ngram: int) -> tuple[list[str], int]:
    """The first `WORDS` words of the user's turns, and how many of them are the opening."""
    words: list[str] = []
    length = 0
    for message in record["messages"]:
        if message["role"] == "user":
            words += words_of(message["content"])
            if length < ngram:
                length = len(words)
            if len(words) >= WORDS:
                break
    return words[:WORDS], min(length, WORDS)


def opening(record: Record, ngram: int) -> list[str]:
    """The words of a conversation's opening, at most `WORDS`."""
    words, length = user_words(record, ngram)
    return words[:length]


class _Hashes(dict[str, int]):
    """64-bit hashes of words; every number is one word, so that they do not tell copies apart."""

    def __missing__(self, word: str) -> int:
        if len(self) > REMEMBERED:
            self.clear()
        text = "0" if word.isdigit() else word
        digest = hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).digest()
        self[word] = value = int.from_bytes(digest, "little")
        return value


_HASHES = _Hashes()


@dataclass(frozen=True)
class Openings:
    """A batch of n openings: `words[starts[i]:starts[i + 1]]` are the word hashes of the i-th."""

    words: Array  # uint64
    starts: Array  # int64, n + 1

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def inside(self) -> Array:
        """The opening that each word is in."""
        return np.repeat(np.arange(len(self)), np.diff(self.starts))

    def chosen(self, rows: Array, lengths: Array | None = None) -> Openings:
        """Some of them, in the order of `rows`; of each, with `lengths`, so many words."""
        if lengths is None:
            lengths = np.diff(self.starts)[rows]
        ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        places = np.arange(ends[-1]) + np.repeat(self.starts[rows] - ends[:-1], lengths)
        return Openings(self.words[places], ends)


def hash_openings(openings: Iterable[Sequence[str]]) -> Openings:
    """The words of each opening as hashes."""
    words, starts = array("Q"), [0]
    for one in openings:
        words.extend(map(_HASHES.__getitem__, one))
        starts.append(len(words))
    return Openings(np.frombuffer(words, np.uint64), np.array(starts, np.int64))


def ngrams(openings: Openings, n: int) -> tuple[Array, Array]:
    """Hashes (uint64) of every n words in a row, and their starts (int64, one more than openings).

    A polynomial in the words' hashes modulo 2**64, h = sum w[k] * p**(n - 1 - k), mixed once more.
    The upper `GRAM` bits are given, so that an opening's number fits beside them.
    """
    lengths = np.maximum(np.diff(openings.starts) - n + 1, 0)
    starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    # position of every n-gram in `words`: its place among the n-grams, moved to its opening
    places = np.arange(starts[-1]) + np.repeat(openings.starts[:-1] - starts[:-1], lengths)
    prime = np.uint64(0x9E3779B97F4A7C15)
    value = np.zeros(len(places), np.uint64)
    for offset in range(n):
        value = value * prime + openings.words[places + offset]
    value ^= value >> np.uint64(29)
    value *= np.uint64(0xBF58476D1CE4E5B9)
    return value >> np.uint64(64 - GRAM), starts


def _functions() -> tuple[Array, Array]:
    """The odd factors and the summands of `BANDS * ROWS` hash functions on 32 bits."""
    drawn = hashlib.shake_128(b"userlm-synth minhash").digest(8 * BANDS * ROWS)
    factors, summands = np.frombuffer(drawn, "<u4").reshape(2, BANDS * ROWS)
    return factors | np.uint32(1), summands


def signatures(openings: Openings, shingle: int = SHINGLE) -> Array:
    """MinHash signatures (Broder 1997) of the openings' word n-grams: uint32, (n, BANDS * ROWS).

    The share of equal columns of two rows estimates the Jaccard index of their shingles. A row of
    zeros has no shingle at all.
    """
    shingles, starts = ngrams(openings, shingle)
    found = np.zeros((BANDS * ROWS, len(openings)), np.uint32)
    filled = np.flatnonzero(np.diff(starts))
    if len(filled):
        values = (shingles >> np.uint64(GRAM - 32)).astype(np.uint32)
        at = starts[filled]
        for row, factor, summand in zip(found, *_functions(), strict=True):
            row[filled] = np.minimum.reduceat(values * factor + summand, at)
    return np.ascontiguousarray(found.T)


def band_hashes(found: Array) -> Array:
    """One hash (uint64) a band of each signature: (n, BANDS)."""
    rows = found.reshape(len(found), BANDS, ROWS).astype(np.uint64)
    value = np.zeros((len(found), BANDS), np.uint64)
    for row in range(ROWS):
        value = (value ^ rows[:, :, row]) * np.uint64(0x100000001B3F)
        value ^= value >> np.uint64(31)
    return value
