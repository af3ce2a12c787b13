"""One pass over conversations: the losses of the user's words, and who leaves where.

Histories are the human ones. A user LM is shown its own chat form; a base or chat checkpoint is
shown plain text too, so that its best form can count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from userlm_synth.progress import Progress
from userlm_synth.records import Record, user_turns
from userlm_synth.training.attention import use_packed_attention
from userlm_synth.training.batches import Batch, collate, pack
from userlm_synth.training.loss import hidden_at_targets, score_hidden
from userlm_synth.training.tokens import Windows
from userlm_synth.user_lm import (
    END,
    WORD,
    Rendered,
    encode_texts,
    open_chat,
    render,
    user_lm_format,
)
from userlm_synth.user_lm.adapters import open_checkpoint
from userlm_synth.user_lm.render import system_text

MAX_LENGTH = 2048


@dataclass
class Scores:
    """Sums over each conversation's user words, shape [n]: loss in nats, tokens, bytes; and at
    each place where the user speaks or leaves, [p]: was it the end, did the model's most likely
    first token say so, and with which probability. `owner` [p] is the conversation."""

    form: str
    nats: Any
    tokens: Any
    bytes: Any
    ended: Any
    leaves: Any
    probability: Any
    owner: Any


class Model:
    """A checkpoint to be scored, and the ways in which it can be shown a conversation."""

    def __init__(self, name: str) -> None:
        import torch

        self.name = name.removeprefix("hf:")
        self.tokenizer, self.model, self.fingerprint = open_checkpoint(self.name)
        self.is_user_lm = user_lm_format(self.tokenizer) is not None
        # a base or chat checkpoint is scored as it would start its training
        self.chat = open_chat(self.model, self.tokenizer, "user")
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.packed = use_packed_attention(self.model.to(self.device).eval())
        context = getattr(self.model.config, "max_position_embeddings", MAX_LENGTH)
        self.max_length = min(MAX_LENGTH, context)

    @property
    def forms(self) -> tuple[str, ...]:
        """Chat for a user LM; a base is shown plain text too, and its best form counts."""
        return ("chat",) if self.is_user_lm else ("chat", "lines", "transcript")

    def render(self, form: str, conversation: Record, with_intent: bool) -> list[Rendered]:
        """The windows of a conversation in one form."""
        if form == "chat":
            return render(
                self.chat, conversation, max_length=self.max_length, with_intent=with_intent
            )
        return [_as_text(self.tokenizer, form, conversation, with_intent, self.max_length)]


def _as_text(
    tokenizer: Any, form: str, conversation: Record, with_intent: bool, max_length: int
) -> Rendered:
    """Plain text: one turn a line, with `User:` and `Assistant:` before it in a transcript."""
    out = Rendered()
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    out.add([start])
    newline = encode_texts(tokenizer, ["\n"])[0]
    system = system_text(conversation)
    if with_intent and system:
        out.add(encode_texts(tokenizer, [system])[0] + newline)
    for number, message in enumerate(conversation["messages"]):
        own = message["role"] == "user"
        text = message["content"]
        if form == "transcript":
            out.add(encode_texts(tokenizer, ["User:" if own else "Assistant:"])[0])
            text = " " + text
        ids = encode_texts(tokenizer, [text])[0]
        out.add(ids, WORD * own, (number // 2 + 1) * own)
        out.add(newline)
    out.ids, out.kinds = out.ids[:max_length], out.kinds[:max_length]
    out.turns = out.turns[:max_length]
    return out


def score(
    model: Model, conversations: Sequence[Record], form: str, with_intent: bool, batch_tokens: int
) -> Scores:
    """One pass over the conversations, packed."""
    import torch

    windows = Windows.of(
        (index, window)
        for index, one in enumerate(conversations)
        for window in model.render(form, one, with_intent)
    )
    lengths = windows.lengths
    longest = int(lengths.max())
    rows = pack(lengths, longest) if model.packed else [[i] for i in range(len(lengths))]
    size = max(1, batch_tokens // longest) if model.packed else 1
    n = len(conversations)
    out = Scores(form, np.zeros(n), np.zeros(n), np.zeros(n), [], [], [], [])
    for index, one in enumerate(conversations):
        out.bytes[index] = sum(len(turn.encode()) for turn in user_turns(one["messages"]))
    label = f"scoring {model.fingerprint} ({form}, {'with' if with_intent else 'without'} intent)"
    pad = model.tokenizer.pad_token_id or 0
    with Progress(label, len(rows), "rows") as progress, torch.inference_mode():
        for begin in range(0, len(rows), size):
            some = rows[begin : begin + size]
            batch = collate(windows, [index for row in some for index in row], pad)
            _add_batch(out, model, batch.to(model.device), windows.owners)
            progress.step(len(some))
    return out


def _add_batch(out: Scores, model: Model, batch: Batch, conversation_of: Any) -> None:
    import torch

    kinds, turns, owners = (x.cpu().numpy() for x in (batch.kinds, batch.turns, batch.owners))
    opens = np.ones(len(kinds), dtype=bool)  # a turn of the user, or the end
    opens[1:] = (turns[1:] != turns[:-1]) | (owners[1:] != owners[:-1])
    first = opens & ((kinds == WORD) | (kinds == END))
    losses, places = score_hidden(
        model.model, hidden_at_targets(model.model, batch), batch.labels, model.chat.end_id,
        torch.from_numpy(first).to(model.device),
    )  # fmt: skip
    owner = conversation_of[owners]
    words = kinds == WORD
    np.add.at(out.nats, owner[words], losses.cpu().double().numpy()[words])
    np.add.at(out.tokens, owner[words], 1)
    out.ended += (kinds[first] == END).tolist()
    out.leaves += places[0]
    out.probability += places[1]
    out.owner += owner[first].tolist()
