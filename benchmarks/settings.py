"""What `end_weight` and `intent_dropout` do, on real human text: the table in docs/results.md.

    python benchmarks/settings.py coffee.jsonl.gz topical.jsonl.gz --out runs/settings

For each corpus one split, one tiny base and held-out conversations as in ablations.py; for each
seed one user LM for every setting, otherwise alike. What is there already is taken as it is.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from ablations import COMMON, CORPORA, WORDS

from userlm_synth.evaluation import evaluate
from userlm_synth.pipeline import run_recipe
from userlm_synth.recipe import Simulator, Training, load_recipe
from userlm_synth.records import read_records
from userlm_synth.training.train import train_on_turns

SETTINGS: dict[str, dict[str, Any]] = {
    "end_weight: token (default)": {},
    "end_weight: 10": {"end_weight": 10.0},
    "end_weight: 110": {"end_weight": 110.0},
    "end_weight: sample": {"end_weight": "sample"},
    "intent_dropout: 0.2": {"intent_dropout": 0.2},
}


def results(corpus: Path, seed: int, options: Training) -> list[dict]:
    """Train what is not there yet, and evaluate all on the test split."""
    out = corpus / f"seed-{seed}"
    chats = read_records(corpus / "conversations/train.jsonl", "conversation")
    models = [out / f"model-{number}" for number in range(len(SETTINGS))]
    for model, changed in zip(models, SETTINGS.values(), strict=True):
        if not model.is_dir():
            settings = replace(options, validations=0, **changed)
            base = str(corpus / "base")
            train_on_turns(base, chats, settings, model, speaker="user", seed=seed)
    path = out / "evaluation.json"
    if not path.is_file():
        test = [corpus / "conversations/test.jsonl"]
        evaluate({m.name: Simulator(str(m)) for m in models}, test, out, WORDS, seed=seed)
    found: list[dict] = json.loads(path.read_text())["results"]
    return [row for row in found if row["label"] != "human"]


def spread(values: Sequence[float], digits: int) -> str:
    """The mean of the seeds, with the least and the greatest."""
    low, high = min(values), max(values)
    return f"{mean(values):.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    lines = []
    for file in options.files:
        name = file.name.partition(".")[0]
        corpus = options.out / name
        recipe = load_recipe("coffee", [f"conversations.source={file}", *COMMON, *CORPORA[name]])
        run_recipe(recipe, corpus, ("conversations", "base"))
        started = time.monotonic()
        seeds = [results(corpus, seed, recipe.train) for seed in options.seeds]
        print(f"{corpus}: {time.monotonic() - started:.0f} s", flush=True)
        for label, found in zip(SETTINGS, zip(*seeds, strict=True), strict=True):
            cells = [
                spread([one["perplexity"][form]["value"] for one in found], 2)
                for form in ("with_intent", "without_intent")
            ]
            ends = [one["termination"] for one in found]
            cells += [
                spread([one[key]["value"] for one in ends], 1)
                for key in ("f1", "precision", "recall")
            ]
            lines.append(f"| {name} | {label} | {' | '.join(cells)} |")
    print(f"\n{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}\n")
    print("| corpus | setting | with intent | without intent | end F1 | precision | recall |")
    print("| --- " * 7 + "|")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
