"""A classifier trained on the spot: how human texts look, and whether two sets of texts differ.

Character n-grams, words and plain marks of style, weighted by TF-IDF, and logistic regression. A
text is only ever judged by a model that saw neither its conversation (its group) nor the same text
elsewhere. Its probability is its own: it says how alike a text is to the people here rather than
to the contrast here, and is no figure of Pangram or of another detector.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from userlm_synth.metrics import style_counts, words
from userlm_synth.records import Record

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

CHARACTERS = (2, 5)  # n-grams within words
CHARACTER_COLUMNS, WORD_COLUMNS = 2**20, 2**18  # hashed: no vocabulary to keep or to leak
STRENGTH = 1.0  # C: on real first turns, the least loss on held-out texts was near it
PERMUTATIONS = 1000


@dataclass(frozen=True, eq=False)
class Corpus:
    """Texts as arrays, all of length n: what they hold, and what must not be parted.

    `counts`: [n, columns] sparse, characters before column `split`, words and marks from it;
    `groups`: the conversation; `same`: one number for equal texts; `fold`: of the group.
    """

    counts: Any
    split: int
    groups: Ints
    same: Ints
    fold: Ints
    folds: int


def make_corpus(
    sources: Sequence[Sequence[tuple[str, str]]], *, folds: int, seed: int
) -> tuple[Corpus, list[Ints]]:
    """All texts of some sources, each a list of (group, text), and where each source's stand."""
    groups = [group for source in sources for group, _ in source]
    texts = [text for source in sources for _, text in source]
    counts, split = count_features(list(dict.fromkeys(texts)))
    dealt = deal([[group for group, _ in source] for source in sources], folds, seed)
    corpus = Corpus(
        counts=counts[_numbers(texts)],
        split=split,
        groups=_numbers(groups),
        same=_numbers([plain(text) for text in texts]),
        fold=np.array([dealt[group] for group in groups], dtype=np.int64),
        folds=folds,
    )
    ends = np.cumsum([0, *map(len, sources)])
    return corpus, [np.arange(*ends[at : at + 2]) for at in range(len(sources))]


def _numbers(names: Sequence[str]) -> Ints:
    """The same number for the same name, in the order of their first places."""
    number = {name: at for at, name in enumerate(dict.fromkeys(names))}
    return np.array([number[name] for name in names], dtype=np.int64)


def plain(text: str) -> str:
    """A text without case, punctuation and spaces of its own: what counts as the same text."""
    return " ".join(words(text)) or " ".join(text.casefold().split())


def deal(sources: Sequence[Sequence[str]], folds: int, seed: int) -> dict[str, int]:
    """A fold for each group, each source's groups spread evenly; shared groups are dealt once."""
    fold: dict[str, int] = {}
    for source in sources:
        fresh = sorted(set(source) - fold.keys())
        random.Random(seed).shuffle(fresh)
        fold |= {group: at % folds for at, group in enumerate(fresh)}
    return fold


def count_features(texts: Sequence[str]) -> tuple[Any, int]:
    """Counts [texts, columns], sparse, without empty columns; and the first column of words."""
    from sklearn.feature_extraction.text import HashingVectorizer
    from sklearn.pipeline import FeatureUnion

    plainly = {"norm": None, "alternate_sign": False}
    characters = HashingVectorizer(
        analyzer="char_wb", ngram_range=CHARACTERS, lowercase=False,
        n_features=CHARACTER_COLUMNS, **plainly,
    )  # fmt: skip
    terms = HashingVectorizer(analyzer=words_and_marks, n_features=WORD_COLUMNS, **plainly)
    both = FeatureUnion([("characters", characters), ("words", terms)])
    counts = both.fit_transform(texts).tocsr()
    used = np.flatnonzero(counts.getnnz(axis=0))
    return counts[:, used], int(np.searchsorted(used, CHARACTER_COLUMNS))


def words_and_marks(text: str) -> list[str]:
    """Words, pairs of words, and marks of style as if they were words: `<ends_with_stop>`."""
    found = words(text)
    style = style_counts(text)
    length = style.pop("mean_words")
    marks = [f"<{name}>" for name, there in style.items() if there]
    marks.append(f"<{length.bit_length()} bits of words>")
    if "\n" in text.strip():
        marks.append("<several lines>")
    return found + [f"{one} {two}" for one, two in pairwise(found)] + marks


