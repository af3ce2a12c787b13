"""Statistics of words: hand-worked values, and agreement with the plain algorithms."""

from __future__ import annotations

import gzip
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from userlm_synth import metrics
from userlm_synth.reporting.diversity import lexical
from userlm_synth.reporting.diversity.lexical import SelfBleu, encode

TEXTS = st.lists(st.lists(st.sampled_from("abcdef"), max_size=12), min_size=1, max_size=8)
WORDS = st.lists(st.integers(0, 12), max_size=400)


def numbers(text: str) -> lexical.Numbers:
    return encode([text.split()]).words


def rows(*places: int) -> lexical.Numbers:
    return np.array(places, np.int64)


# ---- the same, word for word as the papers have it -----------------------------------------------


def plain_mattr(words: list[int], window: int) -> float:
    ratios = [len(set(words[at : at + window])) / window for at in range(len(words) - window + 1)]
    return 100 * sum(ratios) / len(ratios) if ratios else math.nan


def plain_factors(words: list[int], threshold: float) -> float:
    factors, seen, count, ratio = 0.0, set(), 0, 1.0
    for word in words:
        seen.add(word)
        count += 1
        ratio = len(seen) / count
        if ratio <= threshold + 1e-9:
            factors, seen, count, ratio = factors + 1, set(), 0, 1.0
    return factors + (1 - ratio) / (1 - threshold) if count else factors


def plain_bleu(text: list[str], others: list[list[str]]) -> float:
    """NLTK's `sentence_bleu` with `SmoothingFunction().method1`, four equal weights."""
    logs = 0.0
    for n in range(1, 5):
        own = Counter(metrics.ngrams(text, n))
        theirs = [Counter(metrics.ngrams(other, n)) for other in others]
        matched = sum(min(times, max(one[g] for one in theirs)) for g, times in own.items())
        if n == 1 and not matched:
            return 0.0
        logs += math.log((matched or 0.1) / max(1, len(text) - n + 1)) / 4
    near = min((abs(len(other) - len(text)), len(other)) for other in others)[1]
    return (1.0 if len(text) > near else math.exp(1 - near / len(text))) * math.exp(logs)


# ---- corpus --------------------------------------------------------------------------------------


@given(TEXTS, st.integers(1, 4))
def test_ngrams_are_numbered_and_never_cross_texts(texts: list[list[str]], n: int) -> None:
    grams = encode(texts).grams(n)
    plain = [gram for text in texts for gram in metrics.ngrams(text, n)]
    assert grams.lengths.tolist() == [len(metrics.ngrams(text, n)) for text in texts]
    assert len(set(zip(plain, grams.words.tolist(), strict=True))) == len(set(plain))
    assert len(set(grams.words.tolist())) == len(set(plain))


def test_stream_is_the_chosen_texts_in_a_row() -> None:
    corpus = encode([["a", "b"], [], ["c"], ["a"]])
    assert corpus.stream(rows(0, 1, 3)).tolist() == [0, 1, 0]
    assert corpus.stream(rows()).tolist() == []


def test_distinct_share_is_that_of_metrics() -> None:
    texts = ["a b a c", "b a a"]
    corpus = encode([metrics.words(text) for text in texts])
    for n in (1, 2):
        found = lexical.distinct_share(corpus.grams(n).words)
        assert found == pytest.approx(metrics.distinct_n(texts, n))
    assert math.isnan(lexical.distinct_share(rows()))


# ---- MATTR and MTLD ------------------------------------------------------------------------------


def test_mattr_by_hand() -> None:
    assert lexical.mattr(numbers("a a b"), 2) == pytest.approx(75)  # aa: 1 of 2, ab: 2 of 2
    assert lexical.mattr(numbers("a b a c"), 2) == pytest.approx(100)
    assert lexical.mattr(numbers("a b a c"), 4) == pytest.approx(75)
    assert math.isnan(lexical.mattr(numbers("a b a"), 4))


@given(WORDS, st.integers(1, 60))
def test_mattr_is_the_mean_over_all_windows(words: list[int], window: int) -> None:
    found = lexical.mattr(np.array(words, np.int64), window)
    assert found == pytest.approx(plain_mattr(words, window), nan_ok=True)


def test_mtld_by_hand() -> None:
    assert lexical.mtld(numbers("a a a a")) == 2  # two words fill a factor
    # forwards: a b c a (0.75), then d a -> 4 of 6 = 0.67: one factor of six words; backwards too
    assert lexical.mtld(numbers("a b c a d a")) == pytest.approx(
        (6 / 1 + 6 / plain_factors([0, 2, 0, 1, 3, 0], 0.72)) / 2
    )
    # a b a is 2 of 3, a factor; b c d is a rest without repeats; backwards d c b a: 4 of 4,
    # then b: 4 of 5, then a: 4 of 6: a factor
    assert lexical.mtld(numbers("a b a b c d")) == pytest.approx((6 / 1 + 6 / 1) / 2)
    assert math.isnan(lexical.mtld(numbers("a b c d")))
    assert math.isnan(lexical.mtld(rows()))


@given(WORDS)
@settings(max_examples=200)
def test_mtld_is_the_plain_algorithm(words: list[int]) -> None:
    factors = [plain_factors(words, 0.72), plain_factors(words[::-1], 0.72)]
    found = lexical.mtld(np.array(words, np.int64))
    if min(factors) == 0:
        assert math.isnan(found)
    else:
        assert found == pytest.approx(sum(len(words) / one for one in factors) / 2)


