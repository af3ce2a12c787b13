"""The arms of the experiment: what each is trained on, for equally long, and what is kept of it.

All arms take as many optimizer steps, of as many tokens each, as the real dialogues need for the
epochs that were asked for. So a larger corpus is read fewer times, a smaller one more often, and no
arm is better for having computed more.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from userlm_synth.errors import UserError
from userlm_synth.progress import say
from userlm_synth.recipe import lasting
from userlm_synth.records import Record, parse_json, stable_hash, write_json
from userlm_synth.user_lm import fingerprint, load_model, load_tokenizer, open_chat, render_all
from userlm_synth.utility.leaks import content_hash
from userlm_synth.utility.scoring import (
    WordScores,
    assistant_turns,
    score_assistant,
    score_base,
)

if TYPE_CHECKING:
    from userlm_synth.recipe import Training

EMPTY = WordScores("", [], [], [], [])


@dataclass(frozen=True)
class Arm:
    """Dialogues to train on, the settings under which all arms compute alike, and the sizes."""

    name: str
    conversations: Sequence[Record]
    options: Training
    about: Record


def equal_arms(base: str, sets: dict[str, Sequence[Record]], options: Training) -> list[Arm]:
    """An arm for each set of dialogues; the first one's size and `options` say for how long.

    `passes` in what is known of an arm says how often its dialogues are read.
    """
    from userlm_synth.training.attention import use_packed_attention
    from userlm_synth.training.batches import pack, plan
    from userlm_synth.training.tokens import Windows

    tokenizer, model = load_tokenizer(base), load_model(base)
    form = open_chat(model, tokenizer, "assistant")
    packed = use_packed_attention(model)
    arms: list[Arm] = []
    steps = 0
    for name, conversations in sets.items():
        windows = Windows.of(render_all(form, conversations, max_length=options.max_length))
        lengths = windows.lengths
        rows = pack(lengths, options.max_length) if packed else [[i] for i in range(len(lengths))]
        steps = steps or len(plan(rows, options, 0))
        # whole steps, as many as the first arm's: `max_steps` binds, the epochs are enough for it
        wanted = steps * max(1, options.batch_tokens // options.max_length)
        own = replace(options, epochs=float(math.ceil(wanted / len(rows))), max_steps=steps)
        about = {
            "conversations": len(conversations),
            "turns": sum(len(assistant_turns(one)) for one in conversations),
            "targets": windows.targets,
            "passes": wanted / len(rows),
        }
        arms.append(Arm(name, conversations, replace(own, validations=0), about))
    return arms


def trained_and_scored(
    arm: Arm, base: str, start: str, seed: int, test: Sequence[Record], out: Path
) -> tuple[Record, WordScores]:
    """One model of `base` (whose fingerprint is `start`), in `out`/ARM-SEED, and its scores, in
    `out`/ARM-SEED.json beside it.

    What is there and was made in the same way is not made again. A checkpoint may be deleted once
    it is scored.
    """
    from userlm_synth.training.train import train_on_turns

    label = f"{arm.name}-{seed}"
    folder = out / label
    made = {
        "base": start,
        "dialogues": stable_hash([content_hash(one) for one in arm.conversations]),
        "settings": lasting(asdict(arm.options)),
        "seed": seed,
    }
    kept = Kept(out / f"{label}.json", made, test, folder)
    if kept.training is None:
        say(f"{label}: {arm.options.max_steps:,} steps on {len(arm.conversations):,} dialogues")
        trained = train_on_turns(
            base, arm.conversations, arm.options, folder, speaker="assistant", seed=seed
        )
        kept.save({**trained, "seen": _targets_seen(folder)}, None)
    elif kept.scores:
        say(f"{label}: up to date")
    scores = kept.scores or score_assistant(str(folder), test, label)
    training = kept.training
    assert training is not None
    kept.save(training, scores)
    return training, scores


def scored_base(base: str, start: str, test: Sequence[Record], out: Path) -> WordScores:
    """The arm `none`: the base as it is, with its scores in `out`/none.json."""
    kept = Kept(out / "none.json", {"base": start}, test)
    if kept.scores:
        say("none: up to date")
    scores = kept.scores or score_base(base, test)
    kept.save({}, scores)
    return scores


def _targets_seen(folder: Path) -> int:
    """Target tokens in all steps, from the training's log."""
    lines = (folder / "training_log.jsonl").read_text().splitlines()
    return int(sum(parse_json(line).get("targets", 0) for line in lines))


class Kept:
    """What an earlier run left of an arm: the training's figures, and its scores on this test.

    Both are None where the arm was made otherwise, which is said, or where its checkpoint is
    needed and gone, or another one.
    """

    def __init__(
        self, path: Path, made: Record, test: Sequence[Record], folder: Path | None = None
    ) -> None:
        self.path, self.made = path, made
        self.test = stable_hash([[one["id"], content_hash(one)] for one in test])
        self.training: Record | None = None
        self.scores: WordScores | None = None
        if not path.is_file():
            return
        try:
            former = parse_json(path.read_bytes())
            changed = [key for key, one in made.items() if former["made"].get(key) != one]
            scores = WordScores(**former["scores"]) if former["test"] == self.test else None
            training: Record = former["training"]
        except (ValueError, KeyError, TypeError):
            raise UserError(f"{path}: is not whole; delete it to make this arm again") from None
        if folder and folder.is_dir():
            changed += ["checkpoint"] * (fingerprint(str(folder)) != training["model"])
        elif folder and not scores:
            changed += ["checkpoint"]
        if changed:
            say(f"{path.stem}: made again, because its {' and '.join(changed)} changed")
        else:
            self.training, self.scores = training, scores

    def save(self, training: Record, scores: WordScores | None) -> None:
        """Written when the training is done, and again when it is scored."""
        self.training, self.scores = training, scores
        known = {"made": self.made, "training": training}
        tested = {"test": self.test if scores else None, "scores": asdict(scores or EMPTY)}
        write_json(self.path, {**known, **tested})
