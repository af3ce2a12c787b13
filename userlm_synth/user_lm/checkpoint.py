"""Checkpoints made ready to chat, and saved as ordinary Hugging Face folders.

`open_chat` turns a base checkpoint into one that can hold a conversation: the turn markup native
to its family, the end token, and new rows initialised from the trained ones.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from userlm_synth.errors import UserError
from userlm_synth.folders import whole_folder
from userlm_synth.records import END_TOKEN
from userlm_synth.user_lm.chat_format import ChatFormat, Speaker, chat_template, special_ids
from userlm_synth.user_lm.families import SLOT, WITHOUT_ROW, family_of, make_known
from userlm_synth.user_lm.loading import WEIGHTS, find_file, quiet

if TYPE_CHECKING:
    import torch

#: A row whose norm is below this share of the median was never trained. Llama-3's markup has
#: norms of 1e-21 beside 0.59 +- 0.07, Mistral v0.3's of less than 0.02 beside 0.17 +- 0.03
#: (github.com/cohere-ai/magikarp, results/reports; "Fishing for Magikarp", arXiv 2405.05417).
UNTRAINED = 0.1
PADS = ("<pad>", "<|pad|>", "<|finetune_right_pad_id|>")


def open_chat(model: Any, tokenizer: Any, speaker: Speaker) -> ChatFormat:
    """Give a base checkpoint (in place) turns, an end token and a template for `speaker`.

    New rows, and those of markup that the base never trained, become the mean of the trained
    ordinary rows, of the embedding and of an untied head: a start that keeps the model's other
    logits as they were. Markup that the checkpoint's own chat template writes is taken as trained,
    as its first and last tokens are. A user LM, ours or another, keeps all that it has.
    """
    rows = model.get_input_embeddings().weight.shape[0]
    _refuse_foreign_tokenizer(tokenizer, rows)
    own = user_lm_format(tokenizer) if speaker == "user" else None
    if own is not None:
        return own
    family = family_of(tokenizer)
    written = str(tokenizer.chat_template or "")
    ends = (tokenizer.bos_token, tokenizer.eos_token)
    new = make_known(tokenizer, [END_TOKEN, *family.tokens], rows)
    trained = {t for t in family.tokens if t not in new and (t in ends or t in written)}
    tokenizer.chat_template = chat_template(family.turns, speaker, tokenizer.bos_token is not None)
    known = tokenizer.get_vocab()
    if tokenizer.pad_token is None:  # never trained, so markup is no good as padding
        others = (tokenizer.eos_token, tokenizer.unk_token, END_TOKEN)
        usable = [*PADS, *(token for token in others if token not in family.tokens)]
        tokenizer.pad_token = next(token for token in usable if token in known)
    needed = max(known[token] for token in (END_TOKEN, *family.tokens)) + 1
    if needed > rows:
        model.resize_token_embeddings(needed, mean_resizing=False)
    fresh = {known[t] for t in (END_TOKEN, *family.tokens) if t not in trained}
    _initialise(model, tokenizer, rows, fresh, {known[t] for t in trained})
    return ChatFormat.probe(tokenizer, speaker)


def user_lm_format(tokenizer: Any) -> ChatFormat | None:
    """The format of a tokenizer that is a user LM's already: to go on with, not to open anew."""
    if END_TOKEN not in tokenizer.get_vocab() or not tokenizer.chat_template:
        return None
    try:
        return ChatFormat.probe(tokenizer, "user")
    except UserError:  # an assistant LM from the same base
        return None


def _refuse_foreign_tokenizer(tokenizer: Any, rows: int) -> None:
    known = tokenizer.get_vocab()
    beyond = [t for t, i in known.items() if i >= rows and t not in WITHOUT_ROW]
    if beyond:
        raise UserError(
            f"{tokenizer.name_or_path or 'the tokenizer'}: knows {len(known)} tokens, the weights "
            f"have {rows} rows; use the tokenizer that belongs to the weights"
        )