def test_a_factor_longer_than_one_look_is_found() -> None:
    long = [*range(1000), *range(600)]
    factors = (plain_factors(long, 0.72), plain_factors(long[::-1], 0.72))
    assert lexical.mtld(np.array(long)) == pytest.approx(np.mean([1600 / one for one in factors]))


# ---- compression ---------------------------------------------------------------------------------


def test_compression_ratio_is_gzip_s() -> None:
    text = b"how do i fix my old bike chain when it rains " * 20
    expected = len(text) / len(gzip.compress(text, 6, mtime=0))
    assert lexical.compression_ratio(text) == pytest.approx(expected)
    assert expected > 8
    assert lexical.compression_ratio(np.random.default_rng(0).bytes(5000)) < 1
    assert math.isnan(lexical.compression_ratio(b""))


# ---- self-BLEU -----------------------------------------------------------------------------------


def test_self_bleu_by_hand() -> None:
    # each: 3 of 4 words, 2 of 3 pairs, 1 of 2 triples, none of 1 four (0.1), the same length
    pair = SelfBleu(encode([["a", "b", "c", "d"], ["a", "b", "c", "e"]]))
    each = (3 / 4 * 2 / 3 * 1 / 2 * 0.1) ** 0.25
    assert pair.of(rows(0, 1)) == pytest.approx(100 * each)
    same = SelfBleu(encode([["a", "b", "c", "d", "e"]] * 3))
    assert same.of(rows(0, 1, 2)) == pytest.approx(100)
    apart = SelfBleu(encode([["a", "b"], ["c", "d"]]))
    assert apart.of(rows(0, 1)) == 0


def test_a_short_text_pays_for_its_brevity() -> None:
    score = SelfBleu(encode([["a", "b", "c", "d"], ["a", "b", "c", "d", "e", "f", "g", "h"]]))
    short, long = score.scores(rows(0, 1))
    assert short == pytest.approx(math.exp(1 - 8 / 4))
    assert long == pytest.approx((4 / 8 * 3 / 7 * 2 / 6 * 1 / 5) ** 0.25)


def test_words_count_at_most_as_often_as_in_the_one_text_that_has_most_of_them() -> None:
    score = SelfBleu(encode([["a", "a", "a", "a"], ["a"], ["a", "a"]]))
    # of four a's two are found in the third text, not three in both others
    matched = [2 / 4, 1 / 3, 0.1 / 2, 0.1 / 1]
    assert score.scores(rows(0, 1, 2))[0] == pytest.approx(math.prod(matched) ** 0.25)


@given(TEXTS, st.randoms(use_true_random=False))
@settings(max_examples=200)
def test_self_bleu_is_the_plain_algorithm_on_any_part(texts: list[list[str]], random) -> None:  # type: ignore[no-untyped-def]
    chosen = sorted(random.sample(range(len(texts)), random.randint(1, len(texts))))
    some = [texts[at] for at in chosen if texts[at]]
    found = SelfBleu(encode(texts)).of(np.array(chosen, np.int64))
    if len(some) < 2:
        assert math.isnan(found)
        return
    expected = [plain_bleu(text, some[:at] + some[at + 1 :]) for at, text in enumerate(some)]
    assert found == pytest.approx(100 * sum(expected) / len(some))


# ---- embeddings ----------------------------------------------------------------------------------


def test_vendi_score_counts_what_is_different() -> None:
    eye = np.eye(4, dtype=np.float32)
    assert lexical.vendi_score(eye) == pytest.approx(4)
    assert lexical.vendi_score(eye[[0, 0, 0]]) == pytest.approx(1)
    assert lexical.vendi_score(eye[[0, 0, 1, 1]]) == pytest.approx(2)
    # shares 3/4 and 1/4: exp(-(3/4 log 3/4 + 1/4 log 1/4))
    expected = math.exp(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))
    assert lexical.vendi_score(eye[[0, 0, 0, 1]]) == pytest.approx(expected)
    assert lexical.vendi_score(np.vstack([eye, np.zeros((2, 4))])) == pytest.approx(4)
    assert math.isnan(lexical.vendi_score(np.zeros((3, 4))))


def test_vendi_score_is_that_of_the_n_x_n_matrix() -> None:
    vectors = np.random.default_rng(3).normal(size=(50, 8))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    values = np.linalg.eigvalsh(vectors @ vectors.T / 50)
    values = values[values > 1e-12]
    assert lexical.vendi_score(vectors) == pytest.approx(np.exp(-(values @ np.log(values))))


def test_mean_distance_is_the_mean_over_all_pairs() -> None:
    vectors = np.random.default_rng(4).normal(size=(30, 8))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    pairs = [1 - vectors[a] @ vectors[b] for a in range(30) for b in range(a)]
    assert lexical.mean_distance(vectors) == pytest.approx(np.mean(pairs))
    assert lexical.mean_distance(np.eye(3)) == pytest.approx(1)
    assert lexical.mean_distance(np.eye(3)[[0, 0]]) == pytest.approx(0)
    assert math.isnan(lexical.mean_distance(np.eye(3)[:1]))
