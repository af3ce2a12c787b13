"""Diversity and naturalness figures of generated dialogues beside the same figures of a reference.

Every figure is taken at equal size: n generated dialogues, n reference conversations, and n other
reference conversations. The last two, shuffled and split again and again, give the chance level:
how far apart two halves of the reference lie although nothing distinguishes them.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from userlm_synth.metrics import (
    jaccard_matrix,
    ngrams,
    ratio_bootstrap,
    style_counts,
    weighted_diversity,
    words,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LIMIT = 2000  # conversations a side, as the paper's 2,000 first turns
RESAMPLES = 1000  # of each interval
SPLITS = 200  # of the reference into two halves
COPY_LENGTH = 8  # words of a copied passage
MIN_GRAMS = 50  # fewer n-grams than this say nothing about variety

Record = dict[str, Any]
Measured = dict[str, Any]


def user_turns(record: Record) -> list[str]:
    """The texts of the human's side, in order."""
    return [message["content"] for message in record["messages"] if message["role"] == "user"]


@dataclass(frozen=True)
class Plan:
    """What is compared: `n` dialogues, `2n` reference conversations, and how these are split."""

    generated: list[Record]
    pool: list[Record]  # the first n stand beside the dialogues, the others give the chance level
    splits: NDArray[np.bool_]  # (SPLITS, 2n): True = first half; row 0 is the order of the pool
    seed: int

    @property
    def n(self) -> int:
        """Conversations a side."""
        return len(self.generated)


