"""Which conversations stay: ids, exact copies, copies of prompt templates, near-duplicates.

Works on the arrays of the shards; texts are not read. Rows are conversations in the order of the
source, and of several alike the first stays.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from userlm_synth.conversations.near import near_duplicates
from userlm_synth.conversations.openings import Array, Openings, band_hashes
from userlm_synth.conversations.shards import Places, Shard
from userlm_synth.conversations.templates import Templates, find_templates, over_cap
from userlm_synth.recipe import Dedup

NEAR_WORDS = 12  # of the user; fewer recur among people by chance

KEPT = 0
SAME, TAKEN, EXACT, TEMPLATE, NEAR = 1, 2, 3, 4, 5
REASONS = {
    SAME: "the same id and turns again",
    TAKEN: "the same id with other turns",
    EXACT: "the same user turns as another",
    TEMPLATE: "copies of a prompt template",
    NEAR: "nearly the same user turns as another",
}


@dataclass
class Choice:
    """`why[i]`: KEPT, or the reason that row i goes; `first[i]`: the row whose id it repeats."""

    why: Array  # uint8
    first: Array  # int64
    templates: Templates | None = None


def check_ids(shards: Sequence[Shard]) -> Choice:
    """Rows whose id is there already: with the same turns, or with others (a fault)."""
    (ids,) = columns(shards, "id")
    first = _first_of(ids)
    why = np.zeros(len(ids), np.uint8)
    places = Places(shards)
    for row in np.flatnonzero(first != np.arange(len(ids))).tolist():
        turns, others = (places.record(at)["messages"] for at in (row, int(first[row])))
        why[row] = SAME if turns == others else TAKEN
    return Choice(why, first)


def drop_copies(shards: Sequence[Shard], choice: Choice, settings: Dedup) -> None:
    """Exact copies, then copies of templates beyond the cap, then near-duplicates."""
    why = choice.why
    if settings.exact:
        left = np.flatnonzero(why == KEPT)
        exact = columns(shards, "exact")[0][left]
        why[left[_first_of(exact) != np.arange(len(left))]] = EXACT
    found = find_templates(
        lambda: _openings(shards, why == KEPT), len(why),
        ngram=settings.ngram, min_copies=settings.min_copies,
    )  # fmt: skip
    why[(why == KEPT) & over_cap(found.of, settings.cap)] = TEMPLATE
    choice.templates = found
    if settings.near < 1:
        near = _near(shards, why == KEPT, settings.near)
        why[near] = NEAR


def columns(shards: Sequence[Shard], *names: str) -> list[Array]:
    """Arrays over all shards."""
    parts = [shard.load(*names) for shard in shards]
    return [np.concatenate(part) for part in zip(*parts, strict=True)]


def _first_of(values: Array) -> Array:
    """For each row the first row with its value."""
    _, first, which = np.unique(values, return_index=True, return_inverse=True)
    return first[which].astype(np.int64)


def _openings(shards: Sequence[Shard], chosen: Array) -> Iterator[tuple[Openings, Array]]:
    """The openings of the chosen rows, and these rows, shard by shard."""
    start = 0
    for shard in shards:
        words, starts, length = shard.load("words", "starts", "opening")
        rows = np.flatnonzero(chosen[start : start + len(length)])
        yield Openings(words, starts).chosen(rows, length[rows]), rows + start
        start += len(length)


def _near(shards: Sequence[Shard], chosen: Array, threshold: float) -> Array:
    """Rows among the chosen that repeat an earlier one."""
    rows, bands, start = [], [], 0
    for shard in shards:
        starts, signatures = shard.load("starts", "signatures")
        own = chosen[start : start + len(signatures)] & (np.diff(starts) >= NEAR_WORDS)
        rows.append(np.flatnonzero(own) + start)
        bands.append(band_hashes(signatures[own]))
        start += len(signatures)
    number = np.concatenate(rows)

    def fetch(wanted: Array) -> Array:
        """Signatures of ascending places in `number`."""
        found, start = [], 0
        for shard in shards:
            signatures = shard.load("signatures")[0]
            some = number[wanted]
            low, high = np.searchsorted(some, [start, start + len(signatures)])
            found.append(signatures[some[low:high] - start])
            start += len(signatures)
        return np.concatenate(found)

    return number[near_duplicates(np.concatenate(bands), fetch, threshold)]
