"""The experiment: checks, arms, scores, and `utility.json` with `table.md`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

from userlm_synth.errors import Problems, UserError
from userlm_synth.locks import locked
from userlm_synth.progress import say
from userlm_synth.records import Record, make_folder, write_bytes, write_json
from userlm_synth.user_lm import fingerprint, load_tokenizer
from userlm_synth.utility.arms import Arm, equal_arms, scored_base, trained_and_scored
from userlm_synth.utility.figures import arm_figures, pair_figures, perplexity
from userlm_synth.utility.leaks import near_leaks, without_leaks
from userlm_synth.utility.scoring import WordScores, assistant_turns
from userlm_synth.utility.table import utility_table

if TYPE_CHECKING:
    from userlm_synth.recipe import Training


@dataclass(frozen=True)
class Dialogues:
    """The three sets of the experiment; generated dialogues may be rows of a run, or conversations
    of any other origin."""

    real: Sequence[Record]
    generated: Sequence[Record]
    test: Sequence[Record]


def run_utility(
    base: str,
    sets: Dialogues,
    options: Training,
    out: Path,
    *,
    seeds: Sequence[int] = (0, 1, 2),
    drop_leaks: bool = False,
) -> Record:
    """Train `base` on each kind of dialogues and score it on the test; run again, it continues.

    Writes and returns `out`/utility.json; raises `UserError` for sets that cannot be compared.
    """
    base = base.removeprefix("hf:")
    _refuse_what_cannot_be(base, sets, seeds)
    named = {"real": sets.real, "generated": sets.generated}
    usable = [one for one in sets.test if assistant_turns(one)]
    if silent := len(sets.test) - len(usable):
        say(f"{silent:,} test conversations have no assistant turn, and are left out")
    test = without_leaks(usable, named, drop_leaks)
    if len(test) < 2:
        raise UserError(f"--test: {len(test)} conversations are left; hold out some more")
    load_tokenizer(base)  # says what is wrong with it before there is a folder
    start = fingerprint(base)
    make_folder(out)
    with locked(out, f"{out}: another run is at work in this folder; wait for it"):
        arms = equal_arms(base, {**named, "both": [*sets.real, *sets.generated]}, options)
        scores = {"none": [scored_base(base, start, test, out)]}
        rows = [{"arm": "none", "sizes": None, "models": [], **arm_figures(scores["none"])}]
        for arm in arms:
            made = [trained_and_scored(arm, base, start, seed, test, out) for seed in seeds]
            scores[arm.name] = [one for _, one in made]
            rows.append(_row(arm, seeds, made))
        result: Record = {
            "base": start,
            "seeds": list(seeds),
            "test": {
                "conversations": len(test),
                "turns": sum(len(assistant_turns(one)) for one in test),
                "dropped": len(usable) - len(test),
                "silent": silent,
            },
            "leaks": {name: near_leaks(test, trained_on) for name, trained_on in named.items()},
            "arms": rows,
            "pairs": [pair_figures(arm, beside, scores) for beside, arm in combinations(scores, 2)],
        }
        write_json(out / "utility.json", result, "utility")
        write_bytes(out / "table.md", [utility_table(result).encode()])
    return result


def _row(arm: Arm, seeds: Sequence[int], made: Sequence[tuple[Record, WordScores]]) -> Record:
    """What `utility.json` says of a trained arm."""
    models = [
        {
            "seed": seed,
            "model": training["model"],
            "seen": training["seen"],
            "perplexity": perplexity(scores),
        }
        for seed, (training, scores) in zip(seeds, made, strict=True)
    ]
    sizes = {**arm.about, "steps": arm.options.max_steps}
    figures = arm_figures([scores for _, scores in made])
    return {"arm": arm.name, "sizes": sizes, "models": models, **figures}


def _refuse_what_cannot_be(base: str, sets: Dialogues, seeds: Sequence[int]) -> None:
    """Everything that can be known before any work."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("utility: trains its small models in one process; leave out torchrun")
    if base.partition(":")[0] in ("openai", "scripted", "prompted", "vllm"):
        raise UserError(f"--base: {base} cannot be trained; name a folder or a Hub id")
    problems = []
    for name in ("real", "generated", "test"):
        conversations: Sequence[Record] = getattr(sets, name)
        if not conversations:
            problems.append(f"--{name}: has no conversation")
        elif not any(assistant_turns(one) for one in conversations):
            problems.append(
                f"--{name}: no assistant speaks in its {len(conversations):,} conversations; "
                "an assistant is trained and scored on what assistants say"
            )
    if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0:
        problems.append(f"--seeds: {list(seeds)} are not different whole numbers from 0 on")
    if problems:
        raise Problems(problems)
