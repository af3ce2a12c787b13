"""Diversity: the figures of the sample, and the parts over all dialogues, beside people.

Every figure is taken at one size for all sides: as many conversations, and where the number of
words or bytes matters, as many of these (`budget`, of each half that is measured).
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from userlm_synth.conversations.openings import user_words
from userlm_synth.metrics import jaccard_matrix, weighted_diversity, words
from userlm_synth.records import Record
from userlm_synth.reporting.diversity import lexical
from userlm_synth.reporting.diversity.alike import Prints, alike, recurring, text_hash
from userlm_synth.reporting.diversity.clusters import topics
from userlm_synth.reporting.diversity.copies import Copies, opening_of
from userlm_synth.reporting.diversity.lexical import Corpus, SelfBleu
from userlm_synth.reporting.diversity.repeats import Repeats
from userlm_synth.reporting.plan import (
    RESAMPLES,
    Definition,
    Measured,
    Plan,
    Side,
    halved_figure,
    side,
    sides,
    turns,
)

MOST_WORDS = 1000  # of a conversation, so that no long paste stands for the whole set
FIRST_WORDS = 200  # of a first user turn, for self-BLEU
CHARACTERS = 8 * MOST_WORDS  # read of a conversation's user turns
FEWEST_WORDS, ENOUGH_WORDS = 50, 50_000  # of a half; more make a figure slow, not better
FEWEST_BYTES, ENOUGH_BYTES = 500, 100_000

Rows = NDArray[np.int64]
Function = Callable[[Any], float]


# ---- what the figures share ----------------------------------------------------------------------


def _rows(plan: Plan) -> tuple[Rows, Rows, Rows]:
    """The rows of made, people and others in a table of all three."""
    made, people, _ = np.split(np.arange(plan.n + len(plan.pool)), [plan.n, 2 * plan.n])
    return made, people, np.arange(2 * plan.n, plan.n + len(plan.pool))


def _everyone(plan: Plan) -> list[Record]:
    return [*plan.made, *plan.pool]


def _measured_alike(plan: Plan) -> list[Record]:
    """Whoever is cut to one budget: everyone, and the set that is compared."""
    return [*_everyone(plan), *plan.beside]


def _first_turns(records: list[Record]) -> list[str]:
    return [next(iter(turns(record)), "") for record in records]


@functools.lru_cache(maxsize=2)  # of the sets that are reported together
def _said(plan: Plan) -> Corpus:
    """The words of each conversation's user turns, made, people, others, beside."""
    texts = ("\n".join(turns(record))[:CHARACTERS] for record in _measured_alike(plan))
    return lexical.encode([words(text)[:MOST_WORDS] for text in texts])


def _value(number: float) -> float | None:
    return float(number) if np.isfinite(number) else None


def _by_rows(plan: Plan, statistic: Callable[[Rows], float], why: str) -> Measured | str:
    """A figure of a statistic of rows; `why` says what is missing where it is not a number."""
    made, people, others = _rows(plan)
    if _value(statistic(made)) is None:
        return why
    return halved_figure(plan, lambda rows: _value(statistic(rows)), items=(made, people, others))


def _at_budget(
    plan: Plan,
    sizes: Rows,
    statistic: Callable[[Rows, int], float],
    limits: tuple[int, int],
    of: str,
) -> Measured | str:
    """A figure of `statistic(rows, budget)`: each half is cut to what the smallest half holds, that
    of a set it is compared with too."""
    fewest, enough = limits
    smallest = [enough]

    def measure(rows: Rows) -> float:  # the same halves, as they come of the plan's seed
        smallest[0] = min(smallest[0], int(sizes[rows].sum()))
        return float(smallest[0])

    made, people, others = _rows(plan)
    found = halved_figure(plan, measure, items=(made, people, others))
    if len(plan.beside):
        beside = np.arange(len(sizes) - len(plan.beside), len(sizes))
        halved_figure(plan, measure, items=(beside, people, others))
    budget = smallest[0]
    if isinstance(found, str):
        return found
    if budget < fewest:
        return f"needs {fewest} {of} in each half of the conversations; the smallest has {budget}"
    figure = _by_rows(plan, lambda rows: statistic(rows, budget), "no word is used twice")
    return figure if isinstance(figure, str) else {**figure, "budget": budget}


# ---- the figures ---------------------------------------------------------------------------------


