"""The training runs that a recipe names: a tiny base from scratch, a user LM, an assistant LM."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from userlm_synth.errors import UserError
from userlm_synth.progress import say
from userlm_synth.records import Record, stable_hash
from userlm_synth.training.batches import plain_text
from userlm_synth.training.checkpoints import States
from userlm_synth.training.loop import fit
from userlm_synth.user_lm import (
    encode_texts,
    fingerprint,
    load_model,
    load_tokenizer,
    open_chat,
    render,
    save_checkpoint,
    train_tokenizer,
    untrained_model,
)
from userlm_synth.user_lm.chat_format import Speaker
from userlm_synth.user_lm.checkpoint import set_generation

if TYPE_CHECKING:
    from userlm_synth.recipe import Scratch, Training


def cache_folder() -> Path:
    """`$USERLM_SYNTH_CACHE`, else `$XDG_CACHE_HOME/userlm_synth`, else `~/.cache/userlm_synth`."""
    if own := os.environ.get("USERLM_SYNTH_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "userlm_synth"


def train_base(
    conversations: Sequence[Record], shape: Scratch, options: Training, out: Path, seed: int
) -> Record:
    """A tiny base model from scratch on the conversations as plain text; cached by its inputs.

    Plain text: the turns of a conversation, one a line, with no roles.
    """
    from dataclasses import asdict

    import torch

    texts = [m["content"] for one in conversations for m in one["messages"]]
    intents = [one["intent"] for one in conversations if one["intent"]]
    settings = {"scratch": asdict(shape), "train": asdict(options), "seed": seed, "text": "lines"}
    key = stable_hash(settings, texts, intents, torch.__version__)[:24]
    cached = cache_folder() / "base" / key
    if (cached / "config.json").is_file():
        say(f"  base: the same base model was trained before; taken from {cached}")
        _copy(cached, out)
        return {"cached": True, **_summary(out)}
    tokenizer = train_tokenizer([*texts, *intents], shape.vocabulary)
    model = untrained_model(shape, tokenizer, options.max_length, seed)
    documents = [
        plain_text(ids)
        for one in conversations
        for ids in _pieces(plain_ids(tokenizer, one, shape.intents), options.max_length)
    ]
    states = out.parent / f".{out.name}.training"
    log = fit(
        model, documents, options, stage="base", states=states, start=key,
        pad=tokenizer.pad_token_id, seed=seed,
    )  # fmt: skip
    _save(model, tokenizer, out, {"made_from": "scratch", **settings}, log)
    States(states, key).clear()
    try:
        _copy(out, cached)
    except OSError as error:
        say(f"  base: not cached for later runs ({error})")
    return {"cached": False, **_summary(out), "final_loss": log[-1]["loss"]}


def plain_ids(tokenizer: Any, conversation: Record, with_intent: bool) -> list[int]:
    """The tokens of a conversation as plain text; a line's end is a token of its own."""
    newline = encode_texts(tokenizer, ["\n"])[0]
    texts = [m["content"] for m in conversation["messages"]]
    if with_intent and conversation["intent"]:
        texts.insert(0, conversation["intent"])
    lines = encode_texts(tokenizer, texts)
    body = [token for line in lines for token in [*line, *newline]]
    return [tokenizer.bos_token_id, *body, tokenizer.eos_token_id]


def _pieces(ids: list[int], size: int) -> list[list[int]]:
    return [ids[i : i + size] for i in range(0, len(ids), size) if len(ids) - i > 1]


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
    _save(model, tokenizer, out, made, log)
    States(states, "").clear()
    return {
        **_summary(out),
        "conversations": len(conversations),
        "sequences": len(sequences),
        "targets": sum(one.targets for one in sequences),
        "cut_turns": cuts,
        "steps": len(log),
        "final_loss": log[-1]["loss"],
    }


def _save(model: Any, tokenizer: Any, out: Path, made: Record, log: list[Any]) -> None:
    import torch

    model.to("cpu").to(torch.float32)
    save_checkpoint(model, tokenizer, out, {**made, "log": log})


def _summary(out: Path) -> Record:
    return {"model": fingerprint(str(out))}


def _copy(source: Path, target: Path) -> None:
    part = target.with_name(f".{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(source, part)
    shutil.rmtree(target, ignore_errors=True)
    part.replace(target)
