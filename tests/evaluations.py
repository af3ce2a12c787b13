"""An evaluation by numbers: any count of models on any files, as `evaluate` writes it."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from userlm_synth.estimates import Units
from userlm_synth.records import Record, to_line, write_json

N = 200
TURNS = 6
WHY = "needs a contrast: a prompted: model in the table, or evaluate.naturalness.contrast=FILE"


def one(value: float, half: float, n: int = N) -> Record:
    return {"value": value, "interval": [value - half, value + half], "n": n}


def perplexity(value: float, rng: random.Random) -> Record:
    spread = value * 0.03
    bits = one(math.log2(value) / 4.2, 0.01)
    turns = [
        {
            "turn": turn,
            **one(value * (1.6 / turn + 0.4), spread * turn, N // turn if turn < TURNS else 4),
            "tokens": 900,
        }
        for turn in range(1, TURNS + 1)
    ]
    shape = {"tokens": 12_345, "bits_per_byte": bits, "form": rng.choice(["chat", "lines"])}
    return {**one(value, spread), **shape, "per_turn": turns}


def overlaps(share: float, n: int = N) -> Record:
    return {key: one(share * k, 0.7, n) for key, k in
            (("of_turn", 1.0), ("of_intent", 0.8), ("jaccard", 0.5))}  # fmt: skip


def decomposition(share: float) -> Record:
    cumulative = [
        {
            "turn": turn,
            "of_turn": one(share * (1.1 - 0.05 * turn), 0.5 + turn / 5, N // turn),
            "of_intent": one(share * (0.8 + 0.3 * turn), 0.5 + turn / 5, N // turn),
            "jaccard": one(share * 0.5, 0.3, N // turn),
        }
        for turn in range(1, TURNS + 1)
    ]
    return {**overlaps(share), "cumulative": cumulative}


def termination(f1: float) -> Record:
    turns = [
        {
            "turn": turn,
            "precision": min(100.0, f1 + 3 * turn),
            "recall": max(0.0, f1 - 2 * turn),
            "f1": f1,
            "n": N // turn,
            "ends": N // turn // 3,
        }
        for turn in range(1, TURNS + 1)
    ]
    return {
        "precision": one(f1 + 5, 2.0, 520),
        "recall": one(f1 - 5, 2.0, 520),
        "f1": one(f1, 2.0, 520),
        "auroc": one(min(99.0, f1 + 30), 1.0, 520),
        "average_precision": None,
        "n": 520,
        "ends": 150,
        "by": "probability",
        "mean_probability_at_end": 0.41,
        "mean_probability_elsewhere": 0.07,
        "per_turn": turns,
    }


def naturalness(value: float) -> Record:
    return {
        **one(value, 1.5),
        "by": "classifier",
        "texts": "short",
        "auroc": one(97.0, 0.6, 2 * N),
        "contrast": "prompted: models of this table",
        "two_sample": {"auroc": one(150 - value, 2.0, 2 * N), "p": 0.001},
    }


def role_adherence(value: float) -> Record:
    counts = {"answered": round(N * (100 - value) / 100), "repeated_question": 3}
    return {**one(value, 1.8), **counts, "unsure": "fixed replies", "questions": "mcq.jsonl"}


def intent_adherence(value: float) -> Record:
    counts = {"refused": round(N * value / 100), "accepted": round(N * (100 - value) / 100)}
    asked = {"unclear": 2, "unsure": "fixed replies", "questions": "nq.jsonl", "judge": "judge"}
    return {**one(value, 1.8), **counts, **asked, "judge_accuracy": one(93.3, 6.0, 60)}


def model_row(label: str, file: str, at: int, kind: str = "user_lm") -> Record:
    """A row with every figure; the further down the table, the worse."""
    rng = random.Random(f"{label} {file}")
    base = 5.6 * 1.35**at
    return {
        "model": f"hf:models/{label}",
        "label": label,
        "fingerprint": f"sha256-{at:04d}",
        "kind": kind,
        "conversations": file,
        "n": N,
        "perplexity": {
            "without_intent": perplexity(base * 1.3, rng),
            "with_intent": perplexity(base, rng),
        },
        "other_forms": [],
        "gaps": {"without / with intent": {"ratio": 1.3, "interval": [1.2, 1.4], "outside": True}},
        "first_turn_diversity": one(94.5 - at, 0.4),
        "first_turn_overlap": overlaps(3.0 + at),
        "intent_decomposition": decomposition(2.7 + at),
        "termination": termination(max(6.0, 63.5 - 6 * at)),
        "naturalness": naturalness(max(1.0, 80.2 - 7 * at)),
        "role_adherence": role_adherence(94.0 - at),
        "intent_adherence": intent_adherence(94.7 - at),
        "not_measured": {},
    }


def without(row: Record, **reasons: str) -> Record:
    """A row that lacks some figures, each for its reason."""
    empty = {key: {} if key == "perplexity" else None for key in reasons}
    return {**row, **empty, "not_measured": {**row["not_measured"], **reasons}}


def human_row(file: str) -> Record:
    row = model_row("human", file, 0, "human")
    row |= {"model": "human", "fingerprint": "", "gaps": {}, "first_turn_diversity": one(94.0, 0.4)}
    row |= {"intent_decomposition": decomposition(1.7), "naturalness": naturalness(90.2)}
    row["naturalness"]["two_sample"] = None
    row = without(row, perplexity="", termination="", role_adherence="", intent_adherence="")
    return {**row, "not_measured": {}}


def make_evaluation(
    labels: Sequence[str] | int = 3, files: Sequence[str] = ("chats.jsonl",)
) -> Record:
    """An evaluation of so many models, or of models of these names."""
    if isinstance(labels, int):
        labels = [f"UserLM-{at}" for at in range(1, labels + 1)]
    results = [
        row
        for file in files
        for row in (*[model_row(one, file, at) for at, one in enumerate(labels)], human_row(file))
    ]
    counts = {"n": N, "with_intent": N - 20, "user_turns": 520, "ends": 150}
    return {
        "version": 2,
        "seed": 0,
        "definitions": {"words": "userlm_synth words 1", "stopwords": "scikit-learn 1.9.1"},
        "settings": {"first_turns": 2000, "top_p": 0.8, "judge": {"model": "judge"}},
        "conversations": [{"file": file, "hash": f"hash of {file}", **counts} for file in files],
        "results": results,
    }


def ids(count: int = N) -> list[str]:
    return [f"c{at}" for at in range(count)]


def shares(rate: float, seed: int, count: int = N, name: Sequence[str] | None = None) -> Units:
    """A share of yes among units that are easy or hard for everyone, `rate` of them in the mean."""
    hard = np.random.default_rng(99).random(count)
    own = np.random.default_rng(seed).random(count)
    hits = (0.9 * hard + 0.1 * own) < rate
    return Units(list(name or ids(count)), hits.astype(float), np.ones(count), 100.0)


def write_evaluation(
    folder: Path, evaluation: Record, units: dict[tuple[str, str], Units] | None = None
) -> Path:
    """`evaluation.json` and `units.jsonl` (figures by label and name), as `evaluate` does."""
    write_json(folder / "evaluation.json", evaluation, "evaluation")
    lines: list[dict[str, Any]] = []
    for (label, figure), some in (units or {}).items():
        row = next(row for row in evaluation["results"] if row["label"] == label)
        who = {key: row[key] for key in ("model", "label", "conversations")}
        lines.append({**who, "figure": figure, "units": some.plain()})
    if units is not None:
        (folder / "units.jsonl").write_text("".join(map(to_line, lines)), "utf-8")
    return folder