def first_turns(plan: Plan) -> Measured | str:
    """First-turn diversity; intervals by weights on the pairs (`metrics.weighted_diversity`)."""
    if plan.n < 2:
        return "needs 2 conversations a side"
    first = _first_turns(plan.made)
    if not any(words(text) for text in first):
        return "no first turn has a word"
    made = _diversity_side(jaccard_matrix(first), plan.seed)
    if not plan.people:
        return sides(made, None, None, plan.n)
    pool = jaccard_matrix(_first_turns(plan.pool))
    halves = [weighted_diversity(pool, half) for half in (plan.splits, ~plan.splits)]
    people = _diversity_side(pool[: plan.n, : plan.n], plan.seed)
    return sides(made, people, halves[0] - halves[1], plan.n)


def _diversity_side(matrix: NDArray[Any], seed: int) -> Side:
    n = len(matrix)
    weights = np.ones((RESAMPLES + 1, n), np.float32)
    weights[1:] = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), RESAMPLES)
    value, *drawn = weighted_diversity(matrix, weights)
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    return side(max(0.0, value), max(0.0, low), max(0.0, high))  # -0.0000001 is rounding


def _of_words(plan: Plan, function: Function, n: int = 1) -> Measured | str:
    """A figure of the words (n-grams) of each half in a row."""
    grams = _said(plan).grams(n)

    def statistic(rows: Rows, budget: int) -> float:
        return function(grams.stream(rows)[:budget])

    return _at_budget(plan, grams.lengths, statistic, (FEWEST_WORDS, ENOUGH_WORDS), "words")


def compression(plan: Plan) -> Measured | str:
    """Compression ratio of the user turns of each half, at one number of bytes."""
    raw = [
        ("\n".join(turns(record))[:CHARACTERS] + "\n").encode("utf-8", "replace")
        for record in _measured_alike(plan)
    ]

    def statistic(rows: Rows, budget: int) -> float:
        joined = b"".join(raw[row] for row in rows.tolist())
        return lexical.compression_ratio(joined[:budget])

    sizes = np.array([len(one) for one in raw], np.int64)
    return _at_budget(plan, sizes, statistic, (FEWEST_BYTES, ENOUGH_BYTES), "bytes")


def self_bleu(plan: Plan) -> Measured | str:
    """Self-BLEU of the first user turns."""
    first = _first_turns(_everyone(plan))
    score = SelfBleu(lexical.encode([words(t[:CHARACTERS])[:FIRST_WORDS] for t in first]))
    return _by_rows(plan, score.of, "needs two first turns with words")


def _of_vectors(plan: Plan, function: Function) -> Measured | str:
    """A figure of the embeddings of each half."""
    if plan.vectors is None:
        return "there are no vectors"
    if np.isnan(function(plan.vectors.made)):
        return "needs two dialogues with words"
    items = (plan.vectors.made, plan.vectors.people, plan.vectors.others)
    return halved_figure(plan, lambda vectors: _value(function(vectors)), items=items)


def _shared(plan: Plan, labels: Rows) -> Measured | str:
    """100 x the share of conversations with a label that another one of the half has too."""
    return _by_rows(plan, lambda rows: 100 * float(recurring(labels[rows]).mean()), "")


def near_duplicates(plan: Plan) -> Measured | str:
    """Share of a half that is identical to, or nearly, another of that half."""
    everyone = _everyone(plan)
    exact = [text_hash("\0".join(turns(record))) for record in everyone]
    prints = Prints.of(exact, [user_words(record, 1)[0] for record in everyone])
    return _shared(plan, alike(prints).group)


def repeated(plan: Plan) -> Measured | str:
    """Share of a half whose user turns are, word for word, those of another of that half."""
    sides_of = [text_hash("\0".join(turns(record))) for record in _everyone(plan)]
    return _shared(plan, np.unique(sides_of, return_inverse=True)[1])


def openings(plan: Plan) -> Measured | str:
    """Share of a half that opens with the same 4 words as another of that half."""
    found = [opening_of(text) for text in _first_turns(_everyone(plan))]
    if not any(found[: plan.n]):
        return "no first turn has a word"
    known: dict[str, int] = {}
    # no word, no opening: each stands alone
    numbers = [known.setdefault(one or f"\0{at}", at) for at, one in enumerate(found)]
    return _shared(plan, np.array(numbers, np.int64))


_defined = partial(Definition, "diversity")