def _initialise(model: Any, tokenizer: Any, rows: int, fresh: set[int], trained: set[int]) -> None:
    """Set the rows `fresh`, and those of `trained` that were not, to the mean of ordinary rows.

    `rows` is how many there were before: ordinary are those of the words among them.
    """
    import torch

    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    tables = [embedding.weight]
    if head is not None and head.weight is not embedding.weight:
        tables.append(head.weight)
    known = tokenizer.get_vocab()
    slots = {i for token, i in known.items() if SLOT.fullmatch(token)}
    words = set(known.values()) - special_ids(tokenizer) - slots - fresh
    with torch.no_grad():
        norms = embedding.weight.norm(dim=1)
        ordinary = torch.zeros(len(norms), dtype=torch.bool)
        ordinary[[i for i in words if i < rows]] = True
        floor = UNTRAINED * norms[ordinary].median()
        ordinary &= norms >= floor
        untrained = sorted(fresh | {i for i in trained if norms[i] < floor})
        for table in tables:
            table[untrained] = ordinary.to(table.dtype) @ table / ordinary.sum()


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


def checkpoint_dtype(name: str) -> torch.dtype:
    """The dtype in which a folder or Hub id has its weights; nothing but its headers is read."""
    import torch

    file = find_file(name, "config.json")
    config = json.loads(file.read_bytes()) if file else {}
    text = config.get("text_config", {})
    for said in (config.get("dtype"), config.get("torch_dtype"), text.get("dtype")):
        if said:
            return getattr(torch, said)  # type: ignore[no-any-return]
    return _stored_dtype(name)


def _stored_dtype(name: str) -> torch.dtype:
    """From the header of safetensors: 8 bytes with its length, then JSON, a dtype a tensor."""
    import torch

    file = find_file(name, WEIGHTS[0])
    index = find_file(name, WEIGHTS[1])
    if file is None and index is not None:
        file = find_file(name, next(iter(json.loads(index.read_bytes())["weight_map"].values())))
    if file is None:
        raise UserError(f"{name}: has no safetensors weights")
    with file.open("rb") as opened:
        header = json.loads(opened.read(int.from_bytes(opened.read(8), "little")))
    header.pop("__metadata__", None)
    known = {"BF16": torch.bfloat16, "F16": torch.float16}
    return known.get(next(iter(header.values()))["dtype"], torch.float32)


def save_checkpoint(
    model: Any,
    tokenizer: Any,
    folder: Path,
    made: dict[str, Any],
    log: Sequence[dict[str, Any]] = (),
    dtype: torch.dtype | None = None,
    state_dict: dict[str, Any] | None = None,
) -> None:
    """Save model, tokenizer, `userlm_synth.json` (how it was made) and `training_log.jsonl`, all
    or nothing.

    `dtype`: that of the saved weights (default: as they are); `state_dict`: weights to save in
    place of the model's own, gathered from several processes.
    """
    quiet()
    with whole_folder(folder) as part:
        weights = _weights(model, dtype, state_dict)
        model.save_pretrained(part, state_dict=weights)
        if dtype is not None:  # written after the model, which stays as it is
            config = json.loads((part / "config.json").read_bytes())
            config["dtype"] = str(dtype).removeprefix("torch.")
            (part / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        tokenizer.save_pretrained(part)
        (part / "userlm_synth.json").write_text(json.dumps(made, indent=2) + "\n")
        if log:
            lines = "".join(json.dumps(line) + "\n" for line in log)
            (part / "training_log.jsonl").write_text(lines)


def _weights(
    model: Any, dtype: torch.dtype | None, state_dict: dict[str, Any] | None
) -> dict[str, Any] | None:
    """The weights to save in `dtype`, each once; None for the model's own as they are."""
    if dtype is None and state_dict is None:
        return None
    weights = dict(model.state_dict() if state_dict is None else state_dict)
    for tied, source in model.all_tied_weights_keys.items():
        if source in weights:  # copies are not seen to be one tensor, and would be saved twice
            weights.pop(tied, None)
    if dtype is None:
        return weights
    return {k: w.to(dtype) if w.is_floating_point() else w for k, w in weights.items()}
