"""Checkpoints as they come: a folder or a Hub id, safetensors only, no remote code.

What would load with random or foreign weights, or not at all, is refused in one line.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from userlm_synth.errors import UserError
from userlm_synth.records import sha256_file

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "tekken.json")
WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")


def split_revision(name: str) -> tuple[str, str | None]:
    """`org/model@REVISION` -> (`org/model`, `REVISION`); a local folder is taken as it is."""
    if Path(name).expanduser().exists() or "@" not in name:
        return name, None
    path, _, revision = name.rpartition("@")
    return path, revision


def quiet() -> None:
    """transformers draws bars and warns about things that are as they should be here; so does
    torchao, which it imports where there is one."""
    import transformers

    for name in ("torchao", "torch.utils._pytree"):
        logging.getLogger(name).setLevel(logging.ERROR)

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


def find_file(name: str, file: str) -> Path | None:
    """A file of a folder, or of a Hub id (fetched into the cache); None where there is none."""
    path, revision = split_revision(name)
    folder = Path(path).expanduser()
    if folder.is_dir():
        return folder / file if (folder / file).is_file() else None
    if path.startswith((".", "/", "~")):
        raise UserError(f"{name}: no such folder")
    from transformers.utils import cached_file

    quietly = ("missing_entries", "connection_errors", "gated_repo")  # told when the model loads
    found = cached_file(
        path, file, revision=revision, **{f"_raise_exceptions_for_{one}": False for one in quietly}
    )
    return Path(found) if found else None


def adapter_base(name: str) -> str | None:
    """The model that an adapter (LoRA and the like) stands on; None for a model of its own."""
    file = find_file(name, "adapter_config.json")
    if file is None:
        return None
    try:
        return str(json.loads(file.read_bytes())["base_model_name_or_path"])
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{file}: does not say what it is an adapter of") from None


def load_tokenizer(name: str) -> Any:
    """The tokenizer of a folder or Hub id (`@REVISION` pins one), as its tokenizer.json says.

    `AutoTokenizer` builds some classes anew from their vocabulary alone and loses how they split
    text (the single digits of SmolLM2, with transformers 5.23), so it serves the other files only.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    with _explained(name, "tokenizer"):
        path, extra = _local(name)
        if find_file(name, "tokenizer.json"):
            return PreTrainedTokenizerFast.from_pretrained(path, **extra)
        if Path(path).is_dir() and not any(find_file(name, one) for one in TOKENIZER_FILES):
            raise UserError(
                f"{name}: has no tokenizer (no {' or '.join(TOKENIZER_FILES[:2])}); copy the files "
                "of the one that its weights were trained with into it"
            )
        tokenizer = AutoTokenizer.from_pretrained(path, **extra)
        if not isinstance(tokenizer, PreTrainedTokenizerFast):
            raise UserError(
                f"{name}: has no tokenizer.json, and {type(tokenizer).__name__} cannot make one; "
                "use a checkpoint that has one"
            )
        return tokenizer


def load_model(name: str) -> Any:
    """The causal LM of a folder or Hub id with fp32 weights, whatever the checkpoint's dtype.

    Since transformers 5 `from_pretrained` keeps the checkpoint's dtype; bf16 weights lose small
    updates, so training and exact scoring ask for fp32 here. A layer without weights of its shape
    in the files would be drawn at random with no more than a warning: that is refused.
    """
    import torch
    from transformers import AutoModelForCausalLM

    with _explained(name, "model"):
        path, extra = _local(name)
        _refuse_pickles(name)
        model, report = AutoModelForCausalLM.from_pretrained(
            path, dtype=torch.float32, use_safetensors=True, output_loading_info=True,
            ignore_mismatched_sizes=True, **extra,
        )  # fmt: skip
        _refuse_random_weights(name, report)
    return model


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


@contextmanager
def _explained(name: str, what: str) -> Iterator[None]:
    """Loading errors as one line: not there, no network, a torn or foreign file."""
    quiet()
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # the libraries' readers raise all kinds, bare ones too
        first = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise UserError(f"{name}: cannot be loaded as a {what}: {first}") from error


def _local(name: str) -> tuple[str, dict[str, Any]]:
    """A folder's path or Hub id, and the revision to ask for."""
    path, revision = split_revision(name)
    folder = Path(path).expanduser()
    if path.startswith((".", "/", "~")) and not folder.is_dir():
        raise UserError(f"{name}: no such folder")
    base = adapter_base(name)
    if base is not None:
        raise UserError(
            f"{name}: is an adapter of {base}, not a full model; "
            "make one of both with `userlm-synth merge`"
        )
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise UserError(f"{name}: is not a checkpoint folder (it has no config.json)")
    return str(folder) if folder.is_dir() else path, {"revision": revision} if revision else {}


def _refuse_pickles(name: str) -> None:
    """Pickles can run any code when they are read; transformers would look for a converted copy."""
    if any(find_file(name, file) for file in WEIGHTS):
        return
    path, revision = split_revision(name)
    if Path(path).expanduser().is_dir():
        pickled = any(find_file(name, file) for file in PICKLES)
    else:
        from huggingface_hub import file_exists

        pickled = any(file_exists(path, file, revision=revision) for file in PICKLES)
    if pickled:
        raise UserError(
            f"{name}: has pickle weights only ({PICKLES[0]}), which can run any code; where you "
            "trust them, convert them once: AutoModelForCausalLM.from_pretrained(NAME, "
            "use_safetensors=False).save_pretrained(FOLDER), then copy the tokenizer's files"
        )


def _refuse_random_weights(name: str, report: dict[str, Any]) -> None:
    for key, there, wanted in sorted(report["mismatched_keys"]):
        raise UserError(
            f"{name}: {key} has the shape {list(there)} in the weights and {list(wanted)} by "
            "config.json (vocab_size and the like); use the config.json that belongs to the weights"
        )
    for key in sorted(report["missing_keys"]):
        raise UserError(
            f"{name}: the weights of {key} are missing (of {len(report['missing_keys'])} in all); "
            "the checkpoint is incomplete: fetch or save it again"
        )
