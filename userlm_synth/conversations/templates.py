"""Prompt templates: openings that share word n-grams, and most of their words, with many others.

The paper's authors counted 7-grams in first user turns, read the frequent ones and removed their
copies (App. A). Here the reading is done by rules. An n-gram is frequent when `min_copies`
openings have it. N-grams that follow each other in most of their openings form one group, and
each opening belongs to the group of which it has most. An opening is a copy of the group's
template when half of its words, and enough of them, are words that half of the group has. More of
them are asked for where the group is mixed: a phrase that many people use ("can you give me a list
of") stands in texts of all kinds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from userlm_synth.conversations.arrays import (
    HALF,
    count_pairs,
    distinct,
    first_linked,
    in_order,
    joined,
    lower,
    most_frequent,
    places_in,
    upper,
)
from userlm_synth.conversations.near import first_alike
from userlm_synth.conversations.openings import (
    GRAM,
    Array,
    Openings,
    band_hashes,
    ngrams,
    signatures,
)

TOGETHER = 1 / 3  # of the more frequent n-gram's openings have the other one next to it
SHARED = 0.5  # of a group's openings have a word that is the template's
COPIED = 0.5  # of an opening's distinct words are the template's
COMMON = 7  # number x share of these words, at least: 7 of 7, 10 of 14, 14 of 28
ALIKE = 0.9  # of a group are copies where it is one template; a phrase is used in all kinds of text
MIXED = 11  # COMMON in a group of which less are: a long phrase, or a template with long fillings
STRAY = 0.7  # COPIED of an opening without any frequent n-gram
SAME_WORDS = 0.6  # of two groups' common words (Jaccard): they are one template's
TELLING = 3  # groups, at most, have a word in common that tells which template a copy is of
BUCKETS = 26  # bits of the first, rough count, at most

#: openings, and their rows in the whole
Batch = tuple[Openings, Array]
Batches = Callable[[], Iterable[Batch]]


@dataclass(frozen=True)
class Templates:
    """`of[i]`: the template of row i, or -1. Template 0 has the most copies."""

    of: Array  # int64
    grams: Array  # uint64, sorted: the frequent n-grams
    owner: Array  # int64: the template of each of them, or -1

    @property
    def count(self) -> int:
        """How many templates there are."""
        return int(self.of.max(initial=-1)) + 1


def find_templates(batches: Batches, rows: int, *, ngram: int, min_copies: int) -> Templates:
    """The templates of `rows` openings, which `batches()` gives again and again in one order.

    Memory: 4 * 2**BUCKETS bytes, 8 bytes for each occurrence of a frequent n-gram, and 4 bytes
    for each word of an opening that has one.
    """
    grams = _frequent(batches, rows, ngram, min_copies)
    found, part = _groups(batches, grams, ngram)
    group = np.full(rows, -1, np.int64)
    for numbers, inside, ids in found:
        row, best = most_frequent(inside, part[ids])
        group[numbers[row]] = best
    size = np.bincount(group[group >= 0], minlength=len(grams))
    common = _common_words(batches, group, size)
    of, bar = np.full(rows, -1, np.int64), np.full(len(grams), COMMON)
    for strays in (False, True):
        common = common[size[upper(common)] >= min_copies]
        tried = partial(_copies, common=common, size=size, bar=bar, with_strays=strays)
        work = (
            (openings, inside, part[ids])
            for (openings, _), (_, inside, ids) in zip(batches(), found, strict=True)
        )
        for (numbers, *_), best in zip(found, in_order(tried, work), strict=True):
            of[numbers] = best
        if not strays:
            copies = np.bincount(group[(group >= 0) & (of >= 0)], minlength=len(grams))
            bar = np.where(copies >= ALIKE * size, COMMON, MIXED)
            # fragments of a template have fallen to the largest, or are of one family with it
            size = np.bincount(of[of >= 0], minlength=len(grams))
            common = common[size[upper(common)] >= min_copies]
            family = _families(common, len(grams))
            common = distinct(joined(family[upper(common)], lower(common)))
            part = family[part]
            size = np.bincount(family, size, len(grams)).astype(np.int64)
            bar = np.array(bar)
            np.minimum.at(bar, family, bar.copy())
    return _numbered(of, grams, part, min_copies)


#: rows of a batch; of each frequent n-gram in it the opening, and its place among the frequent ones
Occurrences = tuple[Array, Array, Array]


def _groups(batches: Batches, grams: Array, ngram: int) -> tuple[list[Occurrences], Array]:
    """Where the frequent n-grams are, batch by batch, and the group of each of them."""

    def occurrences(batch: Batch) -> tuple[Occurrences, tuple[Array, Array]]:
        openings, numbers = batch
        hashes, starts = ngrams(openings, ngram)
        places = places_in(grams, hashes)
        where = np.flatnonzero(places >= 0)
        ids, inside = places[where], np.searchsorted(starts, where, "right") - 1
        beside = inside[1:] == inside[:-1]
        links = count_pairs(ids[:-1][beside], ids[1:][beside])
        return (numbers, inside.astype(np.uint32), ids.astype(np.uint32)), links

    made = list(in_order(occurrences, batches()))
    return [found for found, _ in made], _parts(len(grams), [links for _, links in made])


def _common_words(batches: Batches, group: Array, size: Array) -> Array:
    """The words that `SHARED` of a group's rows have: sorted, group and word as one number."""

    def of_members(batch: Batch) -> Array:
        openings, numbers = batch
        of = group[numbers]
        members = np.flatnonzero(of >= 0)
        words, inside = _distinct_words(openings.chosen(members))
        return joined(of[members][inside], words)

    keys = [np.zeros(0, np.uint64), *in_order(of_members, batches())]
    key, times = np.unique(np.concatenate(keys), return_counts=True)
    return key[times >= SHARED * size[upper(key)]]


