"""Perplexity on the user's words (Table 1 and Figure 4 of "Flipping the Dialogue").

PPL = exp(-(1/N) sum log p) over all N tokens of the user's words, given the human history; the
tokens that close a turn or a conversation are no words. Intervals are over conversations.
"""

from __future__ import annotations

import math

import numpy as np

from userlm_synth.estimates import Units, difference
from userlm_synth.evaluation.scores import Scores
from userlm_synth.records import Record


def perplexity(
    scores: Scores, *, with_intent: bool, samples: int, seed: int
) -> tuple[Record, dict[str, Units]]:
    """Perplexity, bits a byte (which compares models with other tokens) and perplexity by turn."""
    options = {"samples": samples, "seed": seed}
    way = "with_intent" if with_intent else "without_intent"
    units = {f"perplexity.{way}": word_units(scores), f"bits_per_byte.{way}": byte_units(scores)}
    words, size = units.values()
    return {
        **words.estimate(**options),
        "tokens": int(scores.tokens.sum()),
        "bits_per_byte": size.estimate(**options),
        "form": scores.form,
        "per_turn": by_turn(scores, **options),
    }, units


def word_units(scores: Scores) -> Units:
    """exp of nats a token, a conversation a unit."""
    top, bottom = scores.by_conversation(scores.nats), scores.by_conversation(scores.tokens)
    return Units(scores.ids, top, bottom, exp=True)


def byte_units(scores: Scores) -> Units:
    """Bits a byte of the text, a conversation a unit."""
    top, bottom = scores.by_conversation(scores.nats), scores.by_conversation(scores.bytes)
    return Units(scores.ids, top, bottom, scale=1 / math.log(2))


def by_turn(scores: Scores, *, samples: int, seed: int) -> list[Record]:
    """Perplexity by the number of the user's turn, over the conversations that have such a turn."""
    found = []
    for number in range(1, int(scores.turn.max(initial=0)) + 1):
        (at,) = np.nonzero((scores.turn == number) & (scores.tokens > 0))
        if len(at):
            ids = [scores.ids[owner] for owner in scores.owner[at]]
            words = Units(ids, scores.nats[at], scores.tokens[at].astype(np.float64), exp=True)
            estimate = words.estimate(samples=samples, seed=seed)
            found.append({"turn": number, **estimate, "tokens": int(scores.tokens[at].sum())})
    return found


def gap(worse: Units, better: Units, *, samples: int, seed: int) -> Record:
    """The ratio of two perplexities (`word_units`) on the conversations that both have, resampled
    in pairs; `outside`: its interval does not hold 1."""
    found = difference(worse, better, samples=samples, seed=seed)
    low, high = found["interval"]
    return {
        "ratio": found["value"],
        "interval": found["interval"],
        "outside": not low <= 1.0 <= high,
    }
