"""Toxic language by a text classifier from the Hub or a folder, on the sample.

Weights are read from safetensors alone and none of the model's code is run.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from userlm_synth.errors import UserError
from userlm_synth.progress import Progress

BATCH = 32  # texts at once
CHARACTERS = 2000  # read of a text: more than most models take
#: What labels call toxic text, and text that is not, without case and punctuation.
TOXIC = {"toxic", "toxicity", "hate", "hateful", "hatespeech", "offensive", "abusive", "abuse"}


def toxic_likelihoods(name: str, texts: Iterable[str]) -> dict[str, float]:
    """P(toxic) of each different text, from 0 to 1, by the classifier `name`: a folder or Hub id,
    with `@REVISION` where one is meant."""
    different = sorted(dict.fromkeys(texts), key=len)  # texts of one length need no padding
    tokenizer, model = _load(name)
    label = toxic_label(name, model.config.id2label)
    kind, labels = model.config.problem_type, model.config.id2label
    many = kind == "multi_label_classification" or len(labels) < 2
    found: dict[str, float] = {}
    with Progress("toxicity", len(different), "texts") as progress:
        for begin in range(0, len(different), BATCH):
            some = different[begin : begin + BATCH]
            values = _run(tokenizer, model, some, label, many)
            found |= dict(zip(some, values, strict=True))
            progress.step(len(some))
    return found


def toxic_label(name: str, labels: dict[Any, str]) -> int:
    """Which output says toxic: the only one whose label is a word for it."""
    found = [int(at) for at, label in labels.items() if _bare(label) in TOXIC]
    if len(found) != 1:
        shown = ", ".join(map(str, labels.values()))
        raise UserError(
            f"{name}: its labels do not say which one means toxic ({shown}); report.toxicity needs "
            "a classifier with one label such as toxic, hate or offensive"
        )
    return found[0]


def _bare(label: str) -> str:
    return re.sub(r"[\W_]", "", str(label).lower())


def _load(name: str) -> tuple[Any, Any]:
    """Tokenizer and model, or what is wrong with them in one line."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    path, _, revision = name.partition("@")
    folder = Path(path).expanduser()
    if path.startswith((".", "/", "~")) and not folder.is_dir():
        raise UserError(f"{name}: no such folder")
    where = str(folder) if folder.is_dir() else path
    extra: dict[str, Any] = {"trust_remote_code": False}
    if revision:
        extra["revision"] = revision
    try:
        tokenizer = AutoTokenizer.from_pretrained(where, **extra)
        model, report = AutoModelForSequenceClassification.from_pretrained(
            where, dtype=torch.float32, use_safetensors=True, output_loading_info=True, **extra
        )
    except Exception as error:  # not there, no network, pickled weights, an unknown kind of model
        first = (str(error).strip() or repr(error)).splitlines()[0]
        raise UserError(f"{name}: cannot be loaded as a toxicity classifier: {first}") from error
    if report["missing_keys"]:
        lacking = sorted(report["missing_keys"])[0]
        raise UserError(f"{name}: is no trained classifier: its weights lack {lacking}")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return tokenizer, model.to(device).eval()


def _run(tokenizer: Any, model: Any, texts: list[str], label: int, many: bool) -> list[float]:
    """P(toxic) of some texts: its own yes or no where a text may have many labels."""
    import torch

    positions = getattr(model.config, "max_position_embeddings", None) or 514
    longest = min(tokenizer.model_max_length, positions - 2)
    batch = tokenizer(
        [text[:CHARACTERS] for text in texts],
        padding=True, truncation=True, max_length=longest, return_tensors="pt",
    ).to(model.device)  # fmt: skip
    with torch.no_grad():
        inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
        logits = model(**inputs).logits.float()
    likely = logits.sigmoid() if many else logits.softmax(-1)
    values: list[float] = likely[:, label].tolist()
    return values