def _families(common: Array, count: int) -> Array:
    """For each of `count` groups the first with nearly the same common words, or itself.

    A template whose slots are filled from short lists ("... about a dragon who", "... about a cat
    who") has frequent n-grams, and so a group, for each filling.
    """
    groups, first = np.unique(upper(common), return_index=True)
    found = signatures(Openings(lower(common), np.append(first, len(common))), 1)
    family = np.arange(count)
    if len(groups):
        alike = first_alike(band_hashes(found), lambda rows: found[rows], SAME_WORDS)
        family[groups] = groups[alike]
    return family


def _copies(
    work: tuple[Openings, Array, Array],
    *,
    common: Array,
    size: Array,
    bar: Array,
    with_strays: bool,
) -> Array:
    """The largest group of whose common words an opening is mostly made, or -1.

    `work`: openings; some of them; and a group of which each of these has an n-gram. A stray
    without any (a short copy, changed) is tried with the group of whose telling words it has most.
    """
    openings, having, group = work
    stray = np.full(len(openings), with_strays)
    stray[having] = False
    strays = np.flatnonzero(stray)
    others = openings.chosen(strays)
    owner, place = _owners(others.words >> HALF, common)
    row, best = most_frequent(strays[others.inside[place]], owner)
    pair = distinct(joined(np.concatenate([having, row]), np.concatenate([group, best])))
    one, candidate = upper(pair), lower(pair).astype(np.int64)
    # every distinct word of an opening against every group that it may belong to
    tried = distinct(one)
    words, inside = _distinct_words(openings.chosen(tried))
    number = np.bincount(inside, minlength=len(tried))
    first = np.cumsum(number) - number
    at = np.searchsorted(tried, one)
    number, first = number[at], first[at]
    which = np.repeat(np.arange(len(pair)), number)
    word = words[np.arange(len(which)) + np.repeat(first - np.cumsum(number) + number, number)]
    shared = places_in(common, joined(candidate[which], word)) >= 0
    share = np.bincount(which, shared, len(pair))
    least = np.where(stray[one], STRAY, COPIED) * number
    fits = np.flatnonzero((share >= least) & (share * share >= bar[candidate] * number))
    of = np.full(len(openings), -1, np.int64)
    fits = fits[np.lexsort((-candidate[fits], size[candidate[fits]]))]
    of[one[fits]] = candidate[fits]  # of several the last one stays: the largest
    return of