# ---- who judges whom ---------------------------------------------------------------------------


def splits(
    corpus: Corpus, learned: Ints, judged: Ints, *, forward: bool = False
) -> Iterator[tuple[Ints, Ints]]:
    """(rows to learn from, rows to judge) for each fold.

    A row is learnt from when its group is in another fold (`forward`: in an earlier one), and no
    text that is judged is the same. Equal texts are left out rather than kept in one fold: a
    frequent "hello" would tie nearly all conversations together.
    """
    for fold in range(corpus.folds):
        judge = judged[corpus.fold[judged] == fold]
        there = corpus.fold[learned]
        known = np.isin(corpus.same[learned], corpus.same[judge])
        yield learned[(there < fold if forward else there != fold) & ~known], judge


def held_out(
    corpus: Corpus, people: Ints, others: Ints, judged: Ints, *, forward: bool = False
) -> Floats:
    """P(human) of the rows `judged`, [n]; NaN for other rows, and where one side to learn from is
    missing (with `forward`, always in the first fold)."""
    scores = np.full(len(corpus.fold), np.nan)
    human = np.zeros(len(corpus.fold), dtype=bool)
    human[people] = True
    for learn, judge in splits(corpus, np.concatenate([people, others]), judged, forward=forward):
        if len(judge) and len(set(human[learn].tolist())) == 2:
            model = _model(corpus.split).fit(corpus.counts[learn], human[learn])
            scores[judge] = model.predict_proba(corpus.counts[judge])[:, 1]
    return scores


def _model(split: int) -> Any:
    """TF-IDF and weights, both learnt from the rows it is fitted to alone."""
    from sklearn.compose import ColumnTransformer
    from sklearn.feature_extraction.text import TfidfTransformer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    parts = {"characters": slice(0, split), "words": slice(split, None)}
    return make_pipeline(
        ColumnTransformer(
            [(name, TfidfTransformer(sublinear_tf=True), part) for name, part in parts.items()]
        ),
        LogisticRegression(C=STRENGTH, class_weight="balanced", solver="liblinear", random_state=0),
    )


# ---- figures -----------------------------------------------------------------------------------


def auroc(
    corpus: Corpus, scores: Floats, people: Ints, others: Ints, *, samples: int, seed: int
) -> Record | None:
    """100 x the share of pairs (a person's text, another) that the scores put in order, ties half.

    Pairs are formed within folds only, since two folds' scores come from two models. Groups are
    resampled, both sides of one together; the models stay, so that their own chance is not in it.
    """
    blocks = list(_blocks(corpus, scores, people, others))
    if not blocks:
        return None
    there = np.unique(np.concatenate([np.concatenate(block[:2]) for block in blocks]))
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(len(there), np.full(len(there), 1 / len(there)), size=samples)
    weights = np.vstack([np.ones(len(there)), drawn])  # the first row is the figure itself
    top, bottom = np.zeros(len(weights)), np.zeros(len(weights))
    for mine, theirs, ordered in blocks:
        one, other = (weights[:, np.searchsorted(there, side)] for side in (mine, theirs))
        top += ((one @ ordered) * other).sum(axis=1)
        bottom += one.sum(axis=1) * other.sum(axis=1)
    values = 100 * np.divide(top, bottom, out=np.full_like(top, np.nan), where=bottom > 0)
    low, high = np.nanpercentile(values[1:], [2.5, 97.5])
    n = sum(len(mine) + len(theirs) for mine, theirs, _ in blocks)
    return {"value": float(values[0]), "interval": [float(low), float(high)], "n": n}


def _blocks(
    corpus: Corpus, scores: Floats, people: Ints, others: Ints
) -> Iterator[tuple[Ints, Ints, Floats]]:
    """For each fold with both: the groups of people's texts, of the others', which is higher."""
    for mine, theirs in _by_fold(corpus, scores, people, others):
        one, other = scores[mine][:, None], scores[theirs][None, :]
        yield corpus.groups[mine], corpus.groups[theirs], (one > other) + 0.5 * (one == other)


