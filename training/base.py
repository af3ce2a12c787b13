"""A tiny base model from scratch: plain text, no roles, cached by what it was made from.

    userlm-synth train quickstart --out runs/new
    python -m userlm_synth.training.base runs/new/base userlm_synth/world/base

makes the checkpoint that is shipped for the quickstart (bf16, to keep it small). It is used where
the recipe's text and settings are exactly those it was made from, and trained anew elsewhere.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from userlm_synth.folders import whole_folder
from userlm_synth.progress import say
from userlm_synth.recipe import lasting
from userlm_synth.records import Record, parse_json, stable_hash
from userlm_synth.resources import PACKAGE
from userlm_synth.training.batches import plain_text
from userlm_synth.training.loop import Job, fit
from userlm_synth.training.ranks import join
from userlm_synth.training.tokens import Windows
from userlm_synth.training.train import clear, last_figures, save_trained, shared
from userlm_synth.user_lm import (
    encode_texts,
    fingerprint,
    load_model,
    load_tokenizer,
    save_checkpoint,
    train_tokenizer,
    untrained_model,
)

if TYPE_CHECKING:
    from userlm_synth.recipe import Scratch, Training

SHIPPED = PACKAGE / "world" / "base"


def cache_folder() -> Path:
    """`$USERLM_SYNTH_CACHE`, else `$XDG_CACHE_HOME/userlm_synth`, else `~/.cache/userlm_synth`."""
    if own := os.environ.get("USERLM_SYNTH_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "userlm_synth"


def base_key(
    conversations: Sequence[Record], shape: Scratch, options: Training, seed: int
) -> tuple[str, Record]:
    """What a base is made from, as a hash and in words; equal keys are equal models."""
    made = {
        "scratch": asdict(shape), "train": unlike_default(options), "seed": seed, "text": "lines"
    }  # fmt: skip
    text = [[one["intent"], *(m["content"] for m in one["messages"])] for one in conversations]
    return stable_hash(made, text)[:24], made


def unlike_default(options: Training) -> Record:
    """The settings that differ from the defaults: a setting that is new changes no key."""
    defaults = asdict(type(options)())
    return {k: v for k, v in lasting(asdict(options)).items() if v != defaults[k]}


def train_base(
    conversations: Sequence[Record], shape: Scratch, options: Training, out: Path, seed: int
) -> Record:
    """Make the base checkpoint `out`, or copy it from the package or the cache.

    Plain text: the turns of a conversation, one a line, with no roles and no
    intent.
    """
    key, made = base_key(conversations, shape, options, seed)
    ranks = join()
    cached = cache_folder() / "base" / key
    for place, where in ((SHIPPED, "the one shipped with the package"), (cached, f"from {cached}")):
        if ranks.share(_key_of(place) == key):
            say(f"  this very base model was trained before: {where}")
            if ranks.first:
                _copy(place, out)
            ranks.wait()
            return {"model": fingerprint(str(out)), "trained": False}
    tokenizer = train_tokenizer(_texts(conversations), shape.vocabulary)
    model = untrained_model(shape, tokenizer, options.max_length, seed)
    states = out.parent / f".{out.name}.training"

    def documents() -> Windows:
        return Windows.of(
            (index, plain_text(ids))
            for index, one in enumerate(conversations)
            for ids in _pieces(plain_ids(tokenizer, one), options.max_length)
        )

    names = [one["id"] for one in conversations]
    job = Job(shared(states, documents, ranks), names, tokenizer.pad_token_id, seed, key)
    log = fit(model, job, options, stage="base", states=states)
    made |= {"key": key, **last_figures(log), "targets": job.windows.targets}
    save_trained(model, tokenizer, out, {"made_from": "scratch", **made}, log, None)
    clear(states)
    if ranks.first:
        try:
            _copy(out, cached)
        except OSError as error:
            say(f"  not cached for later runs: {error}")
    return {"model": fingerprint(str(out)), "trained": True, **last_figures(log)}


def _texts(conversations: Sequence[Record]) -> list[str]:
    """What the tokenizer learns its words from."""
    intents = [one["intent"] for one in conversations if one["intent"]]
    return [m["content"] for one in conversations for m in one["messages"]] + intents


def plain_ids(tokenizer: Any, conversation: Record) -> list[int]:
    """The tokens of a conversation as plain text; a line's end is a token of its own."""
    newline = encode_texts(tokenizer, ["\n"])[0]
    lines = encode_texts(tokenizer, [m["content"] for m in conversation["messages"]])
    body = [token for line in lines for token in [*line, *newline]]
    return [tokenizer.bos_token_id, *body, tokenizer.eos_token_id]


def _pieces(ids: list[int], size: int) -> list[list[int]]:
    return [ids[i : i + size] for i in range(0, len(ids), size) if len(ids) - i > 1]


def _key_of(folder: Path) -> str | None:
    try:
        made = parse_json((folder / "userlm_synth.json").read_bytes())
    except (OSError, ValueError):
        return None
    return str(made.get("key"))


def _copy(source: Path, target: Path) -> None:
    with whole_folder(target) as part:
        shutil.copytree(source, part, dirs_exist_ok=True)


def ship(source: Path, out: Path) -> None:
    """Copy a base checkpoint in bf16 and without its log, small enough for a package."""
    import torch

    about = parse_json((source / "userlm_synth.json").read_bytes())
    model, tokenizer = load_model(str(source)), load_tokenizer(str(source))
    save_checkpoint(model.to(torch.bfloat16), tokenizer, out, about)
    size = sum(file.stat().st_size for file in out.iterdir())
    say(f"{out}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    ship(Path(sys.argv[1]), Path(sys.argv[2]))
