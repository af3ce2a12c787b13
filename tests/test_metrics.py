"""Metrics: values worked out by hand, edges, and a naive reference for the vectorised ones."""

from __future__ import annotations

import itertools
import math
import random
import subprocess
import sys
from importlib.metadata import version

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from userlm_synth import metrics
from userlm_synth.metrics import words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Don’t stop, it's 3.5!", ["don't", "stop", "it's", "3", "5"]),
        ("'quoted' snake_case", ["quoted", "snake", "case"]),
        ("Éte\u0301 ÜBER", ["été", "über"]),
        ("हिन्दी में", ["हिन्दी", "में"]),
        ("你好 world", ["你", "好", "world"]),
        ("... !?", []),
        ("", []),
    ],
)
def test_words_are_lower_cased_and_whole(text: str, expected: list[str]) -> None:
    assert words(text) == expected


def test_diversity_by_hand() -> None:
    # {a b}, {b c}, {d}: Jaccard 1/3, 0, 0 -> mean 1/9
    assert metrics.first_turn_diversity(["a b", "B c!", "d"]) == pytest.approx(100 * 8 / 9)
    assert metrics.first_turn_diversity(["same text", "same text"]) == pytest.approx(0)


def test_two_texts_without_words_are_the_same_text() -> None:
    assert metrics.first_turn_diversity(["...", "!!"]) == pytest.approx(0)
    assert metrics.first_turn_diversity(["...", "hello"]) == pytest.approx(100)


def test_unigram_difference_is_over_pairs_of_texts_and_by_lemmas() -> None:
    # {how, many, apple}, {many, apple, ripe}: 2 of 4; with {ripe}: 0 of 4 and 1 of 3
    texts = ["How many apples?", "many apple\nripe", "ripe"]
    difference = metrics.unigram_difference
    assert difference(texts) == pytest.approx(1 - (2 / 4 + 0 / 4 + 1 / 3) / 3)
    assert difference(["she bought apples", "she buys an apple"]) == pytest.approx(1 / 4)
    assert difference(["", "\U0001f600"]) == 0
    with pytest.raises(ValueError, match="two texts"):
        difference(texts[:1])


@pytest.mark.parametrize("texts", [[], ["one text"]])
def test_diversity_needs_a_pair(texts: list[str]) -> None:
    with pytest.raises(ValueError, match="two texts or more"):
        metrics.first_turn_diversity(texts)
    with pytest.raises(ValueError, match="two texts or more"):
        metrics.diversity_estimate(texts)


def test_diversity_takes_a_seeded_sample() -> None:
    texts = [f"word{at} word{at % 7}" for at in range(60)]
    first = metrics.first_turn_diversity(texts, limit=10, seed=1)
    assert first == metrics.first_turn_diversity(texts, limit=10, seed=1)
    chosen = random.Random(1).sample(texts, 10)
    assert first == pytest.approx(metrics.first_turn_diversity(chosen))


def test_the_estimate_is_the_figure_with_an_interval_around_it() -> None:
    texts = [f"word{at % 5} word{at % 7} word{at}" for at in range(60)]
    found = metrics.diversity_estimate(texts, samples=200, seed=1)
    assert found["value"] == pytest.approx(metrics.first_turn_diversity(texts))
    low, high = found["interval"]
    assert low < found["value"] < high
    assert high - low < 10
    assert found["n"] == 60
    assert found == metrics.diversity_estimate(texts, samples=200, seed=1)
    assert metrics.diversity_estimate(texts, limit=10, samples=5, seed=1)["n"] == 10


def test_the_estimate_looks_at_each_pair_of_texts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    rows = metrics.jaccard_rows
    monkeypatch.setattr(metrics, "jaccard_rows", lambda texts: calls.append(1) or rows(texts))
    metrics.diversity_estimate(["a b", "b c", "d"], samples=50)
    assert calls == [1]


def naive_diversity(texts: list[str]) -> float:
    indices = []
    for left, right in itertools.combinations([set(words(text)) for text in texts], 2):
        indices.append(len(left & right) / len(left | right) if left | right else 1.0)
    return 100 * (1 - sum(indices) / len(indices))


sentences = st.lists(st.sampled_from(["a", "b", "c", "d", "?", "élan", "don't"]), max_size=6).map(
    " ".join
)


@settings(max_examples=60, deadline=None)
@given(st.lists(sentences, min_size=2, max_size=12), st.integers(0, 5), st.integers(1, 5))
def test_diversity_equals_the_naive_reference(texts: list[str], common: int, rows: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "COMMON", common)
        patch.setattr(metrics, "ROWS", rows)
        assert metrics.first_turn_diversity(texts) == pytest.approx(
            naive_diversity(texts), abs=1e-4
        )


def test_weights_leave_out_pairs_that_the_resampling_made() -> None:
    matrix = metrics.jaccard_matrix(["a b", "b c", "d"])
    value = metrics.weighted_diversity(matrix, np.array([[2, 1, 0], [3, 0, 0]]))
    assert value[0] == pytest.approx(100 * (1 - 1 / 3))  # only the pair "a b", "b c" is there
    assert math.isnan(value[1])


