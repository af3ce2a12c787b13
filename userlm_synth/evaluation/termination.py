"""Does a model leave where the person left (Table 2 and Figure 6 of "Flipping the Dialogue")?

Asked at every place of a real conversation after its first turn: the person left there, or went on.
A model leaves where `<|endconversation|>` is its most likely first token (`by` probability) or,
where its probabilities are not to be had, where it says so when it is decoded greedily (`by`
greedy). AUROC and average precision go by the end's probability and need no such threshold.
Intervals are over conversations, since places of one conversation are alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from userlm_synth.estimates import Units
from userlm_synth.evaluation.scores import Bools, Floats, Ints, Places
from userlm_synth.records import Record

NO_END_TOKEN = "the model has no end token, so termination cannot be measured"
NO_ENDS = "no conversation has an end: each closes on a turn of the user"
RANKED_SAMPLES = 300  # of the bootstrap of what goes by the ranks of all places
BLOCK = 1_000_000  # weights of places in memory at once


def with_replies(places: Places, leaves: Sequence[bool], other: Places | None = None) -> Places:
    """Places of the same conversations with what a model did when it was decoded greedily, and
    the probabilities of `other`, where they were measured."""
    if len(leaves) != len(places) or (other is not None and len(other) != len(places)):
        raise ValueError(f"{len(places)} places, and {len(leaves)} replies")
    probability = other.probability if other is not None else places.probability
    return replace(places, leaves=np.array(leaves, np.bool_), probability=probability)


def termination(
    places: Places, ids: Sequence[str], *, by: Literal["probability", "greedy"], samples: int,
    seed: int,
) -> tuple[Record | str, dict[str, Units]]:  # fmt: skip
    """The figures, x 100, and their units; or why there are none. `ids` name the conversations."""
    if places.leaves is None:
        return NO_END_TOKEN, {}
    if not places.ended.any():
        return NO_ENDS, {}
    units = _units(places, places.leaves, ids)
    named = {f"termination.{name}": one for name, one in units.items()}
    estimates = {name: one.estimate(samples=samples, seed=seed) for name, one in units.items()}
    ranked = _ranked(places, min(samples, RANKED_SAMPLES), seed)
    return {
        **estimates,
        **ranked,
        "n": len(places),
        "ends": int(places.ended.sum()),
        "by": by,
        "mean_probability_at_end": _mean(places.probability, places.ended),
        "mean_probability_elsewhere": _mean(places.probability, ~places.ended),
        "per_turn": by_turn(places, places.leaves),
    }, named


def _units(places: Places, leaves: Bools, ids: Sequence[str]) -> dict[str, Units]:
    """Precision, recall and F1, a conversation that has a place a unit."""
    (which,) = np.nonzero(np.bincount(places.owner, minlength=len(ids)))

    def count(of: Bools) -> Floats:
        return np.bincount(places.owner, of, len(ids))[which].astype(np.float64)

    hits, said, real = count(places.ended & leaves), count(leaves), count(places.ended)
    names = [ids[at] for at in which.tolist()]
    return {
        "precision": Units(names, hits, said, 100.0, count=int(said.sum())),
        "recall": Units(names, hits, real, 100.0, count=int(real.sum())),
        "f1": Units(names, 2 * hits, said + real, 100.0, count=len(places)),
    }


def by_turn(places: Places, leaves: Bools) -> list[Record]:
    """Precision, recall and F1 by the number of the user's turn."""
    found = []
    for number in np.unique(places.turn).tolist():
        at = places.turn == number
        hits = int((places.ended & leaves & at).sum())
        said, real = int((leaves & at).sum()), int((places.ended & at).sum())
        found.append(
            {
                "turn": number,
                "precision": 100 * hits / max(said, 1),
                "recall": 100 * hits / max(real, 1),
                "f1": 200 * hits / max(said + real, 1),
                "n": int(at.sum()),
                "ends": real,
            }
        )
    return found


def _ranked(places: Places, samples: int, seed: int) -> Record:
    """AUROC and average precision of the end's probability; None where there is none, or nothing
    to tell apart."""
    from sklearn.metrics import average_precision_score, roc_auc_score

    ended, probability = places.ended, places.probability
    if probability is None or ended.all():
        return {"auroc": None, "average_precision": None}
    values = [
        100 * float(measure(ended, probability))
        for measure in (roc_auc_score, average_precision_score)
    ]
    resampled = np.concatenate(
        [ranks(ended, probability, weights) for weights in _drawn(places.owner, samples, seed)], 1
    )
    return {
        name: {"value": value, "interval": _interval(100 * many, value), "n": len(ended)}
        for name, value, many in zip(("auroc", "average_precision"), values, resampled, strict=True)
    }


def ranks(ended: Bools, probability: Floats, weights: Ints) -> Floats:
    """AUROC and average precision for each row of `weights` [s, p], shape [2, s]; NaN where a row
    has no ends, or nothing else. As scikit-learn's, but the places are sorted once for all rows."""
    order = np.argsort(-probability, kind="stable")
    (last,) = np.nonzero(np.append(np.diff(probability[order]) != 0, True))  # of equal ones
    right = np.cumsum(weights[:, order] * ended[order], axis=1)[:, last].astype(np.float64)
    wrong = np.cumsum(weights[:, order] * ~ended[order], axis=1)[:, last].astype(np.float64)
    all_right, all_wrong = right[:, -1:], wrong[:, -1:]
    with np.errstate(invalid="ignore", divide="ignore"):
        more = np.diff(right, prepend=0) / all_right  # recall gained at each threshold
        above = (wrong - np.diff(wrong, prepend=0) / 2) / all_wrong  # half of those that tie
        auroc = (more * (1 - above)).sum(1)
        precision = np.nan_to_num(right / (right + wrong))
        average = np.where(all_wrong[:, 0] > 0, (more * precision).sum(1), np.nan)
    return np.stack([auroc, average])


def _drawn(owner: Ints, samples: int, seed: int) -> Iterator[Ints]:
    """How often each place is drawn where whole conversations are, [some samples, p] at a time."""
    _, at = np.unique(owner, return_inverse=True)
    n, rng = int(at.max()) + 1, np.random.default_rng(seed)
    while samples > 0:
        some = min(samples, max(1, BLOCK // len(owner)))
        yield rng.multinomial(n, np.full(n, 1 / n), size=some).astype(np.int64)[:, at]
        samples -= some


def _interval(values: Floats, value: float) -> list[float]:
    values = values[np.isfinite(values)]
    low, high = np.percentile(values, [2.5, 97.5]) if len(values) else (value, value)
    return [float(low), float(high)]


def _mean(probability: Floats | None, where: Bools) -> float | None:
    return float(probability[where].mean()) if probability is not None and where.any() else None