def _owners(words: Array, common: Array) -> tuple[Array, Array]:
    """(a group that has the word in common, place in `words`), for every telling word."""
    order = np.argsort(lower(common), kind="stable")
    word = lower(common)[order]
    start = np.searchsorted(word, words)
    number = np.searchsorted(word, words, "right") - start
    number[number > TELLING] = 0
    at = np.repeat(np.arange(len(words)), number)
    rank = np.arange(len(at)) - np.repeat(np.cumsum(number) - number, number)
    return upper(common)[order[start[at] + rank]], at


def _distinct_words(openings: Openings) -> tuple[Array, Array]:
    """(32 bits of a word's hash, its opening) of the distinct words of each opening, in order."""
    key = distinct(joined(openings.inside, openings.words >> HALF))
    return lower(key), upper(key)


def _frequent(batches: Batches, rows: int, ngram: int, min_copies: int) -> Array:
    """Sorted hashes of the n-grams that at least `min_copies` openings have.

    A rough count by hash bucket goes first, so that the many rare ones are never held at once.
    """
    bits = min(max(16, (64 * rows).bit_length()), BUCKETS)
    shift = np.uint64(GRAM - bits)
    rough = np.zeros(1 << bits, np.uint32)
    for openings, _ in batches():
        np.add.at(rough, ngrams(openings, ngram)[0] >> shift, np.uint32(1))

    def often(batch: Batch) -> Array:
        hashes, starts = ngrams(batch[0], ngram)
        some = np.flatnonzero(rough[hashes >> shift] >= min_copies)
        inside = np.searchsorted(starts, some, "right") - 1
        key = inside.astype(np.uint64) << np.uint64(GRAM) | hashes[some]
        once: Array = distinct(key) & np.uint64(2**GRAM - 1)  # for all that an opening repeats
        return once

    left = list(in_order(often, batches()))
    value = np.concatenate([np.zeros(0, np.uint64), *left])
    left.clear()
    value.sort()
    starts = np.flatnonzero(np.concatenate([[True], value[1:] != value[:-1]])[: len(value)])
    lengths = np.diff(np.concatenate([starts, [len(value)]]))
    return value[starts[lengths >= min_copies]]


def _parts(count: int, links: Sequence[tuple[Array, Array]]) -> Array:
    """For each of `count` n-grams the smallest one that it is linked with, however indirectly."""
    keys = np.concatenate([np.zeros(0, np.uint64), *(key for key, _ in links)])
    times = np.concatenate([np.zeros(0, np.int64), *(number for _, number in links)])
    pair, place = np.unique(keys, return_inverse=True)
    together = np.bincount(place, times, len(pair))
    one, two = upper(pair), lower(pair).astype(np.int64)
    # openings that go on from, or come to, an n-gram
    before = np.bincount(one, together, count)
    after = np.bincount(two, together, count)
    often = np.maximum(before, after)
    strong = together >= TOGETHER * np.maximum(often[one], often[two])
    return first_linked(count, one[strong], two[strong])


def _numbered(of: Array, grams: Array, part: Array, min_copies: int) -> Templates:
    """Templates of at least `min_copies` rows, the largest first (of equals, the earliest)."""
    names, first, number = np.unique(of[of >= 0], return_index=True, return_counts=True)
    enough = number >= min_copies
    names, first, number = names[enough], first[enough], number[enough]
    names = names[np.lexsort((first, -number))]
    renamed = np.full(len(grams) + 1, -1, np.int64)
    renamed[names] = np.arange(len(names))
    return Templates(renamed[of], grams, renamed[:-1][part])


def over_cap(of: Array, cap: int) -> Array:
    """True for the rows beyond the first `cap` of their template."""
    order = np.argsort(of, kind="stable")
    sorted_of = of[order]
    starts = np.searchsorted(sorted_of, sorted_of)
    rank = np.empty(len(of), np.int64)
    rank[order] = np.arange(len(of)) - starts
    return (of >= 0) & (rank >= cap)
