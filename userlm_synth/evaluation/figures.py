"""Figures from scores, each with its 95 % bootstrap interval over conversations.

Perplexity on the user's words (Table 1 of "Flipping the Dialogue": PPL = exp(-(1/N) sum log p)),
the F1 of leaving (Table 2): at each user turn of a real conversation, a model leaves when
`<|endconversation|>` is its most likely first token; and the diversity of first turns.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from userlm_synth import metrics
from userlm_synth.evaluation.scoring import Scores
from userlm_synth.records import Record


def perplexity(scores: Scores, *, samples: int, seed: int) -> Record:
    """exp(mean loss of a user token) with its interval, and bits a byte (for other tokenizers)."""
    low, high = metrics.ratio_bootstrap(
        scores.nats, scores.tokens, samples=samples, seed=seed, transform=np.exp
    )
    return {
        "value": float(np.exp(scores.nats.sum() / scores.tokens.sum())),
        "interval": [float(low), float(high)],
        "bits_per_byte": float(scores.nats.sum() / math.log(2) / scores.bytes.sum()),
        "tokens": int(scores.tokens.sum()),
        "n": len(scores.nats),
        "form": scores.form,
    }


def gap(worse: Scores, better: Scores, *, samples: int, seed: int) -> Record:
    """The ratio of two perplexities on the same conversations, resampled in pairs."""
    rng = np.random.default_rng(seed)
    n = len(worse.nats)
    drawn = rng.multinomial(n, np.full(n, 1 / n), size=samples)
    logs = (drawn @ worse.nats) / (drawn @ worse.tokens) - (drawn @ better.nats) / (
        drawn @ better.tokens
    )
    low, high = np.exp(np.percentile(logs, [2.5, 97.5]))
    ratio = np.exp(worse.nats.sum() / worse.tokens.sum() - better.nats.sum() / better.tokens.sum())
    outside = not low <= 1.0 <= high
    return {"ratio": float(ratio), "interval": [float(low), float(high)], "outside": outside}


def termination(scores: Scores, *, samples: int, seed: int) -> Record:
    """Precision, recall and F1 (x100) of leaving, over all places where a user spoke or left."""
    ended, leaves = np.array(scores.ended), np.array(scores.leaves)
    chance, owner = np.array(scores.probability), np.array(scores.owner)
    n = len(scores.nats)
    hits = np.bincount(owner, ended & leaves, n)
    calls = np.bincount(owner, leaves, n)
    ends = np.bincount(owner, ended, n)
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(n, np.full(n, 1 / n), size=samples)
    both = drawn @ (calls + ends)
    f1s = 200 * (drawn @ hits) / np.maximum(both, 1)
    low, high = np.percentile(f1s, [2.5, 97.5])
    return {
        **metrics.binary_f1(leaves.tolist(), ended.tolist()),
        "interval": [float(low), float(high)],
        "n": len(ended),
        "ends": int(ended.sum()),
        "mean_probability_at_end": float(chance[ended].mean()) if ended.any() else 0.0,
        "mean_probability_elsewhere": float(chance[~ended].mean()) if (~ended).any() else 0.0,
    }


def first_turn_figures(turns: Sequence[str], intents: Sequence[str], seed: int) -> Record:
    """Diversity and overlap with the intent of first turns (Table 2, metrics 1 and 2)."""
    low, high = metrics.diversity_interval(turns, seed=seed)
    overlaps = [
        metrics.intent_overlap(metrics.words(turn), metrics.words(intent))
        for turn, intent in zip(turns, intents, strict=True)
    ]
    return {
        "diversity": {
            "value": metrics.first_turn_diversity(turns, seed=seed),
            "interval": [float(low), float(high)],
            "n": len(turns),
        },
        "intent_overlap": {
            key: sum(one[key] for one in overlaps) / len(overlaps) for key in overlaps[0]
        },
    }
