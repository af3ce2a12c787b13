"""Figure 3 of the paper on real human text, at small scale: the table in docs/results.md.

    python benchmarks/ablations.py coffee.jsonl.gz topical.jsonl.gz --out runs/ablations

For each corpus one split and one tiny base (a Llama from scratch, the train split as plain lines),
and for each seed four models: an assistant LM and three user LMs, trained without intent, with it,
and with it from the assistant LM. All are scored on the same held-out conversations without intent
and with it. The seed draws the order of the data. What is there already is taken as it is; with
`--table` nothing is trained.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from dataclasses import replace
from pathlib import Path

import torch

from userlm_synth.evaluation import evaluate
from userlm_synth.pipeline import run_recipe
from userlm_synth.recipe import Evaluate, Simulator, Training, load_recipe
from userlm_synth.records import read_records
from userlm_synth.training.train import train_on_turns

COMMON = ["conversations.split_by=conversation", "evaluate=null"]
CORPORA = {
    "coffee": ["train.epochs=2"],
    "topical": [
        "conversations.limit=600",
        "base.scratch.vocabulary=3000",
        "base.scratch.hidden=128",
        "base.scratch.heads=2",
        "base.train.epochs=3",
        "base.train.max_length=1024",
        "base.train.micro_batch_tokens=4096",
        "train.epochs=2",
        "train.max_length=1024",
        "train.batch_tokens=4096",
        "train.micro_batch_tokens=4096",
    ],
}
WORDS = Evaluate(first_turns=0, decomposition=0, naturalness=None)  # no turns are sampled
NAMES = {
    "base": "base, in its best form",
    "no-intent": "user LM, trained without intent",
    "intent": "user LM, trained with intent",
    "from-assistant": "user LM with intent, from the assistant LM",
}


def train_models(corpus: Path, seed: int, options: Training) -> None:
    """The four models of one seed, in `corpus`/seed-N; a finished one is left as it is."""
    chats = read_records(corpus / "conversations/train.jsonl", "conversation")
    out = corpus / f"seed-{seed}"
    out.mkdir(exist_ok=True)
    options = replace(options, validations=0)
    runs = {
        "no-intent": ("user", corpus / "base", replace(options, intent_dropout=1.0)),
        "intent": ("user", corpus / "base", options),
        "assistant": ("assistant", corpus / "base", options),
        "from-assistant": ("user", out / "assistant", options),
    }
    for name, (speaker, start, settings) in runs.items():
        if not (out / name).is_dir():
            train_on_turns(str(start), chats, settings, out / name, speaker=speaker, seed=seed)


def scores(corpus: Path, seed: int) -> list[dict]:
    """One evaluation of base and user LMs on the test split."""
    out = corpus / f"seed-{seed}"
    path = out / "evaluation.json"
    if not path.is_file():
        models = {name: Simulator(str(out / name)) for name in list(NAMES)[1:]}
        models = {"base": Simulator(str(corpus / "base")), **models}
        evaluate(models, [corpus / "conversations/test.jsonl"], out, WORDS, seed=seed)
    found: list[dict] = json.loads(path.read_text())["results"]
    return [row for row in found if row["label"] != "human"]


def cell(one: dict) -> str:
    low, high = one["interval"]
    form = "" if one["form"] == "chat" else f" ({one['form']})"
    return f"{one['value']:.2f} [{low:.2f}, {high:.2f}]{form}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--table", action="store_true", help="of what is there")
    options = parser.parse_args()
    lines = []
    for file in options.files:
        name = file.name.partition(".")[0]
        corpus = options.out / name
        settings = [f"conversations.source={file}", *COMMON, *CORPORA[name]]
        recipe = load_recipe("coffee", settings)
        if not options.table:
            run_recipe(recipe, corpus, ("conversations", "base"))
        for seed in options.seeds:
            started = time.monotonic()
            if not options.table:
                train_models(corpus, seed, recipe.train)
            for label, result in zip(NAMES, scores(corpus, seed), strict=True):
                forms = result["perplexity"]
                cells = [cell(forms[form]) for form in ("without_intent", "with_intent")]
                lines.append(f"| {name} | {seed} | {NAMES[label]} | {' | '.join(cells)} |")
            print(f"{corpus} seed {seed}: {time.monotonic() - started:.0f} s", flush=True)
    print(f"\n{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}\n")
    print("| corpus | seed | model | tested without intent | tested with intent |")
    print("| --- | --- | --- | --- | --- |")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
