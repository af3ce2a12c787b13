"""Text metrics: pure functions over lists of texts, each with its formula, unit and source.

Shares and scores are in percent (x 100), as in the tables of the paper (arXiv 2510.06552).
A statistic with nothing to measure raises ``ValueError``: a silent zero would be a wrong figure.
"""

from __future__ import annotations

import functools
import random
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.metadata import version
from itertools import combinations
from statistics import fmean
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from numpy.typing import NDArray

Item = TypeVar("Item")
Interval = tuple[float, float]

#: Names what `words` gives; it changes with it, so that figures say which one they were made by.
WORDS = "userlm_synth words 1"
#: Contractions whose first part is no word of its own.
IRREGULAR = frozenset({"ain't", "shan't", "won't"})

POLITE = re.compile(r"\b(?:please|thanks|thank you)\b", re.IGNORECASE)
COMMON = 512  # words that are compared through a table; the others are rare
ROWS = 256  # texts that are compared with all others at once
RESAMPLE_BLOCK = 2_000_000  # resampled indices held in memory at once


@functools.cache
def _word_pattern() -> re.Pattern[str]:
    """A word: letters, digits and combining marks, joined by single apostrophes.

    ``\\w`` leaves out the vowel signs of Hindi, Thai and others, which would cut words in pieces.
    Chinese and Japanese are written without spaces: there each character is a word.
    """
    marks = "".join(
        re.escape(chr(code))
        for code in range(0x300, 0x10000)
        if unicodedata.category(chr(code))[0] == "M"
    )
    unspaced = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    letter = rf"(?:(?![{unspaced}])[^\W_]|[{marks}\u200c\u200d])"
    return re.compile(rf"[{unspaced}]|{letter}+(?:'{letter}+)*")


def words(text: str) -> list[str]:
    """The lower-cased words (1-grams) of a text, punctuation left out; ``Don’t`` is ``don't``."""
    plain = unicodedata.normalize("NFC", text).replace("\u2019", "'").lower()
    return _word_pattern().findall(plain)


@functools.cache
def stopwords() -> frozenset[str]:
    """scikit-learn's 318 English stopwords, which hold no forms with an apostrophe."""
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    return frozenset(ENGLISH_STOP_WORDS)


@functools.lru_cache(maxsize=100_000)
def is_stopword(word: str) -> bool:
    """Whether a word (as `words` makes it) says nothing of the subject.

    With an apostrophe it does not where what stands before ``n't`` or before the apostrophe is a
    stopword: don't, can't, it's, i'm.
    """
    before, apostrophe, _ = word.partition("'")
    if not apostrophe:
        return word in stopwords()
    parts = {before, word.removesuffix("n't")}
    return word in IRREGULAR or not parts.isdisjoint(stopwords())


def lemmas(tokens: Iterable[str]) -> list[str]:
    """The English dictionary form of each word, by simplemma; what it does not know stays."""
    return [_lemma(token) for token in tokens]


@functools.lru_cache(maxsize=100_000)
def _lemma(word: str) -> str:
    import simplemma

    return str(simplemma.lemmatize(word, lang="en"))


def definitions() -> dict[str, str]:
    """What words, stopwords and lemmas are here, with the versions of the packages behind them."""
    return {
        "words": f"{WORDS}: lower-cased, without punctuation, whole with their apostrophes; each "
        "Chinese or Japanese character is a word",
        "stopwords": f"scikit-learn {version('scikit-learn')}, ENGLISH_STOP_WORDS, and their forms "
        "with an apostrophe (don't, it's)",
        "lemmas": f"simplemma {version('simplemma')}, English",
    }


def ngrams(tokens: Sequence[str], n: int) -> list[tuple[str, ...]]:
    """The n-grams of one text, in order; none when it has fewer than n words."""
    if n < 1:
        raise ValueError(f"n must be 1 or more, not {n}")
    return [tuple(tokens[start : start + n]) for start in range(len(tokens) - n + 1)]


def jaccard_rows(texts: Sequence[str]) -> Iterator[tuple[slice, NDArray[Any]]]:
    """Jaccard index |A & B| / |A | B| of the word sets of each two texts, some rows at a time:
    (which rows, values from 0 to 1 of shape (rows, n)). Exact, in memory for `ROWS` rows.

    Two texts without words are the same text: 1. Common words go through a table, rare ones through
    lists of the texts that have them; a word of a single text counts in the unions only.
    """
    import numpy as np

    sets = [set(words(text)) for text in texts]
    frequency = Counter(word for found in sets for word in found)
    shared = [word for word, count in frequency.most_common() if count > 1]
    column = {word: at for at, word in enumerate(shared[:COMMON])}
    having: dict[str, Any] = {word: [] for word in shared[COMMON:]}
    rare = [found & having.keys() for found in sets]
    table = np.zeros((len(sets), len(column)), dtype=np.float32)
    for row, found in enumerate(sets):
        table[row, [column[word] for word in found if word in column]] = 1
        for word in rare[row]:
            having[word].append(row)
    having = {word: np.array(rows) for word, rows in having.items()}
    sizes = np.array([len(found) for found in sets], dtype=np.float32)
    for start in range(0, len(sets), ROWS):
        rows = slice(start, min(start + ROWS, len(sets)))
        common = table[rows] @ table.T
        for at, found in enumerate(rare[rows]):
            for word in found:
                common[at, having[word]] += 1
            common[at, start + at] = sizes[start + at]
        union = sizes[rows, None] + sizes[None, :] - common
        yield rows, np.divide(common, union, out=np.ones_like(common), where=union > 0)


