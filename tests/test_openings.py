"""Facts about openings: their words, the hashes of word n-grams, MinHash signatures."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from itertools import chain, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from userlm_synth.conversations.openings import (
    BANDS,
    ROWS,
    SHINGLE,
    WORDS,
    Array,
    Openings,
    band_hashes,
    hash_openings,
    ngrams,
    opening,
    signatures,
    user_words,
    words_of,
)
from userlm_synth.records import Record

word = st.sampled_from(["a", "b", "c", "7", "1999", "ж"])
texts = st.lists(st.lists(word, max_size=12), max_size=6)


def chat(*turns: str) -> Record:
    """A conversation; the user opens."""
    roles = ("user", "assistant")
    said = [{"role": roles[at % 2], "content": text} for at, text in enumerate(turns)]
    return {"messages": said}


def parts(values: Array, starts: Array) -> list[list[int]]:
    """What belongs to each opening."""
    return [values[low:high].tolist() for low, high in pairwise(starts.tolist())]


# ---- words -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Hello, WORLD!  (again)\n\tand-again", ["hello", "world", "again", "and", "again"]),
        ("snake_case and that's é", ["snake", "case", "and", "that", "s", "é"]),
        ("Straße № 5, ПРИВЕТ мир!", ["straße", "5", "привет", "мир"]),
        ("हिन्दी में", ["हिन्दी", "में"]),
        ("café".replace("é", "e\u0301"), ["cafe\u0301"]),
        ("한국어로 써 줘", ["한국어로", "써", "줘"]),
        ("写一个Python程序，第3章", [*"写一个", "python", *"程序第", "3", "章"]),
        ("ラーメンを2つ", [*"ラーメンを", "2", "つ"]),
        ("?! ...", []),
        ("", []),
    ],
)
def test_words_are_lower_case_without_punctuation_and_letters_where_there_are_no_spaces(
    text: str, words: list[str]
) -> None:
    assert words_of(text) == words


@settings(max_examples=30)
@given(st.text(max_size=60))
def test_case_and_punctuation_tell_no_texts_apart(text: str) -> None:
    assert words_of(text.lower()) == words_of(text)
    assert words_of(f"«{text}»,") == words_of(f"« {text} » ,")


def test_an_opening_is_the_first_user_turn_alone_where_it_has_enough_words() -> None:
    assert opening(chat("one two three", "no", "four"), 3) == ["one", "two", "three"]


def test_a_short_first_turn_takes_the_users_next_turns_and_no_more_than_it_needs() -> None:
    said = chat("hi", "hello, what can I do?", "one two", "yes", "three four five", "fine", "six")
    assert opening(said, 3) == ["hi", "one", "two"]
    assert opening(said, 4) == ["hi", "one", "two", "three", "four", "five"]
    assert opening(said, 50) == ["hi", "one", "two", "three", "four", "five", "six"]


def test_an_opening_has_at_most_two_hundred_words() -> None:
    many = " ".join(f"w{n}" for n in range(1000))
    assert opening(chat(many), 7) == [f"w{n}" for n in range(WORDS)]
    assert len(opening(chat("hi", "hello", many), 7)) == WORDS == 200


@given(
    st.lists(st.lists(word, max_size=5).map(" ".join), min_size=1, max_size=5), st.integers(1, 9)
)
def test_the_opening_is_the_beginning_of_all_that_the_user_says(turns: list[str], n: int) -> None:
    said = chat(*(part for turn in turns for part in (turn, "not the user")))
    words, length = user_words(said, n)
    assert words == words_of(" ".join(turns))
    assert words[:length] == opening(said, n)
    assert length >= min(n, len(words))


def test_of_what_the_user_says_two_hundred_words_count() -> None:
    said = chat("one two three", "no", "four " * 500, "no", "five")
    assert user_words(said, 3) == (["one", "two", "three", *["four"] * 197], 3)
    assert user_words(chat("four " * 500), 3) == (["four"] * 200, 200)


def test_a_message_of_megabytes_is_not_read_to_its_end() -> None:
    """Only so much of it is as holds the words that count, however long a word is."""
    assert len(words_of("word " * 10_000_000)) >= WORDS
    assert len(words_of("x" * 50_000_000)[0]) < 10_000


# ---- hashes ----------------------------------------------------------------------------------


def test_every_number_is_one_word() -> None:
    openings = [["in", "7"], ["in", "1999"], ["in", "x"], ["in", "7b"]]
    one, two, other, mixed = parts_of_words(openings)
    assert one == two
    assert len({tuple(one), tuple(other), tuple(mixed)}) == 3


def parts_of_words(openings: list[list[str]]) -> list[list[int]]:
    held = hash_openings(openings)
    return parts(held.words, held.starts)


def test_hashes_are_the_same_in_every_process_and_on_every_machine() -> None:
    digest = hashlib.blake2b("größe".encode(), digest_size=8).digest()
    held = hash_openings([["größe"]])
    assert held.words.tobytes() == digest  # little end first


@given(texts, st.integers(1, 4))
def test_ngrams_have_one_hash_just_where_their_words_are_the_same(
    openings: list[list[str]], n: int
) -> None:
    values, starts = ngrams(hash_openings(openings), n)
    plain = [["0" if word.isdigit() else word for word in one] for one in openings]
    slow = [[tuple(one[at : at + n]) for at in range(len(one) - n + 1)] for one in plain]
    found = parts(values, starts)
    assert [len(one) for one in found] == [len(one) for one in slow], "none across two openings"
    pairs = list(zip(chain(*slow), chain(*found), strict=True))
    assert len({gram for gram, _ in pairs}) == len({value for _, value in pairs})
    assert len(set(pairs)) == len({gram for gram, _ in pairs})


@given(texts, st.data())
def test_chosen_openings_are_those_of_the_rows_in_their_order(
    openings: list[list[str]], data: st.DataObject
) -> None:
    rows = data.draw(st.lists(st.integers(0, max(len(openings) - 1, 0)), max_size=8))
    rows = rows if openings else []
    some = hash_openings(openings).chosen(np.array(rows, np.int64))
    assert parts(some.words, some.starts) == parts_of_words([openings[row] for row in rows])
    assert [len(one) for one in parts(some.inside, some.starts)] == [
        len(openings[row]) for row in rows
    ]


# ---- signatures ------------------------------------------------------------------------------


def shingles(words: Sequence[str]) -> set[tuple[str, ...]]:
    return {tuple(words[at : at + SHINGLE]) for at in range(len(words) - SHINGLE + 1)}


def pairs_of_texts(count: int) -> list[tuple[list[str], list[str]]]:
    """Texts of 10-150 words and the same with more or fewer of them changed."""
    rng = random.Random(5)
    vocabulary = [f"w{n}" for n in range(3000)]
    found = []
    for _ in range(count):
        one = rng.choices(vocabulary, k=rng.randint(10, 150))
        rate = rng.random() ** 2
        two = [rng.choice(vocabulary) if rng.random() < rate / 3 else word for word in one]
        found.append((one, two[rng.randint(0, 5) :]))
    return found


def test_the_share_of_equal_columns_is_the_jaccard_index() -> None:
    """Each of 1,500 pairs within 4 standard errors, their mean and spread as of fair draws."""
    pairs = pairs_of_texts(1500)
    one, two = (signatures(hash_openings(side)) for side in zip(*pairs, strict=True))
    share = (one == two).mean(1)
    sets = [(shingles(a), shingles(b)) for a, b in pairs]
    true = np.array([len(a & b) / len(a | b) for a, b in sets])
    assert (share[true == 1] == 1).all()
    some = (true > 0.02) & (true < 0.98)
    error = (share - true)[some] / np.sqrt(true * (1 - true) / (BANDS * ROWS))[some]
    assert some.sum() > 1000
    assert abs(error).max() < 4.2  # one pair in 37,000 is further off by chance
    assert abs(error.mean()) < 4 / some.sum() ** 0.5
    assert 0.9 < error.std() < 1.1


@given(st.lists(st.lists(word, max_size=12), max_size=8), st.integers(0, 8))
def test_hashes_do_not_depend_on_the_batch_that_an_opening_is_in(
    openings: list[list[str]], cut: int
) -> None:
    whole = hash_openings(openings)
    halves = [hash_openings(openings[:cut]), hash_openings(openings[cut:])]
    for found in (signatures, lambda some: band_hashes(signatures(some))):
        assert (found(whole) == np.concatenate([found(half) for half in halves])).all()
    both = [parts(*ngrams(half, 3)) for half in halves]
    assert parts(*ngrams(whole, 3)) == both[0] + both[1]


def test_an_opening_without_a_shingle_has_a_signature_of_zeros() -> None:
    found = signatures(hash_openings([["a", "b"], [], ["a", "b", "c"]]))
    assert found.shape == (3, BANDS * ROWS)
    assert not found[:2].any()
    assert found[2].any()


def test_bands_are_equal_just_where_their_columns_are() -> None:
    pairs = pairs_of_texts(300)
    one, two = (signatures(hash_openings(side)) for side in zip(*pairs, strict=True))
    alike = (one == two).reshape(-1, BANDS, ROWS).all(2)
    assert alike.any()
    assert not alike.all()
    assert ((band_hashes(one) == band_hashes(two)) == alike).all()


@given(texts, st.data())
def test_chosen_openings_may_be_cut_short(openings: list[list[str]], data: st.DataObject) -> None:
    lengths = [data.draw(st.integers(0, len(one))) for one in openings]
    rows = np.arange(len(openings))
    some = hash_openings(openings).chosen(rows, np.array(lengths, np.int64))
    short = [one[:length] for one, length in zip(openings, lengths, strict=True)]
    assert parts(some.words, some.starts) == parts_of_words(short)


def test_a_batch_of_none_has_arrays_of_none() -> None:
    none = hash_openings([])
    assert isinstance(none, Openings)
    assert (len(none), len(ngrams(none, 7)[0]), signatures(none).shape) == (0, 0, (0, 120))
