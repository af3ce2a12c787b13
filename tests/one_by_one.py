"""What perplexity is, worked out slowly: a forward pass for each of the K+1 samples.

No packing, no cache: text from the chat template or from here, a fresh model, and cross entropy.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

from userlm_synth.backends.prompted import told_to
from userlm_synth.evaluation.scoring import Model
from userlm_synth.records import END_TOKEN, Record
from userlm_synth.user_lm import END, WORD, load_tokenizer, open_chat

Sample = tuple[int, list[int], list[int], bool]  # the turn's number, prompt, target, is it the end


@dataclass
class OneByOne:
    """By (conversation, turn): nats and tokens of the words, and the end's probability."""

    nats: dict[tuple[int, int], float] = field(default_factory=dict)
    tokens: dict[tuple[int, int], int] = field(default_factory=dict)
    ends: dict[tuple[int, int], float] = field(default_factory=dict)
    leaves: dict[tuple[int, int], bool] = field(default_factory=dict)


def score_one_by_one(
    model: Model, conversations: list[Record], form: str, with_intent: bool
) -> OneByOne:
    """`scoring.score`, one K+1 sample at a time; a conversation that takes several windows has
    those windows' histories."""
    net, tokenizer = _fresh(model, form)
    out = OneByOne()
    for place, one in enumerate(conversations):
        windows = [w for _, w in model.windows(form, [one], with_intent)]
        few = form == "prompted" or len(windows) == 1
        samples = _samples(model, tokenizer, one, form, with_intent) if few else _cut(windows)
        for turn, prompt, target, is_end in samples:
            logits = _logits(net, prompt + target)[len(prompt) - 1 : -1]
            nats = float(cross_entropy(logits, torch.tensor(target), reduction="sum"))
            if is_end and form == "prompted":
                out.ends[place, turn] = float(torch.exp(torch.tensor(-nats)))
            elif model.is_user_lm and turn > 1:
                out.ends[place, turn] = float(logits[0].softmax(-1)[model.end_id])
                out.leaves[place, turn] = int(logits[0].argmax()) == model.end_id
            if not is_end:
                out.nats[place, turn], out.tokens[place, turn] = nats, len(target)
    return out


def _fresh(model: Model, form: str) -> tuple[Any, Any]:
    name = model.name.removeprefix("prompted:")
    net, tokenizer = AutoModelForCausalLM.from_pretrained(name), load_tokenizer(name)
    if form == "chat" and not model.is_user_lm:
        open_chat(net, tokenizer, "user")
    return net.float().eval(), tokenizer


@torch.inference_mode()
def _logits(net: Any, ids: list[int]) -> torch.Tensor:
    logits: torch.Tensor = net(torch.tensor([ids])).logits[0]
    return logits


def _samples(
    model: Model, tokenizer: Any, one: Record, form: str, with_intent: bool
) -> Iterator[Sample]:
    """Each turn of the user with all before it, and the end."""
    system = [{"role": "system", "content": one["intent"]}] if with_intent and one["intent"] else []
    for at in range(0, len(one["messages"]) + 1, 2):
        history = [*system, *one["messages"][:at]]
        said = [m["content"] for m in one["messages"][at : at + 1]]
        if form in ("lines", "transcript"):
            prompt = _plain(tokenizer, history, form)
        elif form == "prompted":
            told = told_to(history, may_end=True)
            text = tokenizer.apply_chat_template(told, tokenize=False, add_generation_prompt=True)
            prompt = _ids(tokenizer, text)
        else:
            prompt = _ids(tokenizer, _in_chat(tokenizer, history))
        space = " " if form == "transcript" else ""
        for text in said:
            yield at // 2 + 1, prompt, _ids(tokenizer, space + text), False
        if form == "prompted" and at:
            yield at // 2 + 1, prompt, _spelt(tokenizer), True
        elif not said and model.is_user_lm:
            yield at // 2 + 1, prompt, [tokenizer.get_vocab()[END_TOKEN]], True


def _in_chat(tokenizer: Any, history: list[Record]) -> str:
    """transformers renders no empty conversation: there it is what stands before a first turn."""
    if history:
        text: str = tokenizer.apply_chat_template(history, tokenize=False)
        return text
    first = [{"role": "user", "content": "MARK"}]
    return str(tokenizer.apply_chat_template(first, tokenize=False).partition("MARK")[0])


def _plain(tokenizer: Any, history: list[Record], form: str) -> list[int]:
    ids = [tokenizer.bos_token_id]
    newline = _ids(tokenizer, "\n")
    for message in history:
        label = f"{message['role'].title()}:" if form == "transcript" else ""
        if message["role"] == "system":
            ids += _ids(tokenizer, message["content"]) + newline
        else:
            space = " " if label else ""
            ids += _ids(tokenizer, label) + _ids(tokenizer, space + message["content"]) + newline
    return ids + (_ids(tokenizer, "User:") if form == "transcript" else [])


def _ids(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False)
    return ids


def _spelt(tokenizer: Any) -> list[int]:
    """The end token's name as ordinary text, cut where a special token would be read."""
    tokenizer.backend_tokenizer.encode_special_tokens = True
    ids = _ids(tokenizer, END_TOKEN)
    tokenizer.backend_tokenizer.encode_special_tokens = False
    return ids


def _cut(windows: list[Any]) -> Iterator[Sample]:
    """The turns of windows, each with all that stands before it there."""
    for window in windows:
        for turn in sorted({*window.turns} - {0}):
            pairs = enumerate(zip(window.turns, window.kinds, strict=True))
            at = [i for i, (number, kind) in pairs if number == turn and kind in (WORD, END)]
            is_end = window.kinds[at[0]] == END
            yield turn, window.ids[: at[0]], [window.ids[i] for i in at], is_end
