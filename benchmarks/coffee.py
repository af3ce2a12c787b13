"""The main job on real human text: the table in docs/results.md.

    python benchmarks/coffee.py coffee.jsonl.gz --out runs/coffee [--seeds 0 1 2]

Trains a tiny base and a user LM with `recipes/coffee.yaml`, for each seed and for two splits (by
conversation, and with whole scenarios held out), and prints the held-out figures as Markdown. The
seed draws the split, the initial weights and the order of the data. A run that is there already is
taken as it is.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from pathlib import Path

import torch

from userlm_synth.pipeline import run_recipe
from userlm_synth.recipe import load_recipe

SPLITS = {
    "conversation": ["conversations.split_by=conversation"],
    "scenario": [
        "conversations.split_by=metadata.scenario",
        "conversations.train=0.7",
        "conversations.validation=0.1",
        "conversations.test=0.2",
    ],
}
STAGES = ("conversations", "base", "user_lm", "evaluation")


def figure(one: dict, digits: int = 2) -> str:
    low, high = one["interval"]
    return f"{one['value']:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    rows = []
    for split, overrides in SPLITS.items():
        for seed in options.seeds:
            settings = [f"conversations.source={options.source}", f"seed={seed}", *overrides]
            out = options.out / f"{split}-{seed}"
            started = time.monotonic()
            run_recipe(load_recipe("coffee", [*settings, *options.set]), out, STAGES)
            print(f"{out}: {time.monotonic() - started:.0f} s", flush=True)
            rows.append((split, seed, out))
    print(f"\n{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}\n")
    head = "held out | seed | test | base, best form | user LM, no intent | user LM, intent"
    print(f"| {head} | gaps | end F1 | train s |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for split, seed, out in rows:
        evaluation = json.loads((out / "evaluation/evaluation.json").read_text())
        stages = json.loads((out / "manifest.json").read_text())["stages"]
        base, user = evaluation["results"]
        best = min(base["perplexity"].items(), key=lambda pair: pair[1]["value"])
        without, with_intent = (user["perplexity"][k] for k in ("without_intent", "with_intent"))
        gaps = user["gaps"]
        label = "with" if best[0] == "with_intent" else "without"
        against = next(v for k, v in gaps.items() if k.endswith(f"this, {label} intent"))
        clear = against["outside"] and gaps["without / with intent"]["outside"]
        ordered = best[1]["interval"][0] > without["interval"][1] > 0
        ordered &= without["interval"][0] > with_intent["interval"][1]
        f1 = {**user["termination"], "value": user["termination"]["f1"]}
        seconds = stages["base"]["seconds"] + stages["user_lm"]["seconds"]
        print(
            f"| {split} | {seed} | {user['n']} | {figure(best[1])} ({best[1]['form']}, "
            f"{best[0].replace('_', ' ')}) | {figure(without)} | {figure(with_intent)} | "
            f"{'outside' if clear and ordered else 'NOT outside'} | {figure(f1, 1)} | "
            f"{seconds:.0f} |"
        )


if __name__ == "__main__":
    main()
