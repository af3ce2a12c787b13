"""Are generated dialogues worth training on? At small scale: the table in docs/utility.md.

    python benchmarks/utility.py coffee.jsonl.gz --out runs/utility [--seeds 0 1 2]

The train split of the corpus is cut in halves. On the first, `recipes/coffee.yaml` trains a tiny
base, a user LM and an assistant LM; these two hold one dialogue on the goal of each conversation of
the second half. `userlm-synth utility` then trains that base on the real conversations of the
second half, on the generated ones, and on both, and scores each on the test split. So the two
corpora are of one size and about the same goals, and neither taught the models that made it.

What is there already is taken as it is.
"""

from __future__ import annotations

import argparse
import platform
import time
from dataclasses import replace
from pathlib import Path

import torch

from userlm_synth.pipeline import generate_only, read_dialogues, run_recipe
from userlm_synth.recipe import Recipe, load_recipe
from userlm_synth.records import read_records, write_records
from userlm_synth.training.base import train_base
from userlm_synth.training.train import train_on_turns
from userlm_synth.utility import Dialogues, run_utility, utility_table

COMMON = ["conversations.split_by=conversation", "evaluate=null", "train.epochs=2"]
GENERATE = [
    "generate.max_turns=6", "generate.max_tokens=64", "assistant.max_tokens=64",
    "generate.concurrency=64",
]  # fmt: skip


def make_generator(recipe: Recipe, out: Path) -> None:
    """The base, the user LM and the assistant LM, of the first half of the train split."""
    chats = read_records(out / "conversations/train.jsonl", "conversation")
    first, second = chats[0::2], chats[1::2]
    if not (out / "second.jsonl").is_file():
        write_records(out / "second.jsonl", second, "conversation")
    base = recipe.base
    assert base
    assert base.scratch
    assert base.train
    assert recipe.train
    if not (out / "base").is_dir():
        train_base(first, base.scratch, base.train, out / "base", recipe.seed)
    options = replace(recipe.train, validations=0)
    for speaker in ("user", "assistant"):
        folder = out / f"{speaker}_lm"
        if not folder.is_dir():
            start = str(out / "base")
            train_on_turns(start, first, options, folder, speaker=speaker, seed=recipe.seed)


def make_dialogues(out: Path, count: int) -> None:
    """Their dialogues about the goals of the second half; made before, they are all there."""
    settings = [
        f"generate.user=hf:{out / 'user_lm'}",
        f"assistant.model=hf:{out / 'assistant_lm'}",
        f"generate.intents={out / 'second.jsonl'}",
        f"generate.num={count}",
        *GENERATE,
    ]
    counts = generate_only(None, settings, out / "dialogues")
    print(f"{counts['accepted']:,} dialogues; rejected: {counts['rejected'] or 'none'}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--dialogues", type=int, help="default: as many as real ones")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="of the recipe")
    options = parser.parse_args()
    out: Path = options.out
    recipe = load_recipe(
        "coffee", [f"conversations.source={options.source}", *COMMON, *options.set]
    )
    began = time.monotonic()

    def told(what: str) -> None:
        nonlocal began
        print(f"{what}: {time.monotonic() - began:.0f} s", flush=True)
        began = time.monotonic()

    run_recipe(recipe, out, ("conversations",))
    make_generator(recipe, out)
    told("base, user LM, assistant LM")
    real = read_records(out / "second.jsonl", "conversation")
    make_dialogues(out, options.dialogues or len(real))
    told("dialogues")
    generated, _ = read_dialogues(out / "dialogues")
    test = read_records(out / "conversations/test.jsonl", "conversation")
    assert recipe.train
    result = run_utility(
        str(out / "base"), Dialogues(real, generated, test), recipe.train, out / "utility",
        seeds=options.seeds, drop_leaks=True,
    )  # fmt: skip
    told("the experiment")
    print(f"\n{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}\n")
    print(utility_table(result), end="")


if __name__ == "__main__":
    main()
