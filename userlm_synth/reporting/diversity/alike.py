"""Which texts are alike, among up to a million: identical ones, and near-duplicates by MinHash.

A text is here what the user says in a conversation. Of its first words the 3-grams are compared
(`userlm_synth.conversations.openings`); every number is one word there. Of each of the signature's
columns only 8 bits are kept (b-bit minwise hashing, Li & Konig 2010), so that a million texts
need 210 MB; that 1 in 256 columns is equal by luck is put right in the similarity.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from userlm_synth.conversations.openings import (
    BANDS,
    ROWS,
    SHINGLE,
    band_hashes,
    hash_openings,
    signatures,
)

THRESHOLD = 0.8  # estimated Jaccard index from which two texts are near-duplicates
WORTH_A_LOOK = 0.5  # from which a pair may be shown
KEPT = 1000  # nearest pairs kept while looking
AT_ONCE = 100_000  # pairs compared at once, to bound memory
LUCK = 1 / 256  # of two unequal columns being equal in their 8 bits

Rows = NDArray[np.int64]
Pairs = list[tuple[int, int, float]]


@dataclass(frozen=True, eq=False)
class Prints:
    """What is kept of n texts to tell which are alike."""

    exact: NDArray[np.uint64]  # a hash of the whole text
    bands: NDArray[np.uint32]  # (n, BANDS)
    columns: NDArray[np.uint8]  # (n, BANDS * ROWS)
    long_enough: NDArray[np.bool_]  # has a 3-gram

    @classmethod
    def of(cls, exact: Iterable[int], openings: Sequence[Sequence[str]]) -> Prints:
        """Of the hashes of the whole texts, and their first words."""
        found = signatures(hash_openings(openings))
        return cls(
            np.fromiter(exact, np.uint64, len(openings)),
            (band_hashes(found) >> np.uint64(32)).astype(np.uint32),
            (found >> np.uint32(24)).astype(np.uint8),
            np.array([len(one) >= SHINGLE for one in openings], np.bool_),
        )

    @classmethod
    def joined(cls, parts: Sequence[Prints]) -> Prints:
        """Those of several lots, in their order."""
        if not parts:
            return cls.of([], [])
        exact, bands, columns, long_enough = (
            np.concatenate([getattr(part, name) for part in parts])
            for name in ("exact", "bands", "columns", "long_enough")
        )
        return cls(exact, bands, columns, long_enough)


def text_hash(text: str) -> int:
    """64 bits of a text, the same in every process."""
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little")


@dataclass(frozen=True, eq=False)
class Alike:
    """The groups of n texts: in one group is what is identical or linked by near-duplicates."""

    same: Rows  # for each text the first one that is identical
    group: Rows  # for each text the first one of its group
    pairs: Pairs  # the nearest that are not identical, nearest first: (row, row, similarity)


def alike(prints: Prints) -> Alike:
    """Identical texts first; then near-duplicates among one of each."""
    _, first, inverse = np.unique(prints.exact, return_index=True, return_inverse=True)
    same = first[inverse.reshape(-1)].astype(np.int64)
    rows = np.sort(first[prints.long_enough[first]]).astype(np.int64)
    root = np.arange(len(same))
    nearest = (np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))
    for band in range(BANDS):
        one, two = _meeting(prints.bands[rows, band])
        one, two = rows[one], rows[two]
        new = root[one] != root[two]
        one, two = one[new], two[new]
        near = _similarity(prints.columns, one, two)
        nearest = _best(nearest, one, two, near)
        linked = near >= THRESHOLD
        root = _linked(root, one[linked], two[linked])
    pairs = zip(*(part.tolist() for part in nearest), strict=True)
    return Alike(same, root[same], list(pairs))


def _meeting(band: NDArray[np.uint32]) -> tuple[Rows, Rows]:
    """Pairs of places with one value: each with the one before it and with the first."""
    order = np.argsort(band, kind="stable")
    value = band[order]
    starts = np.searchsorted(value, value)
    later = np.flatnonzero(starts < np.arange(len(value)))
    before = order[later - 1]
    first = order[starts[later]]
    further = first != before
    return (
        np.concatenate([before, first[further]]),
        np.concatenate([order[later], order[later[further]]]),
    )


def _similarity(columns: NDArray[np.uint8], one: Rows, two: Rows) -> NDArray[np.float64]:
    """The estimated Jaccard index of each pair of rows; its standard error is 0.04 at 0.8."""
    share = np.empty(len(one))
    for at in range(0, len(one), AT_ONCE):
        some = slice(at, at + AT_ONCE)
        share[some] = (columns[one[some]] == columns[two[some]]).sum(1) / (BANDS * ROWS)
    return np.maximum(0.0, (share - LUCK) / (1 - LUCK))


def _best(
    kept: tuple[Rows, Rows, NDArray[np.float64]], one: Rows, two: Rows, near: NDArray[Any]
) -> tuple[Rows, Rows, NDArray[np.float64]]:
    """The `KEPT` nearest of those kept and the new ones; of equals those of the earliest rows."""
    worth = near >= WORTH_A_LOOK
    found = [
        np.concatenate([old, new[worth]]) for old, new in zip(kept, (one, two, near), strict=True)
    ]
    order = np.lexsort((found[1], found[0], -found[2]))
    one, two, near = (part[order] for part in found)
    fresh = np.append(True, (one[1:] != one[:-1]) | (two[1:] != two[:-1]))[: len(one)]
    one, two, near = (part[fresh][:KEPT] for part in (one, two, near))
    return one, two, near


def _linked(root: Rows, one: Rows, two: Rows) -> Rows:
    """The first row of every group after linking pairs: labels fall until nothing changes."""
    while True:
        left, right = root[one], root[two]
        apart = left != right
        if not apart.any():
            return root
        root = root.copy()
        high, low = np.maximum(left, right)[apart], np.minimum(left, right)[apart]
        np.minimum.at(root, high, low)
        while (root[root] != root).any():
            root = root[root]


def recurring(labels: Rows) -> NDArray[np.bool_]:
    """Which rows have a label that another row has too."""
    _, inverse, counts = np.unique(labels, return_inverse=True, return_counts=True)
    found: NDArray[np.bool_] = counts[inverse.reshape(-1)] > 1
    return found
