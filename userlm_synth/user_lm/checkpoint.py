"""Checkpoints in and out: ordinary Hugging Face folders, safetensors only, no remote code.

`open_chat` turns a base checkpoint into one that can hold a conversation: the turn markup native
to its family, the end token, and new rows initialised from the trained ones.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from userlm_synth.errors import UserError, explain_disk_full
from userlm_synth.records import END_TOKEN, sha256_file
from userlm_synth.user_lm.chat_format import (
    ChatFormat,
    Speaker,
    chat_template,
    special_ids,
    turn_markup,
)


def split_revision(name: str) -> tuple[str, str | None]:
    """`org/model@REVISION` -> (`org/model`, `REVISION`); a local folder is taken as it is."""
    if Path(name).expanduser().exists() or "@" not in name:
        return name, None
    path, _, revision = name.rpartition("@")
    return path, revision


def _quiet() -> None:
    """transformers draws bars and warns about things that are as they should be here."""
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """Loading errors as one line: not there, no network, not a checkpoint."""
    _quiet()
    try:
        yield
    except (OSError, ValueError, KeyError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise UserError(f"{name}: cannot be loaded as a model: {first}") from error


def _local(name: str) -> tuple[str, dict[str, Any]]:
    path, revision = split_revision(name)
    folder = Path(path).expanduser()
    if path.startswith((".", "/", "~")) and not folder.is_dir():
        raise UserError(f"{name}: no such folder")
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise UserError(f"{name}: is not a checkpoint folder (it has no config.json)")
    return str(folder) if folder.is_dir() else path, {"revision": revision} if revision else {}


def load_tokenizer(name: str) -> Any:
    """The tokenizer of a folder or Hub id (`@REVISION` pins one)."""
    from transformers import AutoTokenizer

    path, extra = _local(name)
    with _explained(name):
        return AutoTokenizer.from_pretrained(path, **extra)


def load_model(name: str) -> Any:
    """The causal LM of a folder or Hub id with fp32 weights, whatever the checkpoint's dtype.

    Since transformers 5 `from_pretrained` keeps the checkpoint's dtype; bf16 weights lose small
    updates, so training and exact scoring ask for fp32 here.
    """
    import torch
    from transformers import AutoModelForCausalLM

    path, extra = _local(name)
    with _explained(name):
        return AutoModelForCausalLM.from_pretrained(
            path, dtype=torch.float32, use_safetensors=True, **extra
        )


def fingerprint(name: str) -> str:
    """What exactly a model is: a local folder's content hash, or a Hub id with its revision."""
    path, revision = split_revision(name)
    folder = Path(path).expanduser()
    if not folder.is_dir():
        return f"{path}@{revision}" if revision else path
    digest = hashlib.sha256()
    for file in sorted(folder.glob("*")):
        if file.suffix in (".json", ".jinja", ".safetensors"):
            digest.update(f"{file.name} {sha256_file(file)}\n".encode())
    return f"{folder.name}#{digest.hexdigest()[:12]}"


def open_chat(model: Any, tokenizer: Any, speaker: Speaker) -> ChatFormat:
    """Give a base checkpoint (in place) turns, an end token and a template for `speaker`.

    New or untrained rows (markup, `<|endconversation|>`) become the mean of the ordinary rows
    of the embedding and of the head: a start that keeps the model's other logits as they were.
    Markup of a checkpoint that comes with a chat template is taken as trained and kept.
    """
    import torch

    markup = turn_markup(tokenizer)
    names = [piece.strip() for piece in markup] + [END_TOKEN]
    names = list(dict.fromkeys(name for name in names if name))
    missing = [name for name in names if name not in tokenizer.get_vocab()]
    if missing:
        tokenizer.add_special_tokens({"additional_special_tokens": missing})
    untrained = missing if tokenizer.chat_template else names
    tokenizer.chat_template = chat_template(markup, speaker, tokenizer.bos_token is not None)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or names[-2]
    embedding = model.get_input_embeddings()
    if len(tokenizer) > embedding.weight.shape[0]:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        embedding = model.get_input_embeddings()
    fresh = torch.tensor([tokenizer.get_vocab()[name] for name in untrained], dtype=torch.long)
    special = torch.tensor(sorted({*special_ids(tokenizer), *fresh.tolist()}))
    head = model.get_output_embeddings()
    tables = [embedding.weight]
    if head is not None and head.weight is not embedding.weight:
        tables.append(head.weight)
    with torch.no_grad():
        for table in tables:
            ordinary = torch.ones(len(table), dtype=torch.bool)
            ordinary[special] = False
            ordinary[len(tokenizer) :] = False
            table[fresh] = table[ordinary].mean(0)
    return ChatFormat.probe(tokenizer, speaker)


def set_generation(model: Any, form: ChatFormat) -> None:
    """Write the right stops into the model's own configs, and the sampling of the paper's card."""
    from transformers import GenerationConfig

    pad = form.tokenizer.pad_token_id
    model.generation_config = GenerationConfig(
        do_sample=True,
        temperature=1.0,
        top_p=0.8,
        bos_token_id=form.tokenizer.bos_token_id,
        eos_token_id=form.stop_ids,
        pad_token_id=pad,
    )
    model.config.eos_token_id, model.config.pad_token_id = form.stop_ids, pad


def save_checkpoint(
    model: Any,
    tokenizer: Any,
    folder: Path,
    made: dict[str, Any],
    log: Sequence[dict[str, float]] = (),
) -> None:
    """Save model, tokenizer, `userlm_synth.json` (how it was made) and `training_log.jsonl`, all
    or nothing."""
    _quiet()
    part = folder.with_name(f".{folder.name}.part")
    try:
        with explain_disk_full(folder):
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(parents=True)
            model.save_pretrained(part, safe_serialization=True)
            tokenizer.save_pretrained(part)
            (part / "userlm_synth.json").write_text(json.dumps(made, indent=2) + "\n")
            if log:
                lines = "".join(json.dumps(line) + "\n" for line in log)
                (part / "training_log.jsonl").write_text(lines)
            for file in part.iterdir():
                with file.open("rb") as opened:
                    os.fsync(opened.fileno())
            if folder.exists():
                shutil.rmtree(folder)
            part.replace(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
