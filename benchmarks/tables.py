"""Tables 1, 2 and 4 of the paper on real human text, at small scale: docs/evaluation.md.

    python benchmarks/tables.py coffee.jsonl.gz topical.jsonl.gz --out runs/tables \
        [--instruct MODEL] [--conversations 200] [--questions nq_open_dev.jsonl.gz --judge SPEC]

For each corpus, one split: a tiny base (a Llama from scratch, the train split as plain lines), an
assistant LM from it, and user LMs trained with and without intent, and from the assistant LM. All
of them, the assistant LM prompted as a user, and `--instruct` (any instruction-tuned checkpoint)
prompted as a user, are evaluated on the held-out conversations beside people. What is there already
is taken as it is.
"""

from __future__ import annotations

import argparse
import platform
import time
from pathlib import Path

import torch
from ablations import COMMON, CORPORA, train_models

from userlm_synth.evaluation import evaluate
from userlm_synth.pipeline import run_recipe
from userlm_synth.recipe import Evaluate, Judge, Simulator, load_recipe

QUIZ = Path(__file__).resolve().parent.parent / "tests" / "quiz.jsonl"
# What an assistant is told when it plays the user is longer than a coffee order.
ROOM = {"coffee": ["base.train.max_length=1024", "train.max_length=1024"], "topical": []}
SEED = 0


def simulators(corpus: Path, instruct: str | None) -> dict[str, Simulator]:
    """What is compared, by its name in the tables."""
    trained = corpus / f"seed-{SEED}"
    found = {
        "base": str(corpus / "base"),
        "prompted assistant LM (tiny)": f"prompted:{trained / 'assistant'}",
        **({"prompted instruct": f"prompted:{instruct}"} if instruct else {}),
        "user LM, no intent in training": str(trained / "no-intent"),
        "user LM, assistant start": str(trained / "from-assistant"),
        "user LM, base start": str(trained / "intent"),
    }
    return {label: Simulator(model) for label, model in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--instruct", help="an instruction-tuned checkpoint, to be prompted")
    parser.add_argument("--conversations", type=int, help="of the test split, the first N")
    parser.add_argument("--questions", help="open questions, for intent adherence")
    parser.add_argument("--probes", type=int, default=100)
    parser.add_argument("--judge", help="SPEC of its judge")
    options = parser.parse_args()
    for file in options.files:
        name, started = file.name.partition(".")[0], time.monotonic()
        corpus = options.out / name
        settings = [f"conversations.source={file}", *COMMON, *CORPORA[name], *ROOM[name]]
        recipe = load_recipe("coffee", settings)
        run_recipe(recipe, corpus, ("conversations", "base"))
        assert recipe.train
        train_models(corpus, SEED, recipe.train)
        out = corpus / ("evaluation-instruct" if options.instruct else "evaluation")
        evaluate(
            simulators(corpus, options.instruct),
            [corpus / "conversations/test.jsonl"],
            out,
            Evaluate(
                max_conversations=options.conversations, max_tokens=48, decomposition=100,
                multiple_choice=str(QUIZ), questions=options.questions, probes=options.probes,
                judge=Judge(options.judge),
            ),
            seed=SEED,
        )  # fmt: skip
        print(f"\n## {name} ({time.monotonic() - started:.0f} s)\n")
        print((out / "tables.md").read_text(), flush=True)
    print(f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}")


if __name__ == "__main__":
    main()
