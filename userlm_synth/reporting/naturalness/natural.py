"""The naturalness figures: how much the user's side of the dialogues looks like people's.

`definitions` lists them in the order of the page; `DEFINITIONS` are those that need nothing named.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from userlm_synth.naturalness.detectors import judge_texts
from userlm_synth.records import Record
from userlm_synth.reporting.naturalness import style
from userlm_synth.reporting.naturalness.apart import (
    beside_or_alone,
    classifier_figure,
    lack,
    least_natural,
)
from userlm_synth.reporting.naturalness.frechet import Gaussian, distance, frechet, reduced
from userlm_synth.reporting.naturalness.mauve import clusters_of, histogram, mauve, quantise
from userlm_synth.reporting.plan import (
    Definition,
    Floats,
    Measured,
    Plan,
    Side,
    between,
    ratio_figure,
    side,
    user_text,
)

__all__ = ["DEFINITIONS", "definitions", "least_natural"]

HALVES = 40  # draws of halves for an interval
Ints = NDArray[np.int64]

NO_DETECTOR = "no detector was named"
NO_VECTORS = "the texts have no words to embed"
NOTHING_ENGLISH = "no dialogue is in English, which the dictionary is of"
NO_INTENT = "no dialogue has an intent that its user tells"


# ---- distances between two sets of vectors -------------------------------------------------------


def _vectors(plan: Plan) -> tuple[Floats, Floats, Floats] | str:
    """The three sides' vectors, or why there are none to compare."""
    if why := lack(plan):
        return why
    if plan.vectors is None:
        return NO_VECTORS
    made, people, others = plan.vectors.made, plan.vectors.people, plan.vectors.others
    if not made.any() or not people.any() or not others.any():
        return NO_VECTORS
    return made.astype(np.float64), people.astype(np.float64), others.astype(np.float64)