def jaccard_matrix(texts: Sequence[str]) -> NDArray[Any]:
    """All of `jaccard_rows`, shape (n, n)."""
    import numpy as np

    nothing = np.zeros((0, len(texts)), dtype=np.float32)
    return np.concatenate([nothing, *(block for _, block in jaccard_rows(texts))])


def weighted_diversity(matrix: NDArray[Any], weights: NDArray[Any]) -> NDArray[Any]:
    """100 x (1 - mean Jaccard) for each row of `weights` (how often each text was drawn).

    A text is never paired with a copy of itself that only the resampling made: such pairs would
    pull every resample below the estimate. `weights` is (samples, n), the result (samples,).
    """
    return _weighted_diversity([(slice(None), matrix)], weights)


def _weighted_diversity(
    blocks: Iterable[tuple[slice, NDArray[Any]]], weights: NDArray[Any]
) -> NDArray[Any]:
    import numpy as np

    drawn = weights.astype(np.float32, copy=False)
    own = np.einsum("sn,sn->s", drawn, drawn, dtype=np.float64)
    total = -own
    for rows, block in blocks:
        total += ((drawn @ block.T).astype(np.float64) * drawn[:, rows]).sum(axis=1)
    pairs = drawn.sum(axis=1, dtype=np.float64) ** 2 - own
    mean: NDArray[Any] = np.divide(total, pairs, out=np.full_like(total, np.nan), where=pairs > 0)
    return 100 * (1 - mean)


def first_turn_diversity(texts: Sequence[str], *, limit: int | None = 2000, seed: int = 0) -> float:
    """100 x (1 - mean pairwise 1-gram Jaccard index), over all pairs of at most `limit` texts.

    The texts are a sample drawn with `seed` where there are more. Source: the paper's Table 2,
    metric 1 (2,000 sampled first turns; human 94.01).
    """
    import numpy as np

    chosen = _at_most(limit, texts, seed)
    return float(_weighted_diversity(jaccard_rows(chosen), np.ones((1, len(chosen))))[0])


def unigram_difference(texts: Sequence[str]) -> float:
    """1 - the mean Jaccard index of each two texts' sets of lemmas, from 0 to 1.

    A text is all that the user says in a dialogue; two without a word are the same. Source: the
    paper's Table 3 (Appendix D.3), over the dialogues of one intent.
    """
    sets = [frozenset(lemmas(words(text))) for text in texts]
    pairs = [(one & other, one | other) for one, other in combinations(sets, 2)]
    if not pairs:
        raise ValueError("a difference takes at least two texts")
    return 1 - fmean(len(both) / len(either) if either else 1.0 for both, either in pairs)


def diversity_estimate(
    texts: Sequence[str], *, limit: int | None = None, samples: int = 1000, seed: int = 0
) -> dict[str, Any]:
    """`first_turn_diversity` as `value`, its bootstrap 95 % `interval` and `n`: all pairs of texts
    are compared once, for the figure and for every resample together."""
    import numpy as np

    chosen = _at_most(limit, texts, seed)
    n = len(chosen)
    weights = np.ones((samples + 1, n), dtype=np.float32)
    weights[1:] = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), samples)
    value, *resampled = _weighted_diversity(jaccard_rows(chosen), weights)
    low, high = np.nanpercentile(resampled, [2.5, 97.5])
    return {"value": float(value), "interval": [float(low), float(high)], "n": n}


def _at_most(limit: int | None, texts: Sequence[str], seed: int) -> Sequence[str]:
    """The texts, or a sample of them where there are more; they have to make a pair."""
    if len(texts) < 2 or (limit is not None and limit < 2):
        raise ValueError(
            f"first-turn diversity compares pairs: two texts or more, not {len(texts)}"
        )
    if limit is None or len(texts) <= limit:
        return texts
    return random.Random(seed).sample(list(texts), limit)


def distinct_n(texts: Iterable[str], n: int) -> float:
    """100 x different n-grams / all n-grams, never across two texts (Li et al. 2016, distinct-n).

    It falls as the number of words grows, so compare it only between texts of equal length.
    """
    grams = [gram for text in texts for gram in ngrams(words(text), n)]
    if not grams:
        raise ValueError(f"distinct-{n} needs a text of at least {n} words")
    return 100 * len(set(grams)) / len(grams)