def make_plan(dialogues: list[Record], reference: list[Record], seed: int) -> Plan:
    """Draw equal numbers from both sides: n is what the dialogues and half the reference allow."""
    import numpy as np

    n = min(len(dialogues), len(reference) // 2, LIMIT)
    draw, rng = random.Random(f"report {seed}"), np.random.default_rng(seed)
    generated, pool = draw.sample(dialogues, n), draw.sample(reference, 2 * n)
    splits = np.tile(np.arange(2 * n) < n, (SPLITS, 1))
    splits[1:] = rng.permuted(splits[1:], axis=1)
    return Plan(generated, pool, splits, seed)


def _side(value: float, low: float, high: float) -> dict[str, float]:
    """A value and its interval, which holds it also where the resamples hardly vary."""
    return {"value": value, "low": min(low, value), "high": max(high, value)}


def _measured(generated: Record, reference: Record, differences: NDArray[Any]) -> Measured:
    """Both sides, their difference, and those that random halves of the reference show."""
    import numpy as np

    median, p95 = np.percentile(np.abs(differences), [50, 95])
    gap = generated["value"] - reference["value"]
    return {
        "generated": generated,
        "reference": reference,
        "difference": gap,
        "chance": {"median": float(median), "p95": float(p95)},
        "beyond_chance": bool(abs(gap) > p95),
    }


def ratio_figure(
    plan: Plan, count: Callable[[Record], tuple[float, float]], *, scale: float = 100
) -> Measured | None:
    """scale x sum of parts / sum of wholes over conversations; None where there is no whole."""
    import numpy as np

    made = np.array([count(record) for record in plan.generated], dtype=np.float64)
    pool = np.array([count(record) for record in plan.pool], dtype=np.float64)
    halves = [half.astype(np.float64) @ pool for half in (plan.splits, ~plan.splits)]
    if made[:, 1].sum() == 0 or min(half[:, 1].min() for half in halves) == 0:
        return None
    values = [scale * half[:, 0] / half[:, 1] for half in halves]
    return _measured(
        _ratio_side(made, scale, plan.seed),
        _ratio_side(pool[: plan.n], scale, plan.seed),
        values[0] - values[1],
    )


def _ratio_side(pairs: NDArray[Any], scale: float, seed: int) -> dict[str, float]:
    part, whole = pairs.T
    low, high = ratio_bootstrap(scale * part, whole, samples=RESAMPLES, seed=seed)
    return _side(float(scale * part.sum() / whole.sum()), low, high)


def style_figure(plan: Plan, name: str) -> Measured | None:
    """One of the plain rates of `metrics.style_rates`, over the user turns."""

    def count(record: Record) -> tuple[float, float]:
        turns = user_turns(record)
        return sum(style_counts(turn)[name] for turn in turns), len(turns)

    return ratio_figure(plan, count, scale=1 if name == "mean_words" else 100)


def diversity_figure(plan: Plan) -> Measured | None:
    """First-turn diversity (`metrics.first_turn_diversity`); intervals by weights on the pairs."""
    import numpy as np

    def side(matrix: NDArray[Any]) -> dict[str, float]:
        n = len(matrix)
        drawn = np.random.default_rng(plan.seed).multinomial(n, [1 / n] * n, RESAMPLES)
        low, high = np.nanpercentile(weighted_diversity(matrix, drawn), [2.5, 97.5])
        return _side(float(weighted_diversity(matrix, np.ones((1, n)))[0]), float(low), float(high))

    made = jaccard_matrix([user_turns(record)[0] for record in plan.generated])
    pool = jaccard_matrix([user_turns(record)[0] for record in plan.pool])
    halves = [weighted_diversity(pool, half) for half in (plan.splits, ~plan.splits)]
    return _measured(side(made), side(pool[: plan.n, : plan.n]), halves[0] - halves[1])


def numbered(texts: Sequence[Sequence[str]], n: int, known: dict[Any, int]) -> list[NDArray[Any]]:
    """The n-grams of each conversation as numbers; `known` grows with every new n-gram."""
    import numpy as np

    return [
        np.array(
            [
                known.setdefault(gram, len(known))
                for text in turns
                for gram in ngrams(words(text), n)
            ],
            dtype=np.int64,
        )
        for turns in texts
    ]


def _half_draws(
    grams: list[NDArray[Any]], budget: int, draws: int, rng: np.random.Generator
) -> NDArray[Any]:
    """distinct-n x 100 of two disjoint halves of `budget` n-grams each, `draws` times: (draws, 2).

    Halves without replacement vary as the whole would between samples (delete-half jackknife);
    a bootstrap would repeat conversations, and repeats are what distinct-n counts.
    """
    import numpy as np

    values = np.empty((draws, 2))
    for row in values:
        flat = np.concatenate([grams[at] for at in rng.permutation(len(grams))])
        row[:] = [len(np.unique(half)) for half in (flat[:budget], flat[len(flat) - budget :])]
    return values * (100 / budget)


def distinct_figure(plan: Plan, n: int) -> Measured | None:
    """distinct-n of the user turns at one number of n-grams for all sides (`budget`)."""
    import numpy as np

    known: dict[Any, int] = {}
    made = numbered([user_turns(record) for record in plan.generated], n, known)
    pool = numbered([user_turns(record) for record in plan.pool], n, known)
    sizes = np.array([len(grams) for grams in pool])
    totals = [plan.splits @ sizes, ~plan.splits @ sizes]
    budget = int(min(sum(map(len, made)), totals[0].min(), totals[1].min()) // 2)
    if budget < MIN_GRAMS:
        return None
    rng = np.random.default_rng(plan.seed)

    def side(grams: list[NDArray[Any]]) -> dict[str, float]:
        draws = _half_draws(grams, budget, RESAMPLES // 5, rng)
        low, high = np.percentile(draws, [2.5, 97.5])
        return _side(float(draws.mean()), float(low), float(high))

    def gap(split: NDArray[Any]) -> float:
        halves = [[pool[at] for at in np.flatnonzero(part)] for part in (split, ~split)]
        left, right = (_half_draws(half, budget, 1, rng).mean() for half in halves)
        return float(left - right)

    figure = _measured(
        side(made), side(pool[: plan.n]), np.array([gap(split) for split in plan.splits])
    )
    return {**figure, "budget": budget}


def copied_figure(plan: Plan) -> Measured | None:
    """Share of 8-grams of user turns that n other reference conversations hold too, x 100."""
    import numpy as np

    known: dict[Any, int] = {}
    pool = numbered([user_turns(record) for record in plan.pool], COPY_LENGTH, known)
    made = numbered([user_turns(record) for record in plan.generated], COPY_LENGTH, known)

    def pairs(texts: list[NDArray[Any]], others: list[NDArray[Any]]) -> NDArray[Any]:
        there = np.zeros(len(known), dtype=bool)
        there[np.concatenate(others)] = True
        return np.array([(there[grams].sum(), len(grams)) for grams in texts], dtype=np.float64)

    flat = np.concatenate(pool)
    owner = np.repeat(np.arange(len(pool)), [len(grams) for grams in pool])
    differences = []
    for split in plan.splits:
        first = split[owner]
        if first.all() or not first.any():
            return None
        found = [np.isin(flat[part], flat[~part]).mean() for part in (first, ~first)]
        differences.append(100 * (found[0] - found[1]))
    beside, others = pool[: plan.n], pool[plan.n :]
    sides = [pairs(made, others), pairs(beside, others)]
    if any(side[:, 1].sum() == 0 for side in sides):
        return None
    return _measured(
        _ratio_side(sides[0], 100, plan.seed),
        _ratio_side(sides[1], 100, plan.seed),
        np.array(differences),
    )


def repeated(records: list[Record]) -> list[bool]:
    """True for each conversation whose user side, word for word, another one of the list has."""
    sides = [tuple(user_turns(record)) for record in records]
    counts: dict[tuple[str, ...], int] = {}
    for side in sides:
        counts[side] = counts.get(side, 0) + 1
    return [counts[side] > 1 for side in sides]


def duplicate_figure(plan: Plan) -> Measured | None:
    """Share of conversations whose user side occurs again in the sample of n, x 100."""
    import numpy as np

    def pairs(records: list[Record]) -> NDArray[Any]:
        return np.array([(twin, 1) for twin in repeated(records)], dtype=np.float64)

    gaps = []
    for split in plan.splits:
        halves = [[plan.pool[at] for at in np.flatnonzero(part)] for part in (split, ~split)]
        left, right = (100 * sum(repeated(half)) / plan.n for half in halves)
        gaps.append(left - right)
    return _measured(
        _ratio_side(pairs(plan.generated), 100, plan.seed),
        _ratio_side(pairs(plan.pool[: plan.n]), 100, plan.seed),
        np.array(gaps),
    )