def test_distinct_n_by_hand() -> None:
    assert metrics.distinct_n(["a b a", "b a"], 1) == pytest.approx(40)
    assert metrics.distinct_n(["a b a", "b a"], 2) == pytest.approx(100 * 2 / 3)  # ab ba | ba
    with pytest.raises(ValueError, match="at least 2 words"):
        metrics.distinct_n(["a", "b"], 2)
    with pytest.raises(ValueError, match="1 or more"):
        metrics.distinct_n(["a"], 0)


def test_f1_by_hand() -> None:
    scores = metrics.binary_f1([True, True, False, False], [True, False, True, True])
    assert scores == pytest.approx({"precision": 50, "recall": 100 / 3, "f1": 40})
    assert metrics.binary_f1([False], [True]) == {"precision": 0, "recall": 0, "f1": 0}
    with pytest.raises(ValueError, match="at least one"):
        metrics.binary_f1([], [])
    with pytest.raises(ValueError, match="1 predictions for 2"):
        metrics.binary_f1([True], [True, False])


def test_intent_overlap_by_hand() -> None:
    turn, intent = words("How do I bake the bread and cake"), words("to bake rye bread")
    shares = metrics.intent_overlap(turn, intent)  # {bake bread cake} and {bake rye bread}
    assert shares == pytest.approx({"of_turn": 200 / 3, "of_intent": 200 / 3, "jaccard": 50})
    assert metrics.intent_overlap(words("and the"), intent) == {
        "of_turn": 0,
        "of_intent": 0,
        "jaccard": 0,
    }


def test_there_are_318_stopwords_and_all_are_words() -> None:
    assert len(metrics.stopwords()) == 318
    assert all(words(word) == [word] and metrics.is_stopword(word) for word in metrics.stopwords())


@pytest.mark.parametrize(
    "text", ["don't can’t won't hasn't ain't", "it's I'm you've they'd she'll", "what's there's"]
)
def test_a_contraction_of_a_stopword_is_one(text: str) -> None:
    assert all(map(metrics.is_stopword, words(text)))


@pytest.mark.parametrize("word", ["bread", "john's", "o'clock", "let's", "n't", ""])
def test_a_word_with_a_subject_is_no_stopword(word: str) -> None:
    assert not metrics.is_stopword(word)


def test_lemmas_are_dictionary_forms() -> None:
    text = "the cats were running to better houses qwxyz"
    assert metrics.lemmas(words(text)) == [
        "the", "cat", "be", "run", "to", "good", "house", "qwxyz",
    ]  # fmt: skip


def test_definitions_name_the_packages_that_are_installed() -> None:
    found = metrics.definitions()
    assert metrics.WORDS in found["words"]
    for name, package in (("stopwords", "scikit-learn"), ("lemmas", "simplemma")):
        assert f"{package} {version(package)}" in found[name]


def test_importing_the_metrics_loads_no_heavy_package() -> None:
    code = (
        "import sys; from userlm_synth import metrics; metrics.words('a b'); "
        "print({'numpy', 'scipy', 'simplemma', 'sklearn'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_bootstrap_covers_the_mean_and_repeats() -> None:
    items = list(range(100))

    def mean(values: list[int]) -> float:
        return sum(values) / len(values)

    low, high = metrics.bootstrap(mean, items, samples=300, seed=3)
    assert low < 49.5 < high
    assert 8 < high - low < 14  # 2 x 1.96 x 28.9 / 10 = 11.3
    assert (low, high) == metrics.bootstrap(mean, items, samples=300, seed=3)
    assert metrics.bootstrap(mean, [7], samples=5) == (7, 7)
    with pytest.raises(ValueError, match="at least one item"):
        metrics.bootstrap(mean, [])


def test_ratio_bootstrap_agrees_with_the_plain_one(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    tokens = rng.integers(1, 30, 200)
    losses = tokens * rng.normal(2, 0.5, 200)

    def perplexity(pairs: list[tuple[float, int]]) -> float:
        return math.exp(sum(loss for loss, _ in pairs) / sum(count for _, count in pairs))

    plain = metrics.bootstrap(perplexity, list(zip(losses, tokens, strict=True)), samples=1000)
    monkeypatch.setattr(metrics, "RESAMPLE_BLOCK", 1500)
    fast = metrics.ratio_bootstrap(losses, tokens, transform=np.exp)
    assert fast == pytest.approx(plain, rel=0.02)


def test_ratio_bootstrap_refuses_nothing_to_measure() -> None:
    with pytest.raises(ValueError, match="positive sum"):
        metrics.ratio_bootstrap([], [])
    with pytest.raises(ValueError, match="positive sum"):
        metrics.ratio_bootstrap([1], [0])
    with pytest.raises(ValueError, match="one denominator"):
        metrics.ratio_bootstrap([1, 2], [1])
    assert metrics.ratio_bootstrap([0, 4], [0, 2]) == (2, 2)  # resamples of 0 / 0 are left out


def test_style_rates_by_hand() -> None:
    rates = metrics.style_rates(["Hello there.", "thank you, pleased?", " PLEASE help", "ok"])
    assert rates == pytest.approx(
        {
            "starts_with_capital": 50,
            "ends_with_stop": 50,
            "has_question_mark": 25,
            "has_politeness": 50,
            "mean_words": 2,
        }
    )
    assert metrics.style_rates(["pleased"])["has_politeness"] == 0
    with pytest.raises(ValueError, match="at least one text"):
        metrics.style_rates([])