def binary_f1(predicted: Sequence[bool], actual: Sequence[bool]) -> dict[str, float]:
    """Precision, recall and F1 of yes/no predictions, x 100 (the paper's metric 3, termination).

    A share of nothing is 0: precision when nothing was predicted, recall when nothing was there.
    """
    if len(predicted) != len(actual):
        raise ValueError(f"{len(predicted)} predictions for {len(actual)} facts")
    if not predicted:
        raise ValueError("F1 needs at least one prediction")
    hits = sum(1 for guess, fact in zip(predicted, actual, strict=True) if guess and fact)
    guessed, real = sum(map(bool, predicted)), sum(map(bool, actual))
    return {
        "precision": 100 * hits / guessed if guessed else 0.0,
        "recall": 100 * hits / real if real else 0.0,
        "f1": 200 * hits / (guessed + real) if guessed + real else 0.0,
    }


def intent_overlap(turn_words: Iterable[str], intent_words: Iterable[str]) -> dict[str, float]:
    """How much of the intent a turn repeats, x 100, over different words without stopwords.

    ``of_turn`` = |T & I| / |T|, ``of_intent`` = |T & I| / |I|, ``jaccard`` = |T & I| / |T | I|; a
    share of no words is 0. The paper (metric 2, intent decomposition) does not say which it uses.
    """
    turn = {word for word in turn_words if not is_stopword(word)}
    intent = {word for word in intent_words if not is_stopword(word)}
    common = len(turn & intent)
    sizes = {"of_turn": len(turn), "of_intent": len(intent), "jaccard": len(turn | intent)}
    return {name: 100 * common / size if size else 0.0 for name, size in sizes.items()}


def bootstrap(
    statistic: Callable[[list[Item]], float],
    items: Sequence[Item],
    *,
    samples: int = 1000,
    seed: int = 0,
) -> Interval:
    """Percentile 95 % interval of `statistic` over resamples of `items` (Efron 1979).

    `items` are what was drawn independently: conversations, not turns. Not for figures that count
    repeats (diversity, distinct-n): a resample repeats items, which lowers them by itself.
    """
    import numpy as np

    if not items or samples < 1:
        raise ValueError("a bootstrap interval needs at least one item and one resample")
    rng = np.random.default_rng(seed)
    draws = [
        statistic([items[at] for at in rng.integers(0, len(items), len(items))])
        for _ in range(samples)
    ]
    low, high = np.percentile(draws, [2.5, 97.5])
    return float(low), float(high)


def ratio_bootstrap(
    numerators: Sequence[float] | NDArray[Any],
    denominators: Sequence[float] | NDArray[Any],
    *,
    samples: int = 1000,
    seed: int = 0,
    transform: Callable[[NDArray[Any]], NDArray[Any]] | None = None,
) -> Interval:
    """Percentile 95 % interval of transform(sum of numerators / sum of denominators), vectorised.

    One entry per conversation. Perplexity: the negative log-likelihoods, the token counts, and
    ``transform=numpy.exp``. Resamples whose denominators sum to 0 say nothing and are left out.
    """
    import numpy as np

    top, bottom = (
        np.asarray(numerators, dtype=np.float64),
        np.asarray(denominators, dtype=np.float64),
    )
    if top.shape != bottom.shape or top.ndim != 1:
        raise ValueError(f"one denominator for each numerator: {top.shape} against {bottom.shape}")
    if samples < 1 or not bottom.sum() > 0:
        raise ValueError("a ratio interval needs a positive sum of denominators and one resample")
    rng, ratios = np.random.default_rng(seed), []
    step = max(1, RESAMPLE_BLOCK // len(top))
    for start in range(0, samples, step):
        drawn = rng.integers(0, len(top), (min(step, samples - start), len(top)))
        with np.errstate(invalid="ignore", divide="ignore"):
            ratios.append(top[drawn].sum(axis=1) / bottom[drawn].sum(axis=1))
    ratio = np.concatenate(ratios)
    values = ratio[np.isfinite(ratio)]
    if not len(values):
        raise ValueError("no resample had a positive sum of denominators")
    low, high = np.percentile(transform(values) if transform else values, [2.5, 97.5])
    return float(low), float(high)


def style_counts(text: str) -> dict[str, int]:
    """What `style_rates` counts, for one text: four 0/1 marks and the number of words."""
    plain = text.strip()
    return {
        "starts_with_capital": int(plain[:1].isupper()),
        "ends_with_stop": int(plain.endswith((".", "!", "?"))),
        "has_question_mark": int("?" in plain),
        "has_politeness": int(POLITE.search(plain) is not None),
        "mean_words": len(words(plain)),
    }


def style_rates(texts: Sequence[str]) -> dict[str, float]:
    """Plain rates that a reader can check by eye, as percent of the texts, and mean words a text.

    Starts with a capital; ends in . ! or ?; holds a question mark; please, thanks or thank you.
    """
    if not texts:
        raise ValueError("style rates need at least one text")
    counted = [style_counts(text) for text in texts]
    return {
        name: sum(row[name] for row in counted) / len(texts) * (1 if name == "mean_words" else 100)
        for name in counted[0]
    }