def _jackknifed(value: float, n: int, seed: int, of_halves: Callable[..., float]) -> Side:
    """A value, with the spread that halves of both sides have about their own mean.

    Halves without replacement vary as the whole does between samples (delete-half jackknife), but
    lie elsewhere where a statistic depends on n: only their spread is taken. `of_halves` gets the
    places of one half of each side.
    """
    rng = np.random.default_rng(seed)
    draws = [
        of_halves(rng.permutation(n)[: n // 2], rng.permutation(n)[: n // 2]) for _ in range(HALVES)
    ]
    low, high = value + np.percentile(draws, [2.5, 97.5]) - np.mean(draws)
    return side(value, max(low, 0.0), high)


def _floor(values: list[float]) -> Side:
    """People against other people: the mean over splits of all of them, and 95 % of the splits."""
    low, high = np.percentile(values, [2.5, 97.5])
    return side(float(np.mean(values)), low, high)


def mauve_figure(plan: Plan) -> Measured | str:
    """MAUVE x 100; k-means once for the set with people, once for people with others."""
    vectors = _vectors(plan)
    if isinstance(vectors, str):
        return vectors
    made, people, others = vectors
    n, k = plan.n, clusters_of(plan.n)
    found = quantise(np.concatenate([made, people]), k, plan.seed)
    pool = quantise(np.concatenate([people, others]), k, plan.seed)

    def score(one: Ints, other: Ints) -> float:
        return mauve(histogram(one, k), histogram(other, k))

    mine, theirs = found[:n], found[n:]
    one = _jackknifed(score(mine, theirs), n, plan.seed, lambda a, b: score(mine[a], theirs[b]))
    one["high"] = min(one["high"], 100.0)
    floor = _floor([score(pool[split], pool[~split]) for split in plan.splits])
    return between(one, floor, n, beyond=one["value"] < floor["low"], clusters=k)


def frechet_figure(plan: Plan) -> Measured | str:
    """100 x the squared Frechet distance, on the first principal components of all vectors."""
    vectors = _vectors(plan)
    if isinstance(vectors, str):
        return vectors
    n = plan.n
    rows = reduced(np.concatenate(vectors))
    made, people, pool = rows[:n], rows[n : 2 * n], rows[n:]
    value = distance(Gaussian.of(made), Gaussian.of(people))
    one = _jackknifed(100 * value, n, plan.seed, lambda a, b: 100 * frechet(made[a], people[b]))
    splits = plan.splits[:HALVES]
    floor = _floor([100 * frechet(pool[split], pool[~split]) for split in splits])
    dimensions = int(rows.shape[1])
    return between(one, floor, n, beyond=one["value"] > floor["high"], dimensions=dimensions)


# ---- figures of either side ----------------------------------------------------------------------


def detector_figure(
    plan: Plan, detector: str | None, human_label: str | None, kept: Path | None
) -> Measured | str:
    """100 x mean P(human) of the user turns together, by a detector from elsewhere."""
    if not detector:
        return NO_DETECTOR
    texts = [text for record in (*plan.made, *plan.pool) if (text := user_text(record)).strip()]
    if not texts:
        return "the texts are empty"
    with nullcontext(kept) if kept else tempfile.TemporaryDirectory() as folder:
        judged = judge_texts(detector, texts, human_label, Path(folder))

    def score(record: Record) -> tuple[float, float]:
        found = judged.scores.get(user_text(record))
        return (0.0, 0.0) if found is None else (found, 1.0)

    figure = ratio_figure(plan, score)
    return figure if isinstance(figure, str) else {**figure, "detector": judged.name}


def dictionary_figure(plan: Plan) -> Measured | str:
    """Words that simplemma's English dictionary lacks; the language is told once a record."""
    counts = {id(one): style.unknown_words(one) for one in (*plan.made, *plan.pool)}
    if not any(counts[id(one)][1] for one in plan.made):
        return NOTHING_ENGLISH
    return ratio_figure(plan, lambda record: counts[id(record)])


def front_loading_figure(plan: Plan) -> Measured | str:
    """Front-loading beside people's, or alone where theirs have no intents."""
    if not any(style.front_loading(record)[1] for record in plan.made):
        return NO_INTENT
    return beside_or_alone(plan, style.front_loading)


# ---- the list ------------------------------------------------------------------------------------

#: key, name, what it is, what is counted.
MARKS: list[tuple[str, str, str, Callable[[str], bool]]] = [
    (
        "starts_with_capital",
        "Starts with a capital",
        "User turns whose first character is an upper-case letter.",
        style.starts_with_capital,
    ),
    (
        "ends_with_stop",
        "Ends in . ! or ?",
        "User turns whose last character is one of these.",
        style.ends_with_stop,
    ),
    (
        "all_lower_case",
        "All lower case",
        "User turns with letters, none of them upper-case.",
        style.all_lower_case,
    ),
    (
        "has_question_mark",
        "Has a question mark",
        "User turns with a ? anywhere.",
        style.has_question_mark,
    ),
    (
        "has_exclamation",
        "Has an exclamation mark",
        "User turns with a ! anywhere.",
        style.has_exclamation,
    ),
    (
        "has_politeness",
        "Says please or thanks",
        "User turns with please, thanks or thank you.",
        style.is_polite,
    ),
    ("has_emoji", "Has an emoji", "User turns with an emoji.", style.has_emoji),
]
SHARE_OF_TURNS = "user turns with the mark / all user turns"


_define = partial(Definition, "naturalness")


def definitions(
    detector: str | None = None, human_label: str | None = None, kept: Path | None = None
) -> list[Definition]:
    """The naturalness figures. `detector`: a Hub id, a folder or pangram; what it says is kept in
    the folder `kept`, or nowhere; `human_label` where its labels do not say which one is human."""
    ask = partial(detector_figure, detector=detector, human_label=human_label, kept=kept)
    return [
        _define(
            "classifier",
            "AUROC",
            "Told from people by a classifier",
            "How often a classifier orders a pair of a person's user turns and a dialogue's right; "
            "50: it cannot tell, 100: always.",
            "Classifier two-sample test, Lopez-Paz & Oquab 2017, arXiv 1610.06545; 100 x AUROC of "
            "character n-grams, words and marks of style in logistic regression, on the "
            "first 800 characters of texts that the model did not see; p by permutation",
            classifier_figure,
        ),
        _define(
            "mauve",
            "",
            "MAUVE",
            "How well the two sets cover each other on the embeddings; 100: nothing tells them "
            "apart.",
            "Pillutla et al. 2021, arXiv 2102.01454: 100 x the area under the divergence curve, "
            "scaling 5, n / 10 clusters by k-means; on this report's embeddings, so not to be "
            "compared with published scores",
            mauve_figure,
        ),
        _define(
            "frechet",
            "x 100",
            "Frechet distance",
            "How far the embeddings' means and covariances lie apart; 0: they are equal.",
            "Heusel et al. 2017, arXiv 1706.08500: |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)), "
            "x 100, on at most 128 principal components of this report's embeddings",
            frechet_figure,
        ),
        _define(
            "detector",
            "%",
            "Human, says a detector",
            "Mean probability that a person wrote the user turns, by the detector that was named.",
            "100 x mean P(human) over conversations",
            ask,
        ),
        *(
            _define(key, "%", name, text, SHARE_OF_TURNS, _marked(mark))
            for key, name, text, mark in MARKS
        ),
        _define(
            "unknown_words",
            "%",
            "Words not in the dictionary (typos, names)",
            "Words of English user turns that simplemma's English dictionary lacks.",
            "words not known / words of 2 letters or more without digits; simplemma",
            dictionary_figure,
        ),
        _define(
            "words_per_user_turn",
            "words",
            "Words per user turn",
            "Mean number of words of a user turn.",
            "words of user turns / user turns",
            _counted(style.words_per_turn),
        ),
        _define(
            "user_turns",
            "turns",
            "User turns per dialogue",
            "Mean number of user turns.",
            "user turns / dialogues",
            _counted(style.turns_per_dialogue),
        ),
        _define(
            "front_loading",
            "%",
            "Intent told in the first turn",
            "Of the intent's words that the user ever tells, the share told in the first turn.",
            "different words of the intent in the first user turn / in any user turn; dictionary "
            "forms, without stopwords; after the paper's intent decomposition, arXiv 2510.06552",
            front_loading_figure,
        ),
    ]


def _marked(mark: Callable[[str], bool]) -> Callable[[Plan], Measured | str]:
    return partial(ratio_figure, count=style.turns_with(mark))


def _counted(count: style.Count) -> Callable[[Plan], Measured | str]:
    return partial(ratio_figure, count=count, scale=1)


DEFINITIONS = definitions()
