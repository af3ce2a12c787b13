"""Facts about prompt templates: their copies go, what people wrote themselves stays."""

from __future__ import annotations

import gzip
import json
import os
import random
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from userlm_synth.conversations.near import near_duplicates
from userlm_synth.conversations.openings import (
    Array,
    band_hashes,
    hash_openings,
    opening,
    signatures,
)
from userlm_synth.conversations.templates import Batch, Templates, find_templates, over_cap

sys.path.append(str(Path(__file__).resolve().parent.parent / "benchmarks"))

import wildchat_shaped

Words = list[str]
Planted = list[tuple[str, int]]  # a text and the number of its template, or -1


def first_words(texts: Sequence[str], ngram: int = 7) -> list[Words]:
    return [opening({"messages": [{"role": "user", "content": one}]}, ngram) for one in texts]


def batches(openings: Sequence[Words], cuts: Sequence[int] = ()) -> list[Batch]:
    """Openings in batches that end at `cuts` (or each 1,000)."""
    edges = [0, *(cuts or range(1000, len(openings), 1000)), len(openings)]
    return [(hash_openings(openings[a:b]), np.arange(a, b)) for a, b in pairwise(edges)]


def found_in(
    texts: Sequence[str], min_copies: int = 20, ngram: int = 7, cuts: Sequence[int] = ()
) -> Templates:
    held = batches(first_words(texts, ngram), cuts)
    return find_templates(lambda: held, len(texts), ngram=ngram, min_copies=min_copies)


def shares(planted: Planted, gone: Array) -> tuple[float, float]:
    """Of the template copies beyond one a template those that went; of the genuine ones too."""
    truth = np.array([template for _, template in planted])
    kept = Counter(truth[~gone].tolist())
    genuine, kept_genuine = int((truth < 0).sum()), kept.pop(-1, 0)
    beyond = int((truth >= 0).sum()) - int(truth.max(initial=-1)) - 1
    over = sum(number - 1 for number in kept.values())
    return 1 - over / beyond, 1 - kept_genuine / genuine


# ---- toys ------------------------------------------------------------------------------------

SYLLABLES = [a + b for a in "bdgklmnprstvz" for b in ("a", "e", "i", "o", "u", "ar", "en")]
VOCABULARY = [a + b for a in SYLLABLES for b in SYLLABLES]


def made_up(rng: random.Random, number: int) -> Words:
    return rng.choices(VOCABULARY, k=number)


def copies(rng: random.Random, number: int, words: int = 30) -> list[str]:
    """Copies of one template: a slot in the middle, a word in sixty changed, some in capitals."""
    skeleton = made_up(rng, words)
    found = []
    for _ in range(number):
        one = [rng.choice(VOCABULARY) if rng.random() < 1 / 60 else word for word in skeleton]
        one[words // 2 : words // 2] = made_up(rng, rng.randint(1, 4))
        text = " ".join(one)
        found.append(text.upper() if rng.random() < 0.1 else text)
    return found


def genuine(rng: random.Random, number: int) -> list[str]:
    return [" ".join(made_up(rng, rng.randint(3, 60))) for _ in range(number)]


# ---- planted corpora -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "count", [6000, pytest.param(30_000, marks=[pytest.mark.slow, pytest.mark.timeout(900)])]
)
def test_of_a_planted_corpus_the_copies_go_and_the_genuine_stay(count: int) -> None:
    """Templates of 50 to 8 % copies with slots, changed words and case; 60 % genuine."""
    planted = list(wildchat_shaped.prompts(count, seed=4))
    sizes = Counter(template for _, template in planted)
    assert 0.6 * count <= sizes.pop(-1) < 0.6 * count + 50
    assert min(sizes.values()) < 60
    assert max(sizes.values()) > 0.05 * count
    of = found_in([text for text, _ in planted]).of
    went, lost = shares(planted, over_cap(of, 1))
    assert went >= 0.99, went
    assert lost <= 0.005, lost


def real_texts(folder: Path) -> tuple[list[str], list[str]]:
    """(what people wrote, of every length; texts that are fit to be a template)."""

    def lines(name: str) -> Iterator[Any]:
        with gzip.open(folder / name) as file:
            yield from map(json.loads, file)

    said = [turn["content"] for chat in lines("topical.jsonl.gz") for turn in chat["messages"]]
    arena = [row["turns"][0]["content"] for row in lines("arena_hard_prompts.jsonl.gz")]
    sums = [row["question"] for row in lines("gsm8k_test.jsonl.gz")]
    asked = [row["question"] for row in lines("nq_open_dev.jsonl.gz")]
    skeletons = [text for text in arena + sums + said if 15 <= len(text.split()) <= 180]
    return [*said, *arena, *sums, *asked], skeletons


