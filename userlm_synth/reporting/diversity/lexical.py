"""How varied words are: pure functions over texts as numbers, each with its formula and source.

`encode` turns texts into numbers once, so that a statistic of any half of them costs milliseconds.
A function gives NaN where there is too little text to say anything; the figures turn that into a
reason. Shares are in percent (x 100).
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.int64]

WINDOW = 50  # words, of MATTR
THRESHOLD = 0.72  # type-token ratio at which a factor of MTLD is full
LOOK = 128  # words looked at together for the end of a factor
ORDERS = 4  # of the n-grams of BLEU
EPSILON = 0.1  # stands for no match at all: smoothing 1 of Chen & Cherry 2014, NLTK's method1


@dataclass(frozen=True, eq=False)
class Corpus:
    """Texts as numbers: `words[starts[i]:starts[i + 1]]` are the words of the i-th."""

    words: Numbers
    starts: Numbers

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def lengths(self) -> Numbers:
        """Words of each text."""
        return np.diff(self.starts)

    def stream(self, rows: Numbers) -> Numbers:
        """The words of some texts, one text after the other."""
        parts = [self.words[self.starts[row] : self.starts[row + 1]] for row in rows.tolist()]
        return np.concatenate(parts) if parts else self.words[:0]

    def grams(self, n: int) -> Corpus:
        """The n-grams of each text as numbers, never across two texts."""
        if n == 1:
            return self
        shorter = self.grams(n - 1)
        lengths = np.maximum(self.lengths - n + 1, 0)
        starts = np.concatenate([[0], np.cumsum(lengths)])
        inside = np.arange(starts[-1])
        first = inside + np.repeat(shorter.starts[:-1] - starts[:-1], lengths)
        last = inside + np.repeat(self.starts[:-1] - starts[:-1], lengths) + n - 1
        size = int(self.words.max(initial=0)) + 1
        pairs = shorter.words[first] * size + self.words[last]
        _, numbers = np.unique(pairs, return_inverse=True)
        return Corpus(numbers.astype(np.int64), starts)


def encode(texts: Sequence[Sequence[str]]) -> Corpus:
    """The words of each text as numbers, in the order of their first use."""
    known: dict[str, int] = {}
    found = [known.setdefault(word, len(known)) for text in texts for word in text]
    lengths = [len(text) for text in texts]
    return Corpus(np.array(found, np.int64), np.concatenate([[0], np.cumsum(lengths)]).astype(int))


def distinct_share(grams: Numbers) -> float:
    """100 x different n-grams / all n-grams (Li et al. 2016, distinct-n)."""
    return 100 * len(np.unique(grams)) / len(grams) if len(grams) else math.nan


def _before(words: Numbers) -> Numbers:
    """The place where each word was used last before, or -1."""
    order = np.argsort(words, kind="stable")
    same = np.flatnonzero(words[order[1:]] == words[order[:-1]])
    before = np.full(len(words), -1, np.int64)
    before[order[same + 1]] = order[same]
    return before


def mattr(words: Numbers, window: int = WINDOW) -> float:
    """Moving-average type-token ratio x 100: the mean, over all windows of `window` words, of
    different words / words (Covington & McFall 2010).

    Exact in one pass: a word counts in the windows that hold it and not its use before.
    """
    count = len(words) - window + 1
    if count < 1:
        return math.nan
    at = np.arange(len(words))
    first = np.maximum(at - window + 1, _before(words) + 1)
    last = np.minimum(at, count - 1)
    types = np.maximum(last - first + 1, 0).sum()
    return float(100 * types / (window * count))


def mtld(words: Numbers, threshold: float = THRESHOLD) -> float:
    """Measure of textual lexical diversity, in words (McCarthy & Jarvis 2010).

    Words / factors: a factor ends where the type-token ratio has fallen to `threshold`; the rest
    counts as (1 - ratio) / (1 - threshold) of one. Mean of the text read forwards and backwards;
    infinite, so NaN, where no word is used twice.
    """
    factors = [_factors(words, threshold), _factors(words[::-1], threshold)]
    if not len(words) or min(factors) == 0:
        return math.nan
    return float(np.mean([len(words) / one for one in factors]))


def _factors(words: Numbers, threshold: float) -> float:
    before = _before(words)
    most = threshold * np.arange(1, len(words) + 1) + 1e-9  # different words of a full factor
    start, full, look = 0, 0, LOOK
    while start < len(words):
        types = (before[start : start + look] < start).cumsum()
        low = types <= most[: len(types)]
        end = int(low.argmax())
        if low[end]:
            full, start, look = full + 1, start + end + 1, LOOK
        elif start + look < len(words):
            look *= 2  # a long factor: look further
        else:
            return full + float((1 - types[-1] / len(types)) / (1 - threshold))
    return float(full)


def compression_ratio(raw: bytes) -> float:
    """Bytes / bytes after gzip (Shaib et al. 2024): higher where texts repeat each other.

    gzip's algorithm (DEFLATE, level 6) sees 32 kB back; it falls with less text, so compare equal
    numbers of bytes.
    """
    packer = zlib.compressobj(6, zlib.DEFLATED, 31)  # 31: with gzip's header, and no date in it
    return len(raw) / len(packer.compress(raw) + packer.flush()) if raw else math.nan


class SelfBleu:
    """BLEU-4 of each text against all others, mean x 100 (Zhu et al. 2018, Texygen): higher where
    texts are alike.

    BLEU = brevity x exp(mean of log p_k, k = 1..4); p_k is the share of a text's k-grams that
    another text has, each counted at most as often as in the one other text that has most of it;
    no match counts as 0.1 (smoothing 1 of Chen & Cherry 2014), and no common word gives 0. Brevity
    is exp(1 - r / c) for a text of c words whose nearest other length r is longer. For each k-gram
    only the two largest counts matter, so all texts are scored in one pass over sorted counts.
    """

    def __init__(self, corpus: Corpus) -> None:
        self._lengths = corpus.lengths
        self._orders = [_counted(corpus.grams(n)) for n in range(1, ORDERS + 1)]

    def of(self, rows: Numbers) -> float:
        """Of some texts; those without a word are left out."""
        rows = rows[self._lengths[rows] > 0]
        if len(rows) < 2:
            return math.nan
        return float(100 * self.scores(rows).mean())

    def scores(self, rows: Numbers) -> NDArray[np.float64]:
        """BLEU (0 to 1) of each text of `rows` against the others."""
        lengths = self._lengths[rows]
        logs = np.zeros(len(rows))
        apart = np.zeros(len(rows), bool)
        for n, table in enumerate(self._orders, 1):
            matched = _matched(table, rows, len(self._lengths))
            if n == 1:
                apart = matched == 0
            share = np.where(matched > 0, matched, EPSILON) / np.maximum(lengths - n + 1, 1)
            logs += np.log(share) / ORDERS
        scores: NDArray[np.float64] = _brevity(lengths) * np.exp(logs)
        return np.where(apart, 0.0, scores)


def _counted(grams: Corpus) -> Numbers:
    """(text, n-gram, times in it) of each text's different n-grams, by n-gram, then times."""
    text = np.repeat(np.arange(len(grams)), grams.lengths)
    size = int(grams.words.max(initial=0)) + 1
    key, times = np.unique(text * size + grams.words, return_counts=True)
    table = np.stack([key // size, key % size, times])
    chosen: Numbers = table[:, np.lexsort((table[2], table[1]))]
    return chosen


def _matched(table: Numbers, rows: Numbers, count: int) -> NDArray[np.float64]:
    """How many n-grams of each text of `rows` another one has, each clipped to the most there."""
    place = np.full(count, -1)
    place[rows] = np.arange(len(rows))
    here = place[table[0]]
    text, gram, times = here[here >= 0], table[1][here >= 0], table[2][here >= 0]
    if not len(gram):
        return np.zeros(len(rows))
    last = np.append(gram[1:] != gram[:-1], True)  # the largest count of its n-gram
    ends = np.flatnonzero(last)
    most = np.repeat(times[ends], np.diff(ends, prepend=-1))
    second = np.where(np.append(False, gram[1:] == gram[:-1]), np.append(0, times[:-1]), 0)
    matched = np.bincount(text, np.minimum(times, np.where(last, second, most)), len(rows))
    return matched.astype(np.float64)


def _brevity(lengths: Numbers) -> NDArray[np.float64]:
    """BLEU's penalty for each text of two or more; the shorter of two equally near lengths."""
    order = np.argsort(lengths, kind="stable")
    ranked = lengths[order].astype(np.float64)
    down = np.append(np.inf, ranked[1:] - ranked[:-1])  # to the next shorter one
    up = np.append(ranked[1:] - ranked[:-1], np.inf)
    short = np.maximum(np.where(down <= up, 0.0, up), 0.0)
    penalty = np.empty(len(lengths))
    penalty[order] = np.exp(-short / ranked)
    return penalty


def vendi_score(vectors: NDArray[Any]) -> float:
    """exp of the entropy of the eigenvalues of K / n, K the cosine similarities of n vectors of
    unit length (Friedman & Dieng 2023): the effective number of different texts, 1 to n.

    K / n and the d x d matrix X'X / n have the same eigenvalues above 0; the smaller is taken.
    A vector of zeros (a text without a known word) is like nothing, and is left out.
    """
    there = vectors[np.abs(vectors).sum(1) > 0].astype(np.float64)
    if not len(there):
        return math.nan
    small = there.T @ there if there.shape[1] < len(there) else there @ there.T
    values = np.linalg.eigvalsh(small / len(there))
    values = values[values > 1e-12]
    return float(np.exp(-(values * np.log(values)).sum()))


def mean_distance(vectors: NDArray[Any]) -> float:
    """Mean cosine distance of each two, 1 - cosine, from 0 to 2: 1 - (|sum x|^2 - n) / (n^2 - n).

    Vectors of unit length; those of zeros are left out.
    """
    there = vectors[np.abs(vectors).sum(1) > 0].astype(np.float64)
    n = len(there)
    if n < 2:
        return math.nan
    total, own = there.sum(0), float((there * there).sum())
    return float(1 - (total @ total - own) / (n * n - n))
