"""Detectors of generated text from elsewhere: Pangram's API, or a classifier from the Hub.

What a detector said about a text is kept in `detector.jsonl` and not asked for again, whatever row
or run the text comes from; another model, revision or label has answers of its own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from userlm_synth.asking import Cache
from userlm_synth.errors import UserError
from userlm_synth.naturalness.pangram import ask_pangram
from userlm_synth.progress import Progress
from userlm_synth.records import stable_hash
from userlm_synth.user_lm import load_tokenizer
from userlm_synth.user_lm.loading import WEIGHTS, find_file, fingerprint, quiet, split_revision

KEPT = "detector.jsonl"
BATCH = 32  # texts at once
#: What labels call text of people, without case and punctuation.
HUMAN_NAMES = {
    "human", "humanwritten", "humangenerated", "humanauthored", "humantext", "person", "real",
}  # fmt: skip


@dataclass(frozen=True)
class Judged:
    """Who judged, exactly, and how likely each text is a person's, from 0 to 1; texts that the
    detector refused are not there."""

    name: str
    scores: dict[str, float]


def judge_texts(by: str, texts: Iterable[str], human_label: str | None, kept: Path) -> Judged:
    """Each different text once, by `pangram` (or `pangram:MODEL`), or a classifier: PATH_OR_ID.

    Answers are kept in the folder `kept`.
    """
    different = list(dict.fromkeys(texts))
    name, _, model = by.partition(":")
    with Cache(kept / KEPT, None) as cache:
        if name == "pangram":
            return Judged(*ask_pangram(different, model or "default", cache))
        return _classify(by, different, human_label, cache)


# ---- a classifier in process -------------------------------------------------------------------


def _classify(name: str, texts: Sequence[str], human_label: str | None, cache: Cache) -> Judged:
    config = _config(name)
    human = human_number(name, config, human_label)
    exact = _exactly(name, config)
    keys = {text: stable_hash(exact, human, text) for text in texts}
    unknown = [text for text in texts if keys[text] not in cache.answers]
    if unknown:
        detector = _Detector(name, human)
        unknown.sort(key=len)  # texts of one length need no padding
        with Progress("detector", len(unknown), "texts") as progress:
            for begin in range(0, len(unknown), BATCH):
                some = unknown[begin : begin + BATCH]
                for text, likely in zip(some, detector.likely(some), strict=True):
                    cache.keep(keys[text], exact, json.dumps(likely), {})
                progress.step(len(some))
    return Judged(exact, {text: float(json.loads(cache.answers[keys[text]])) for text in texts})


def human_number(name: str, config: Any, human_label: str | None) -> int:
    """Which of a classifier's outputs stands for people: the one that `human_label` names, or the
    only one whose name says so."""
    labels = {int(number): str(label) for number, label in config.id2label.items()}
    shown = ", ".join(labels.values())
    if len(labels) < 2:
        raise UserError(f"{name}: has one output only ({shown}); a detector needs two labels")
    if human_label is not None:
        found = [number for number, label in labels.items() if label == human_label]
        if not found:
            raise UserError(f"{name}: has no label {human_label!r} (human_label); it has: {shown}")
        return found[0]
    found = [number for number, label in labels.items() if _bare(label) in HUMAN_NAMES]
    if len(found) != 1:
        raise UserError(
            f"{name}: its labels do not say which one means people ({shown}); set "
            "human_label (in the recipe's evaluate.naturalness, or report) to one of them"
        )
    return found[0]


def _bare(label: str) -> str:
    return re.sub(r"[\W_]", "", label.lower())


def _source(name: str) -> tuple[str, dict[str, Any]]:
    """A folder's path or Hub id, and how it is read: at its revision, and none of its code run."""
    path, revision = split_revision(name)
    folder = Path(path).expanduser()
    if path.startswith((".", "/", "~")) and not folder.is_dir():
        raise UserError(f"{name}: no such folder")
    extra = {"revision": revision} if revision else {}
    return str(folder) if folder.is_dir() else path, {**extra, "trust_remote_code": False}


def _config(name: str) -> Any:
    from transformers import AutoConfig

    quiet()
    path, extra = _source(name)
    try:
        return AutoConfig.from_pretrained(path, **extra)
    except Exception as error:  # not there, no network, not JSON, an unknown kind of model
        raise _unloadable(name, error) from error


def _exactly(name: str, config: Any) -> str:
    """The detector with its content's hash, or the revision that the Hub gave."""
    commit = getattr(config, "_commit_hash", None)
    return f"{split_revision(name)[0]}@{commit}" if commit else fingerprint(name)


def _unloadable(name: str, error: Exception) -> UserError:
    first = (str(error).strip() or repr(error)).splitlines()[0]
    return UserError(f"{name}: cannot be loaded as a detector: {first}")


class _Detector:
    """A loaded classifier."""

    def __init__(self, name: str, human: int) -> None:
        import torch

        self.human = human
        self.tokenizer = load_tokenizer(name)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = _load(name).to(self.device).eval()
        # some models' positions begin after the padding's number
        positions = getattr(self.model.config, "max_position_embeddings", None) or 514
        self.longest = min(self.tokenizer.model_max_length, positions - 2)

    def likely(self, texts: list[str]) -> list[float]:
        """How likely each text is a person's; what is longer than the model takes is cut off."""
        import torch

        batch = self.tokenizer(
            texts, padding=True, truncation=True, max_length=self.longest, return_tensors="pt"
        ).to(self.device)
        with torch.no_grad():
            logits = self.model(
                input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]
            ).logits
        likely: list[float] = logits.float().softmax(-1)[:, self.human].tolist()
        return likely


def _load(name: str) -> Any:
    """fp32 weights from safetensors alone; a head that would be drawn at random is refused."""
    import torch
    from transformers import AutoModelForSequenceClassification

    if not any(find_file(name, file) for file in WEIGHTS):
        raise UserError(
            f"{name}: has no {WEIGHTS[0]}; other weights are pickles, which can run any code"
        )
    path, extra = _source(name)
    try:
        model, report = AutoModelForSequenceClassification.from_pretrained(
            path, dtype=torch.float32, use_safetensors=True, output_loading_info=True,
            ignore_mismatched_sizes=True, **extra,
        )  # fmt: skip
    except Exception as error:  # the libraries' readers raise all kinds
        raise _unloadable(name, error) from error
    wrong = sorted(report["missing_keys"]) + [key for key, *_ in report["mismatched_keys"]]
    if wrong:
        raise UserError(
            f"{name}: is no trained classifier: its weights lack {wrong[0]} (or have it in another "
            "shape)"
        )
    return model
