"""The training runs on one side's turns: a user LM, or an assistant LM from the same base."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from userlm_synth.errors import UserError
from userlm_synth.progress import say
from userlm_synth.records import Record
from userlm_synth.training.checkpoints import States
from userlm_synth.training.loop import fit
from userlm_synth.user_lm import (
    fingerprint,
    load_model,
    load_tokenizer,
    open_chat,
    render,
    save_checkpoint,
)
from userlm_synth.user_lm.chat_format import Speaker
from userlm_synth.user_lm.checkpoint import set_generation

if TYPE_CHECKING:
    from userlm_synth.recipe import Training


def train_on_turns(
    base: str,
    conversations: Sequence[Record],
    options: Training,
    out: Path,
    *,
    speaker: Speaker,
    seed: int,
) -> Record:
    """Train `base` on one side's turns: a user LM, or from the same base an assistant LM."""
    from dataclasses import asdict

    tokenizer, model = load_tokenizer(base), load_model(base)
    form = open_chat(model, tokenizer, speaker)
    dropped = random.Random(f"intent dropout {seed}")
    sequences, cuts = [], 0
    for one in conversations:
        keep = dropped.random() >= options.intent_dropout
        for window in render(form, one, max_length=options.max_length, with_intent=keep):
            sequences.append(window)
            cuts += window.cuts
    if not sequences:
        raise UserError(f"no {speaker} turn to train on in {len(conversations)} conversations")
    if cuts:
        say(f"  {cuts} turns were longer than max_length={options.max_length} and were cut")
    start = fingerprint(base)
    name = "user LM" if speaker == "user" else "assistant LM"
    states = out.parent / f".{out.name}.training"
    log = fit(
        model, sequences, options, stage=name, states=states, start=start,
        pad=tokenizer.pad_token_id, seed=seed,
    )  # fmt: skip
    set_generation(model, form)
    made = {"made_from": start, "speaker": speaker, "train": asdict(options), "seed": seed}
    save_checkpoint(model.to("cpu"), tokenizer, out, made, log)
    States(states, "").clear()
    return {
        "model": fingerprint(str(out)),
        "conversations": len(conversations),
        "sequences": len(sequences),
        "targets": sum(one.targets for one in sequences),
        "cut_turns": cuts,
        "steps": len(log),
        "final_loss": log[-1]["loss"],
    }
