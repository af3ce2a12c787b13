"""LoRA adapters of a user LM: ordinary PEFT folders, which name the base that they stand on.

Training wants full models (`loading.load_model` refuses adapters); evaluation and generation open
either kind here. An adapter is merged into its base in memory, or attached to it for a while.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from userlm_synth.errors import UserError
from userlm_synth.folders import whole_folder
from userlm_synth.records import Record
from userlm_synth.user_lm.checkpoint import checkpoint_dtype, save_checkpoint
from userlm_synth.user_lm.loading import (
    adapter_base,
    find_file,
    fingerprint,
    load_model,
    load_tokenizer,
    split_revision,
)

CONFIG, ADAPTER, ABOUT = "adapter_config.json", "adapter_model.safetensors", "userlm_synth.json"


class Opened(NamedTuple):
    """A checkpoint in memory; `fingerprint` says what exactly it is."""

    tokenizer: Any
    model: Any
    fingerprint: str


@dataclass(frozen=True)
class Adapter:
    """An adapter's files, the base that was found for it, and the fingerprint of both."""

    folder: Path
    base: str
    fingerprint: str


def open_checkpoint(name: str) -> Opened:
    """A full model, or an adapter merged into its base, by folder or Hub id; weights in fp32."""
    adapter = find_adapter(name)
    if adapter is None:
        return Opened(load_tokenizer(name), load_model(name), fingerprint(name))
    model = _attach(load_model(adapter.base), adapter.folder).merge_and_unload()
    return Opened(load_tokenizer(adapter.base), model, adapter.fingerprint)


def model_fingerprint(name: str) -> str:
    """What exactly a full model is, or an adapter with its base."""
    adapter = find_adapter(name)
    return adapter.fingerprint if adapter else fingerprint(name)


def find_adapter(name: str) -> Adapter | None:
    """An adapter with its base: the one that it names or, where a run folder was moved, the user
    LM beside it, if that is the one which it was trained on. None for a full model."""
    named = adapter_base(name)
    if named is None:
        return None
    files = [find_file(name, one) for one in (CONFIG, ADAPTER)]
    if files[0] is None or files[1] is None:
        raise UserError(f"{name}: has no {ADAPTER}; adapters are read from safetensors only")
    folder = files[0].parent
    revision = json.loads(files[0].read_bytes()).get("revision")
    trained_on = _about(name).get("made_from")
    places = [
        f"{named}@{revision}" if revision else named,
        str(folder.resolve().parents[1] / "user_lm"),
    ]
    for place in places[: 2 if trained_on else 1]:
        local = Path(place).expanduser()
        if local.is_dir() or not local.is_absolute():
            found = fingerprint(place)
            if trained_on is None or _same(found, trained_on):
                return Adapter(folder, place, f"{found}+{fingerprint(name)}")
    raise UserError(
        f"{name}: the model that it was trained on, {trained_on or named}, is not at "
        f"{' nor at '.join(dict.fromkeys(places))}; put it there, or train the adapter again"
    )


@contextmanager
def attached(model: Any, folder: Path) -> Iterator[None]:
    """`model` with an adapter that belongs to it, until the block ends."""
    with_adapter = _attach(model, folder)
    try:
        yield
    finally:
        with_adapter.unload()


def merge(user_lm: str, adapter: str, out: Path) -> None:
    """Write one ordinary checkpoint of a user LM and an adapter of it, in the user LM's dtype.

    Raises `UserError` for a pair that does not belong together, and where `out` holds files.
    """
    if adapter_base(adapter) is None:
        raise UserError(
            f"{adapter}: is not an adapter (it has no {CONFIG}); it can be used as it is"
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out}: exists already; name another folder")
    whole = fingerprint(user_lm)
    about = _about(adapter)
    trained_on = about.get("made_from")
    if trained_on is not None and not _same(whole, trained_on):
        raise UserError(
            f"{adapter}: was trained on {trained_on}, not on {user_lm} ({whole}); "
            "merge it with the user LM that it stands on"
        )
    file = find_file(adapter, ADAPTER)
    if file is None:
        raise UserError(f"{adapter}: has no {ADAPTER}; adapters are read from safetensors only")
    model = _attach(load_model(user_lm), file.parent).merge_and_unload()
    made: Record = {
        "made_from": whole,
        "adapter": fingerprint(adapter),
        "speaker": "user",
        **{key: about[key] for key in ("persona", "filters") if key in about},
    }
    save_checkpoint(model, load_tokenizer(user_lm), out, made, dtype=checkpoint_dtype(user_lm))


def save_adapter(
    config: Any, weights: Mapping[str, Any], base: str, folder: Path, made: Record,
    log: Sequence[Record],
) -> None:  # fmt: skip
    """Write an adapter's folder, all or nothing: a `LoraConfig`, its weights by PEFT's names, how
    it was made, and the log of its training. `base` is named by its whole path, or its Hub id."""
    from safetensors.torch import save_file

    path, revision = split_revision(base)
    local = Path(path).expanduser()
    config.base_model_name_or_path = str(local.resolve()) if local.is_dir() else path
    config.revision, config.inference_mode = revision, True
    config.target_modules = sorted(config.target_modules)  # a set, whose order is by chance
    with whole_folder(folder) as part:
        config.save_pretrained(part)
        save_file(dict(weights), part / ADAPTER, metadata={"format": "pt"})
        (part / ABOUT).write_text(json.dumps(made, indent=2) + "\n")
        (part / "training_log.jsonl").write_text("".join(json.dumps(x) + "\n" for x in log))


def _about(name: str) -> Record:
    """What an adapter of ours says of itself; nothing for another's."""
    file = find_file(name, ABOUT)
    if file is None:
        return {}
    try:
        about: Record = json.loads(file.read_bytes())
    except ValueError:
        raise UserError(f"{file}: is not JSON; the adapter is incomplete: train it again") from None
    return about


def _same(one: str, other: str) -> bool:
    """Whether two fingerprints are of the same content, whatever their folders are called."""
    return one.rpartition("#")[2] == other.rpartition("#")[2]


def _attach(model: Any, folder: Path) -> Any:
    """A `PeftModel` around `model`, whose layers have the adapter from here on."""
    from peft import PeftConfig, PeftModel

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = PeftModel(model, PeftConfig.from_pretrained(str(folder)))
            report = found.load_adapter(str(folder), "default")
    except Exception as error:  # PEFT's readers raise all kinds
        first = (str(error).strip() or repr(error)).splitlines()[0]
        raise UserError(f"{folder}: cannot be loaded as an adapter: {first}") from error
    wrong = [*report.missing_keys, *report.unexpected_keys]
    if wrong:
        raise UserError(
            f"{folder}: does not fit the model: {wrong[0]} and {len(wrong) - 1} more weights are "
            "in one of them alone; use the model that it was trained on"
        )
    return found
