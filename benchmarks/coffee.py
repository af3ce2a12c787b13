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
WITHOUT_WITH = "without / with intent"
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
    print(f"| {head} | base / no intent | no intent / intent | end F1 | train s |")
    print("| --- " * 10 + "|")
    for split, seed, out in rows:
        evaluation = json.loads((out / "evaluation/evaluation.json").read_text())
        manifest = json.loads((out / "manifest.json").read_text())
        base, user, _people = evaluation["results"]
        forms = list(base["perplexity"].items())
        intent, best = min(forms, key=lambda pair: pair[1]["value"])
        without, with_intent = (user["perplexity"][k] for k in ("without_intent", "with_intent"))
        # A gap is a ratio of perplexities on the same conversations, resampled in pairs.
        assert intent == "without_intent", f"{out}: the base is better with the intent"
        gaps = [user["gaps"][name] for name in ("base / this, without intent", WITHOUT_WITH)]
        f1 = user["termination"]["f1"]
        cells = [
            split, seed, user["n"],
            f"{figure(best)} ({best['form']}, {intent.replace('_', ' ')})",
            figure(without), figure(with_intent),
            *(figure({**gap, "value": gap["ratio"]}) for gap in gaps),
            figure(f1, 1),
            f"{sum(manifest['stages'][stage]['seconds'] for stage in ('base', 'user_lm')):.0f}",
        ]  # fmt: skip
        print("| " + " | ".join(map(str, cells)) + " |")
        clear = all(gap["interval"][0] > 1 for gap in gaps)
        assert clear, f"{out}: a gap's interval holds 1"


if __name__ == "__main__":
    main()
