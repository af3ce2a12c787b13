"""Perplexities of the arms and their ratios, with what chance could do to them.

Chance comes from two sides: other test conversations (a bootstrap over them, the arms resampled in
pairs), and other seeds (Student's t over the logarithms of the seeds' ratios). A difference counts
where both intervals exclude 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, stdev
from typing import TYPE_CHECKING

from userlm_synth.records import Record
from userlm_synth.utility.scoring import WordScores

if TYPE_CHECKING:
    from userlm_synth.estimates import Units

SAMPLES = 1000  # of the bootstrap
#: Student's t, 97.5 %, for 1 to 10 degrees of freedom; the last is on the safe side for more
T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)


def mean_perplexity(seeds: Sequence[WordScores]) -> Units:
    """exp of the loss of a word, averaged over an arm's seeds, conversation by conversation."""
    import numpy as np

    from userlm_synth.estimates import Units

    top = np.mean([one.nats for one in seeds], axis=0)
    return Units(seeds[0].ids, top, np.array(seeds[0].tokens, dtype=float), exp=True)


def perplexity(one: WordScores) -> float:
    """That of one model."""
    return mean_perplexity([one]).value


def arm_figures(seeds: Sequence[WordScores]) -> Record:
    """An arm's perplexity over its seeds, with its interval over conversations."""
    return {
        "perplexity": mean_perplexity(seeds).estimate(samples=SAMPLES, seed=0),
        "bits_per_byte": fmean(one.bits_per_byte for one in seeds),
        "words": sum(seeds[0].tokens),
        "form": seeds[0].form,
    }


def pair_figures(arm: str, beside: str, scores: dict[str, list[WordScores]]) -> Record:
    """The perplexity of `arm` over that of `beside` on the same conversations."""
    from userlm_synth.estimates import difference

    own, other = scores[arm], scores[beside]
    gap = difference(mean_perplexity(own), mean_perplexity(other), samples=SAMPLES, seed=0)
    by_seed = [
        perplexity(one) / perplexity(other[min(at, len(other) - 1)]) for at, one in enumerate(own)
    ]
    over_seeds = _over_seeds(by_seed)
    intervals = [gap["interval"], *([over_seeds] if over_seeds else [])]
    return {
        "arm": arm,
        "beside": beside,
        "ratio": gap["value"],
        "interval": gap["interval"],
        "by_seed": by_seed,
        "seed_interval": over_seeds,
        "outside": all(low > 1 for low, _ in intervals) or all(high < 1 for _, high in intervals),
    }


def _over_seeds(ratios: Sequence[float]) -> list[float] | None:
    """Where the ratio would be with other seeds, in 95 % of the cases; one seed cannot tell."""
    if len(ratios) < 2:
        return None
    logs = [math.log(one) for one in ratios]
    freedom = len(logs) - 1
    reach = T[min(freedom, len(T)) - 1] * stdev(logs) / math.sqrt(len(logs))
    return [math.exp(fmean(logs) - reach), math.exp(fmean(logs) + reach)]
