"""Near-duplicates: conversations whose user says nearly the same, found by MinHash bands.

Compared are the word 3-grams of the user's first words. Two conversations meet when a band of
their signatures is equal (locality-sensitive hashing), and are near-duplicates when the share of
equal columns, an estimate of the Jaccard index with a standard error of 0.04 at 0.8, reaches the
threshold. Of what is linked so the first stays.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from userlm_synth.conversations.arrays import first_linked
from userlm_synth.conversations.openings import Array

AT_ONCE = 100_000  # pairs compared at once, to bound memory


def near_duplicates(bands: Array, signatures: Callable[[Array], Array], threshold: float) -> Array:
    """True for the rows that repeat an earlier one; see `first_alike`."""
    return np.not_equal(first_alike(bands, signatures, threshold), np.arange(len(bands)))


def first_alike(bands: Array, signatures: Callable[[Array], Array], threshold: float) -> Array:
    """For each row the first one that it is linked with, itself where there is none: int64.

    `bands`: (n, BANDS) uint64; `signatures(rows)`: those of ascending rows, (rows, columns) uint32.
    """
    pairs = [_neighbours(bands[:, band]) for band in range(bands.shape[1])]
    pair = np.unique(np.concatenate(pairs))
    one, two = pair // len(bands), pair % len(bands)
    rows, places = np.unique(np.concatenate([one, two]), return_inverse=True)
    found = signatures(rows)
    first, second = places[: len(one)], places[len(one) :]
    alike = np.zeros(len(one), bool)
    for at in range(0, len(one), AT_ONCE):
        some = slice(at, at + AT_ONCE)
        alike[some] = (found[first[some]] == found[second[some]]).mean(1) >= threshold
    return first_linked(len(bands), one[alike], two[alike])


def _neighbours(band: Array) -> Array:
    """Pairs of rows with one value, each with the one before it and with the first, as
    (earlier row) * n + later row."""
    order = np.argsort(band, kind="stable")
    value = band[order]
    starts = np.searchsorted(value, value)
    later = np.flatnonzero(starts < np.arange(len(value)))
    earlier = np.concatenate([order[starts[later]], order[later - 1]])
    pairs: Array = earlier * len(band) + np.concatenate([order[later], order[later]])
    return pairs