DEFINITIONS: list[Definition] = [
    _defined(
        "first_turn_diversity",
        "%",
        "First-turn diversity",
        "How different the words of each two first user turns are: 100 x (1 - mean Jaccard index). "
        "Higher is more varied.",
        "arXiv 2510.06552, Table 2, metric 1",
        first_turns,
    ),
    _defined(
        "self_bleu",
        "of 100",
        "Self-BLEU",
        "How much of each first user turn (1 to 4 words in a row) stands in the others. "
        "Lower is more varied.",
        "Zhu et al. 2018 (Texygen), BLEU-4, smoothing 1 of Chen & Cherry 2014",
        self_bleu,
    ),
    _defined(
        "distinct_1",
        "%",
        "Distinct words",
        "Different words of the user turns / all of them, at one number of words for all sides.",
        "Li et al. 2016, distinct-1",
        partial(_of_words, function=lexical.distinct_share),
    ),
    _defined(
        "distinct_2",
        "%",
        "Distinct word pairs",
        "Different pairs of neighbouring words / all of them, at one number of pairs.",
        "Li et al. 2016, distinct-2",
        partial(_of_words, function=lexical.distinct_share, n=2),
    ),
    _defined(
        "mattr",
        "%",
        "Moving type-token ratio",
        "Different words / words in every 50 words in a row of the user turns, mean. "
        "Higher is more varied.",
        "MATTR, Covington & McFall 2010, window 50; conversations one after the other",
        partial(_of_words, function=lexical.mattr),
    ),
    _defined(
        "mtld",
        "words",
        "Lexical diversity (MTLD)",
        "How many words in a row keep 72 different ones in 100, mean. Higher is more varied.",
        "MTLD, McCarthy & Jarvis 2010, threshold 0.72, both directions; conversations one after "
        "the other",
        partial(_of_words, function=lexical.mtld),
    ),
    _defined(
        "compression_ratio",
        "x",
        "Compression ratio",
        "By how much gzip makes the user turns smaller, at one number of bytes. "
        "Lower is more varied.",
        "Shaib et al. 2024 (arXiv 2403.00553)",
        compression,
    ),
    _defined(
        "vendi_score",
        "dialogues",
        "Vendi score",
        "How many entirely different dialogues would be as varied as one half of the sample. "
        "Higher is more varied.",
        "Friedman & Dieng 2023, cosine of the embeddings",
        partial(_of_vectors, function=lexical.vendi_score),
    ),
    _defined(
        "mean_distance",
        "of 1",
        "Mean distance",
        "1 - cosine of the embeddings of each two dialogues, mean. Higher is more varied.",
        "mean pairwise cosine distance",
        partial(_of_vectors, function=lexical.mean_distance),
    ),
    _defined(
        "near_duplicates",
        "%",
        "Near-duplicates",
        "Dialogues of one half of the sample whose user says (nearly) the same as in another of "
        "that half.",
        "MinHash (Broder 1997) of word 3-grams, Jaccard index of 0.8 or more, estimated",
        near_duplicates,
    ),
    _defined(
        "duplicates",
        "%",
        "Repeated dialogues",
        "Dialogues of one half of the sample whose user turns occur again, word for word, in it.",
        "share of conversations",
        repeated,
    ),
    _defined(
        "recurring_openings",
        "%",
        "Openings that recur",
        "Dialogues of one half of the sample that open with the same 4 words as another of it.",
        "share of conversations",
        openings,
    ),
]


# ---- over all dialogues --------------------------------------------------------------------------


def tallies() -> dict[str, Callable[[], Any]]:
    """What is counted over all dialogues: {name: makes the tally}."""
    return {"copies": Copies, "repeats": Repeats}


def details(plan: Plan, counted: Mapping[str, Any]) -> Record:
    """The parts of a set beside its figures, from the plan and the merged `tallies()`::

        {"openings": Copies.openings, each with "people_share": % | null,
         "topics": clusters.topics, "per_intent": Repeats._per_intent,
         "repetitions": Repeats._repetitions, "near_duplicates": Copies.near_duplicates}

    The people's share of an opening is over all reference conversations of the plan.
    """
    copies = counted["copies"].result()
    people = Counter(opening_of(text) for text in _first_turns(plan.pool))
    for one in copies["openings"]:
        share = 100 * people[one["words"]] / len(plan.pool) if plan.pool else None
        one["people_share"] = share
    return {
        "openings": copies["openings"],
        "topics": topics(plan),
        **counted["repeats"].result(),
        "near_duplicates": copies["near_duplicates"],
    }