def _by_fold(
    corpus: Corpus, scores: Floats, people: Ints, others: Ints
) -> Iterator[tuple[Ints, Ints]]:
    for fold in range(corpus.folds):
        mine, theirs = (
            side[(corpus.fold[side] == fold) & np.isfinite(scores[side])]
            for side in (people, others)
        )
        if len(mine) and len(theirs):
            yield mine, theirs


def two_sample(
    corpus: Corpus, people: Ints, others: Ints, *, samples: int, seed: int
) -> Record | None:
    """Whether a classifier tells two sets of texts apart (C2ST, Lopez-Paz & Oquab 2017): `auroc`
    (50: it cannot) and `p`, one-sided. None where equal texts leave nothing to learn from.

    Each fold is judged by a model that learnt from the folds before it. Ordinary cross-validation
    will not do for a test: there two folds judge each other, what they share by chance counts
    twice, and of two equal sets more than one in ten has p < 0.05 (measured). Here a fold's labels
    had no part in its model, so that under no difference they may be exchanged.
    """
    scores = held_out(corpus, people, others, np.concatenate([people, others]), forward=True)
    found = auroc(corpus, scores, people, others, samples=samples, seed=seed)
    if found is None:
        return None
    return {"auroc": found, "p": permutation_p(corpus, scores, people, others, seed=seed)}


def human_floor(corpus: Corpus, people: Ints, *, samples: int, seed: int) -> Record | None:
    """`two_sample` of one half of people's texts against the other: what no difference looks like.

    Halves are drawn within folds, a group wholly in one.
    """
    within = [people[corpus.fold[people] == fold] for fold in range(corpus.folds)]
    drawn = deal([corpus.groups[some].astype(str).tolist() for some in within], 2, seed)
    half = np.array([drawn[str(group)] for group in corpus.groups[people]])
    return two_sample(corpus, people[half == 0], people[half == 1], samples=samples, seed=seed)


def permutation_p(
    corpus: Corpus, scores: Floats, people: Ints, others: Ints, *, seed: int
) -> float:
    """How often labels exchanged at random order the texts as well as the true ones: at least
    1 / (`PERMUTATIONS` + 1).

    Where a group has one text on each side (two texts for one intent), the two change places; the
    other labels of a fold are shuffled. Scores stay, so the figure is a sum of ranks.
    """
    rng = np.random.default_rng(seed)
    true, drawn = 0.0, np.zeros(PERMUTATIONS)
    for mine, theirs in _by_fold(corpus, scores, people, others):
        ranks = _ranks(scores[np.concatenate([mine, theirs])])
        one, other = ranks[: len(mine)], ranks[len(mine) :]
        true += one.sum()
        paired = _pairs(corpus.groups[mine], corpus.groups[theirs])
        first, second = one[paired[0]], other[paired[1]]
        swapped = rng.random((PERMUTATIONS, len(first))) < 0.5
        drawn += first.sum() + swapped @ (second - first)
        alone = np.delete(one, paired[0])
        rest = np.concatenate([alone, np.delete(other, paired[1])])
        order = rng.random((PERMUTATIONS, len(rest))).argsort(axis=1)[:, : len(alone)]
        drawn += rest[order].sum(axis=1)
    return float((1 + (drawn >= true - 1e-6).sum()) / (PERMUTATIONS + 1))


def _pairs(mine: Ints, theirs: Ints) -> tuple[Ints, Ints]:
    """Places of the groups that are on both sides, once on each."""
    one, other = _single(mine), _single(theirs)
    shared = sorted(one.keys() & other.keys())
    places = [[side[group] for group in shared] for side in (one, other)]
    return np.array(places[0], dtype=np.int64), np.array(places[1], dtype=np.int64)


def _single(side: Ints) -> dict[int, int]:
    """The place of each group that is there once."""
    names, first, counts = np.unique(side, return_index=True, return_counts=True)
    return dict(zip(names[counts == 1].tolist(), first[counts == 1].tolist(), strict=True))


def _ranks(values: Floats) -> Floats:
    """Ranks from 1; equal values share the middle of theirs."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    middle: Floats = last - (counts - 1) / 2
    return middle[place]
