"""Facts about near-duplicates: what is alike beyond the threshold goes, the first stays."""

from __future__ import annotations

import random
from itertools import pairwise

import numpy as np
import pytest

from userlm_synth.conversations import near
from userlm_synth.conversations.near import near_duplicates
from userlm_synth.conversations.openings import SHINGLE, band_hashes, hash_openings, signatures

Words = list[str]
VOCABULARY = [f"w{number}" for number in range(5000)]


def duplicates(openings: list[Words], threshold: float = 0.8) -> list[int]:
    """The rows that repeat an earlier one."""
    found = signatures(hash_openings(openings))
    repeats = near_duplicates(band_hashes(found), lambda rows: found[rows], threshold)
    return np.flatnonzero(repeats).tolist()


def made_up(rng: random.Random, number: int = 60) -> Words:
    return rng.choices(VOCABULARY, k=number)


def changed(rng: random.Random, words: Words, number: int) -> Words:
    """So many words are others."""
    found = list(words)
    for at in rng.sample(range(len(words)), number):
        found[at] = rng.choice(VOCABULARY)
    return found


def jaccard(one: Words, two: Words) -> float:
    """Of the sets of three words in a row."""
    a, b = (
        {tuple(words[at : at + SHINGLE]) for at in range(len(words) - SHINGLE + 1)}
        for words in (one, two)
    )
    return len(a & b) / len(a | b)


def planted(rng: random.Random, low: float, high: float, count: int) -> list[tuple[Words, Words]]:
    """Pairs with a Jaccard index between the two."""
    pairs = []
    while len(pairs) < count:
        one = made_up(rng, rng.randint(40, 150))
        two = changed(rng, one, rng.randint(0, len(one) // 6))
        if low <= jaccard(one, two) <= high:
            pairs.append((one, two))
    return pairs


@pytest.mark.parametrize(
    ("threshold", "low", "high"), [(0.8, 0.68, 0.93), (0.9, 0.8, 0.98), (0.7, 0.55, 0.84)]
)
def test_pairs_above_the_threshold_go_and_pairs_below_it_stay(
    threshold: float, low: float, high: float
) -> None:
    """`low` and `high` are three to four standard errors of the estimate away from it."""
    rng = random.Random(1)
    alike, unlike = planted(rng, high, 1, 150), planted(rng, 0.3, low, 150)
    openings = [words for pair in alike + unlike for words in pair]
    assert duplicates(openings, threshold) == [2 * at + 1 for at in range(150)]


def test_the_first_of_many_alike_stays_wherever_the_others_are() -> None:
    rng = random.Random(2)
    text = made_up(rng, 100)
    openings = [made_up(rng) for _ in range(300)]
    places = sorted(rng.sample(range(300), 40))
    for at in places:
        openings[at] = changed(rng, text, rng.choice([0, 0, 1, 2]))
    assert duplicates(openings) == places[1:]


def test_what_is_linked_through_others_goes_with_them() -> None:
    """Each is nearly the one before it, as drafts of a prompt are; the first stands for all."""
    rng = random.Random(3)
    drafts = [made_up(rng, 120)]
    for at in range(12):
        drafts.append([*drafts[-1][: 5 * at], *made_up(rng, 5), *drafts[-1][5 * at + 5 :]])
    assert min(jaccard(*pair) for pair in pairwise(drafts)) > 0.85
    assert jaccard(drafts[0], drafts[-1]) < 0.5
    assert duplicates(drafts) == list(range(1, 13))


def test_a_pair_is_found_among_many_that_are_somewhat_like_it() -> None:
    """Twelve variants of each of 100 texts, alike by half, and of one of them a near copy."""
    rng = random.Random(4)
    openings, pairs = [], []
    for _ in range(100):
        text = made_up(rng)
        group = [changed(rng, text, rng.randint(5, 7)) for _ in range(12)]
        one = rng.choice(group)
        two = [*one[:-2], "other", "words"]
        rng.shuffle(group)
        pairs.append((len(openings) + group.index(one), len(openings) + 12))
        openings += [*group, two]
    gone = set(duplicates(openings))
    assert sum(later in gone for _, later in pairs) == 100


def test_a_row_is_compared_with_the_first_of_its_band_as_well_as_with_the_one_before() -> None:
    bands = np.array([[1, 10], [1, 20], [1, 30], [1, 40]], np.uint64)
    found = np.array([[5] * 10, [6] * 10, [5] * 10, [5] * 10], np.uint32)
    assert near_duplicates(bands, lambda rows: found[rows], 0.8).tolist() == [0, 0, 1, 1]


def test_a_threshold_of_one_takes_the_same_shingles_alone() -> None:
    rng = random.Random(5)
    text = made_up(rng, 100)
    assert duplicates([text, changed(rng, text, 1), text, made_up(rng)], 1.0) == [2]


@pytest.mark.parametrize("openings", [[], [["a"]], [["a", "b", "c"]], [["a", "b", "c"]] * 3])
def test_a_few_rows_are_no_special_case(openings: list[Words]) -> None:
    assert duplicates(openings) == list(range(1, len(openings)))


def test_pairs_are_compared_in_as_many_goes_as_memory_allows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = random.Random(6)
    openings = [words for pair in planted(rng, 0.6, 1, 60) for words in pair]
    at_once = duplicates(openings)
    assert at_once
    monkeypatch.setattr(near, "AT_ONCE", 7)
    assert duplicates(openings) == at_once
