"""What was made, over all records: counts, lengths, models, tokens, guardrails."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from typing import Any

from userlm_synth.metrics import words
from userlm_synth.reporting.figures import Record, user_turns

Bins = list[tuple[int, int | None]]  # (low, high), both included; high None = no upper end
TURN_BINS: Bins = [*((at, at) for at in range(1, 10)), (10, None)]
WORD_BINS: Bins = [(0, 2), (3, 5), (6, 10), (11, 25), (26, 50), (51, 100), (101, None)]


def make_shape(
    dialogues: list[Record], rejected: list[Record], reference: list[Record]
) -> dict[str, Any]:
    """The `shape` of a report; every record counts, none is sampled."""
    sides = {"generated": dialogues, "reference": reference}
    user_words = {side: _lengths(records, "user") for side, records in sides.items()}
    turns = {side: [len(user_turns(r)) for r in records] for side, records in sides.items()}
    return {
        "accepted": len(dialogues),
        "rejected": {
            "total": len(rejected),
            "by_reason": counted(str(record.get("reason", "unknown")) for record in rejected),
        },
        "reference": len(reference),
        "stop_reasons": counted(record["stop_reason"] for record in dialogues),
        "user_turns": {
            "bins": _labels(TURN_BINS),
            **{side: histogram(values, TURN_BINS) for side, values in turns.items()},
        },
        "words_per_user_turn": {
            "bins": _labels(WORD_BINS),
            **{side: histogram(values, WORD_BINS) for side, values in user_words.items()},
        },
        "words": {
            "user": {side: spread(values) for side, values in user_words.items()},
            "assistant": {
                side: spread(_lengths(records, "assistant")) for side, records in sides.items()
            },
        },
        "models": {
            side: counted(model_name(record.get(f"{side}_model")) for record in dialogues)
            for side in ("user", "assistant")
        },
        "recipes": counted(str(record.get("recipe_hash") or "unknown") for record in dialogues),
        "tokens": {"accepted": _tokens(dialogues), "rejected": _tokens(rejected)},
        "distinct_intents": len({record["intent_id"] for record in dialogues}),
        "guardrails": summed(record.get("guardrails") for record in dialogues),
        "end_probability": _end_probability(dialogues),
    }


def model_name(model: Any) -> str:
    """A model as one line: a string as it is, a mapping as its values joined by ``@``."""
    if isinstance(model, dict):
        return "@".join(str(value) for value in model.values() if value) or "unknown"
    return str(model) if model else "unknown"


def counted(values: Iterable[str]) -> dict[str, int]:
    """How often each value occurs, most frequent first, ties by name."""
    return dict(sorted(Counter(values).items(), key=lambda item: (-item[1], item[0])))


def summed(mappings: Iterable[dict[str, Any] | None]) -> dict[str, int]:
    """The sum of each key over mappings of counts."""
    total: Counter[str] = Counter()
    for mapping in mappings:
        total.update({key: int(value or 0) for key, value in (mapping or {}).items()})
    return dict(sorted(total.items()))


def histogram(values: list[int], bins: Bins) -> list[int]:
    """How many values lie in each bin."""
    return [
        sum(1 for value in values if value >= low and (high is None or value <= high))
        for low, high in bins
    ]


def _labels(bins: Bins) -> list[str]:
    return [
        f"{low}+" if high is None else str(low) if low == high else f"{low}\u2013{high}"
        for low, high in bins
    ]


def _lengths(records: list[Record], role: str) -> list[int]:
    return [
        len(words(message["content"]))
        for record in records
        for message in record["messages"]
        if message["role"] == role
    ]


def spread(values: list[int]) -> dict[str, float | int | None]:
    """Number of turns, and mean, median and 90th percentile of their words (None without turns)."""
    import numpy as np

    if not values:
        return {"turns": 0, "mean": None, "median": None, "p90": None}
    median, p90 = np.percentile(values, [50, 90])
    mean = float(np.mean(values))
    return {"turns": len(values), "mean": mean, "median": float(median), "p90": float(p90)}


def _tokens(records: list[Record]) -> dict[str, dict[str, int]]:
    sides = {}
    for side in ("user", "assistant"):
        total = summed((record.get("usage") or {}).get(side) for record in records)
        sides[side] = {key: total.get(key, 0) for key in ("prompt_tokens", "completion_tokens")}
    return sides


def _mean(values: list[float]) -> dict[str, float | int | None]:
    return {"turns": len(values), "mean": sum(values) / len(values) if values else None}


def _end_probability(dialogues: list[Record]) -> dict[str, Any]:
    """Mean end probability at the last user turn of a dialogue and at its earlier ones."""
    last: list[float] = []
    earlier: list[float] = []
    for dialogue in dialogues:
        for back, value in enumerate(reversed(dialogue.get("end_probabilities") or [])):
            if value is not None and math.isfinite(value):
                (earlier if back else last).append(float(value))
    return {"last_user_turn": _mean(last), "earlier_user_turns": _mean(earlier)}