def copies_of_real_text(rng: random.Random, text: str, number: int, vocabulary: Words) -> list[str]:
    """With slots of 1-3 words, up to 3 % of the words changed, other case, a word before."""
    words = text.split()
    slots = rng.sample(range(len(words)), min(rng.choice([1, 1, 2, 3]), max(1, len(words) // 12)))
    rate = rng.choice([0, 0, 0.02, 0.03])
    found = []
    for _ in range(number):
        one = ["please"] if rng.random() < 0.2 else []
        for at, word in enumerate(words):
            one += rng.choices(vocabulary, k=rng.randint(1, 3)) if at in slots else []
            one.append(rng.choice(vocabulary) if rng.random() < rate else word)
        made = " ".join(one) + (rng.choice("!?. ") if rng.random() < 0.2 else "")
        found.append(made.upper() if rng.random() < 0.05 else made)
    return found


def test_among_real_human_text_the_copies_go_and_the_genuine_stay() -> None:
    """As many as 25,000 texts of people, and templates made of some; with near-duplicates too."""
    folder = os.environ.get("USERLM_SYNTH_DATA")
    if not folder:
        pytest.skip("USERLM_SYNTH_DATA names no folder with real data")
    rng = random.Random(2)
    texts, skeletons = real_texts(Path(folder))
    texts = list(dict.fromkeys(" ".join(text.lower().split()) for text in texts))
    rng.shuffle(texts)
    planted: Planted = [(text, -1) for text in texts[:25_000]]
    vocabulary = [word for text in texts[:5000] for word in text.split()]
    left, template = len(planted) * 2 // 3, 0
    while left >= 50:
        number = min(left, int(50 * 160 ** rng.random()))
        made = copies_of_real_text(rng, rng.choice(skeletons), number, vocabulary)
        planted += [(text, template) for text in made]
        left, template = left - number, template + 1
    rng.shuffle(planted)
    openings = first_words([text for text, _ in planted])
    held = batches(openings)
    gone = over_cap(find_templates(lambda: held, len(planted), ngram=7, min_copies=20).of, 1)
    went, lost = shares(planted, gone)
    assert went >= 0.99, went
    assert lost <= 0.005, lost
    rows = np.flatnonzero(~gone & (np.array([len(one) for one in openings]) >= 12))
    found = signatures(hash_openings([openings[row] for row in rows.tolist()]))
    near = rows[near_duplicates(band_hashes(found), lambda some: found[some], 0.8)].tolist()
    lost_too = [row for row in near if planted[row][1] < 0]
    assert without_a_like(lost_too, rows.tolist(), openings) == []
    gone[near] = True
    went, lost = shares(planted, gone)
    assert went >= 0.99, went
    assert lost <= 0.005, lost


def without_a_like(some: list[int], rows: list[int], openings: list[Words]) -> list[int]:
    """Those of some rows with which no other shares seven tenths of the shingles of both."""
    sets = {row: shingles(openings[row]) for row in rows}
    having: dict[tuple[str, ...], set[int]] = {one: set() for row in some for one in sets[row]}
    for row in rows:
        for one in sets[row] & having.keys():
            having[one].add(row)
    return [
        row
        for row in some
        if not any(
            len(sets[row] & sets[other]) >= 0.7 * len(sets[row] | sets[other])
            for other in set().union(*(having[one] for one in sets[row])) - {row}
        )
    ]


def shingles(words: Words) -> set[tuple[str, ...]]:
    return set(zip(words, words[1:], words[2:], strict=False))


# ---- what is a template, and what is none ----------------------------------------------------


@pytest.mark.parametrize(
    ("phrase", "least"),
    [
        ("can you give me a list of", 1),
        ("could you please explain to me in simple words how it is that", 14),
    ],
)
def test_a_phrase_that_many_people_use_is_no_template(phrase: str, least: int) -> None:
    """Seven words with any rest, or more words with a rest that is longer."""
    rng = random.Random(1)
    texts = [f"{phrase} {' '.join(made_up(rng, rng.randint(least, 40)))}" for _ in range(300)]
    assert found_in([*texts, *genuine(rng, 300)]).count == 0


def test_fewer_copies_than_asked_for_are_no_template() -> None:
    rng = random.Random(3)
    texts = copies(rng, 19) + genuine(rng, 50)
    assert found_in(texts, min_copies=20).count == 0
    assert found_in(texts, min_copies=10).count == 1


def test_a_conversation_that_repeats_itself_is_no_template() -> None:
    """An n-gram counts once in each opening."""
    drumming = " ".join(["tell me a story about dogs and cats"] * 25)
    found = found_in([drumming, *genuine(random.Random(3), 50)])
    assert (found.count, len(found.grams)) == (0, 0)


def test_templates_are_numbered_by_size_and_equals_by_who_is_first() -> None:
    rng = random.Random(5)
    groups = [copies(rng, number) for number in (25, 60, 25, 40)]
    texts = [text for group in groups for text in group] + genuine(rng, 100)
    templates = found_in(texts)
    assert templates.of[:150].tolist() == [2] * 25 + [0] * 60 + [3] * 25 + [1] * 40
    assert (templates.of[150:] == -1).all()
    assert templates.count == 4
    assert set(templates.owner.tolist()) <= {-1, 0, 1, 2, 3}
    assert len(templates.grams) == len(templates.owner)


def test_case_punctuation_and_numbers_make_no_other_template() -> None:
    rng = random.Random(6)
    skeleton = " ".join(made_up(rng, 14))
    texts = [
        rng.choice([skeleton.upper(), skeleton.replace(" ", ", "), skeleton]) + f" {number} times!"
        for number in range(40)
    ]
    assert found_in(texts).of.tolist() == [0] * 40


@pytest.mark.parametrize("words", [10, 14, 60, 190])
def test_short_and_long_templates_are_found(words: int) -> None:
    rng = random.Random(words)
    skeleton = made_up(rng, words)
    texts = [" ".join([*skeleton, *made_up(rng, words // 10)]) for _ in range(50)]
    of = found_in([*texts, *genuine(rng, 200)]).of
    assert of.tolist() == [0] * 50 + [-1] * 200


def test_a_copy_that_has_no_run_of_words_with_the_others_is_one_by_its_words() -> None:
    rng = random.Random(4)
    skeleton = made_up(rng, 13)
    same = [" ".join([*skeleton, word]) for word in made_up(rng, 40)]
    broken = [" ".join([*skeleton[:6], word, *skeleton[7:]]) for word in made_up(rng, 5)]
    of = found_in([*same, *broken, *genuine(rng, 100)]).of
    assert of.tolist() == [0] * 45 + [-1] * 100


def test_a_template_in_a_script_without_spaces_is_found() -> None:
    rng = random.Random(7)
    letters = [chr(code) for code in range(0x4E00, 0x4F00)]
    skeleton = "".join(rng.choices(letters, k=40))
    texts = [skeleton + "".join(rng.choices(letters, k=5)) for _ in range(30)]
    others = ["".join(rng.choices(letters, k=45)) for _ in range(100)]
    of = found_in(texts + others).of
    assert of.tolist() == [0] * 30 + [-1] * 100


@pytest.mark.parametrize("texts", [[], ["hi"], ["", "", ""], ["a b c d e f g h"] * 5])
def test_a_corpus_too_small_for_templates_has_none(texts: list[str]) -> None:
    assert found_in(texts).count == 0
    assert found_in(texts).of.tolist() == [-1] * len(texts)


# ---- caps, order, batches --------------------------------------------------------------------


@given(st.lists(st.integers(-1, 3), max_size=40), st.integers(0, 4))
def test_the_first_copies_up_to_the_cap_stay(of: list[int], cap: int) -> None:
    gone = over_cap(np.array(of, np.int64), cap).tolist()
    assert gone == [
        template >= 0 and of[:row].count(template) >= cap for row, template in enumerate(of)
    ]


@cache
def mixed() -> list[str]:
    """Copies of eight templates among as many genuine texts, shuffled."""
    rng = random.Random(8)
    texts = [text for number in range(25, 65, 5) for text in copies(rng, number)]
    texts += genuine(rng, 350)
    rng.shuffle(texts)
    return texts


@settings(max_examples=10)
@given(cuts=st.lists(st.integers(0, 690), min_size=1, max_size=5).map(sorted))
def test_templates_do_not_depend_on_how_rows_are_cut_into_batches(
    cuts: list[int],
) -> None:
    whole, cut = found_in(mixed()), found_in(mixed(), cuts=cuts)
    assert whole.count == 8
    for one, two in zip(
        (whole.of, whole.grams, whole.owner), (cut.of, cut.grams, cut.owner), strict=True
    ):
        assert one.tolist() == two.tolist()


def test_rows_that_are_not_given_have_no_template() -> None:
    """Exact copies went before: their numbers are left out."""
    words = first_words(mixed())
    rows = np.arange(0, len(words), 2)
    held = [(hash_openings([words[row] for row in rows.tolist()]), rows)]
    of = find_templates(lambda: held, len(words), ngram=7, min_copies=10).of
    assert (of[1::2] == -1).all()
    assert of[::2].max() == 7


def test_the_order_of_the_rows_changes_no_membership() -> None:
    order = list(range(len(mixed())))
    random.Random(9).shuffle(order)
    of, moved = found_in(mixed()).of, found_in([mixed()[row] for row in order]).of
    pairs = set(zip(of[order].tolist(), moved.tolist(), strict=True))
    assert len(pairs) == 9, "one new number for each old one"


def test_a_template_with_short_lists_of_fillings_is_one_template() -> None:
    """Each filling has frequent n-grams of its own, and would be a template by itself."""
    rng = random.Random(0)
    people = ("cat", "robot", "wizard", "farmer", "sailor", "teacher", "nurse", "pirate", "baker")
    moods = ("red", "sad", "tiny", "huge", "ancient", "modern", "gentle", "brave", "silly")
    texts = [
        f"You are an expert {rng.choice(people)}. Explain to a beginner how to become a "
        f"{rng.choice(moods)} {rng.choice(people)} within {rng.randint(2, 40)} days"
        for _ in range(1000)
    ] + [" ".join(made_up(rng, 20)) for _ in range(500)]
    found = found_in(texts)
    assert found.count == 1
    assert (~over_cap(found.of, 1)[:1000]).sum() <= 5
    assert (found.of[1000:] < 0).all()
