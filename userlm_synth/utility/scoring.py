"""How well a model foresees the assistant's words, given the histories that people wrote.

The loss is that of training (`training.loss`), over the words of the assistant's turns; the markup
around them is no word. A trained assistant LM is shown its own chat form. A base is shown plain
text too, one turn a line with or without `User:` and `Assistant:`, and its best form counts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from userlm_synth.progress import Progress, say
from userlm_synth.records import Record
from userlm_synth.user_lm import (
    CONTEXT,
    WORD,
    ChatFormat,
    Rendered,
    encode_texts,
    load_model,
    load_tokenizer,
    open_chat,
    render_all,
)

MAX_LENGTH = 2048
BATCH_TOKENS = 8192


@dataclass(frozen=True)
class WordScores:
    """For each test conversation: the assistant's words' loss in nats, their tokens, their bytes.

    As plain lists, so that they can be kept in a file.
    """

    form: str
    ids: list[str]
    nats: list[float]
    tokens: list[int]
    bytes: list[int]

    @property
    def bits_per_byte(self) -> float:
        """A measure that does not depend on the tokenizer."""
        return sum(self.nats) / math.log(2) / sum(self.bytes)


def assistant_turns(conversation: Record) -> list[str]:
    """The assistant's utterances, in order."""
    return [one["content"] for one in conversation["messages"] if one["role"] == "assistant"]


def score_base(name: str, test: Sequence[Record]) -> WordScores:
    """A model that nobody has trained yet, in its best form: as plain text, or in the chat form in
    which its training would start."""
    tokenizer, (model, length) = load_tokenizer(name), _ready(load_model(name))
    tried = []
    for form in ("lines", "transcript"):  # first, while the model has no rows for turns
        sequences = _text_windows(tokenizer, test, form, length)
        tried.append(_score(model, tokenizer, test, sequences, form, f"the base ({form})"))
    chat = open_chat(model.to("cpu"), tokenizer, "assistant")
    model, length = _ready(model)
    sequences = _chat_windows(chat, test, length)
    tried.append(_score(model, tokenizer, test, sequences, "chat", "the base (chat)"))
    return min(tried, key=lambda one: sum(one.nats) / sum(one.tokens))


def score_assistant(folder: str, test: Sequence[Record], label: str) -> WordScores:
    """A trained assistant LM, in the form that it was trained on."""
    tokenizer, model = load_tokenizer(folder), load_model(folder)
    model, length = _ready(model)
    sequences = _chat_windows(ChatFormat.probe(tokenizer, "assistant"), test, length)
    return _score(model, tokenizer, test, sequences, "chat", label)


def _ready(model: Any) -> tuple[Any, int]:
    """The model where it computes, and how long a sequence it takes."""
    import torch

    length = min(MAX_LENGTH, getattr(model.config, "max_position_embeddings", MAX_LENGTH))
    return model.to("cuda" if torch.cuda.is_available() else "cpu").eval(), length


def _chat_windows(
    form: ChatFormat, test: Sequence[Record], length: int
) -> Iterator[tuple[int, Rendered]]:
    lost = 0
    for place, window in render_all(form, test, max_length=length):
        lost += window.lost_ends
        yield place, window
    if lost:
        say(f"  {lost:,} test turns are longer than {length} tokens; their ends are not scored")


def _text_windows(
    tokenizer: Any, test: Sequence[Record], form: str, length: int
) -> Iterator[tuple[int, Rendered]]:
    for place, one in enumerate(test):
        for window in _pieces(_as_text(tokenizer, one, form), length):
            yield place, window


def _as_text(tokenizer: Any, conversation: Record, form: str) -> Rendered:
    """Plain text, a turn a line."""
    out = Rendered()
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    out.add([] if start is None else [start])
    newline, user, assistant = encode_texts(tokenizer, ["\n", "User:", "Assistant:"])
    for message in conversation["messages"]:
        own, text = message["role"] == "assistant", message["content"]
        if form == "transcript":
            out.add(assistant if own else user)
            text = " " + text
        out.add(encode_texts(tokenizer, [text])[0], WORD if own else CONTEXT)
        out.add(newline)
    return out


def _pieces(text: Rendered, length: int) -> Iterator[Rendered]:
    """Windows of a long text, each half a window further, in which a word is a target once."""
    begin, scored, step = 0, 0, max(1, length // 2)
    while scored < len(text.ids):
        end = min(begin + length, len(text.ids))
        kinds = [CONTEXT] * (scored - begin) + text.kinds[scored:end]
        yield Rendered(text.ids[begin:end], kinds, [0] * (end - begin))
        begin, scored = begin + step, end


def _score(
    model: Any, tokenizer: Any, test: Sequence[Record],
    sequences: Iterator[tuple[int, Rendered]], form: str, label: str,
) -> WordScores:  # fmt: skip
    """One pass over the sequences, packed where the model can read them so."""
    import numpy as np
    import torch

    from userlm_synth.training.attention import use_packed_attention
    from userlm_synth.training.batches import collate, pack
    from userlm_synth.training.loss import batch_losses
    from userlm_synth.training.tokens import Windows

    windows = Windows.of(sequences)
    longest = int(windows.lengths.max())
    packed = use_packed_attention(model)
    rows = pack(windows.lengths, longest) if packed else [[i] for i in range(len(windows))]
    at_once = max(1, BATCH_TOKENS // longest) if packed else 1
    nats, tokens = np.zeros(len(test)), np.zeros(len(test), dtype=int)
    with Progress(f"scoring {label}", len(rows), "rows") as progress, torch.inference_mode():
        for begin in range(0, len(rows), at_once):
            some = rows[begin : begin + at_once]
            members = [index for row in some for index in row]
            batch = collate(windows, members, tokenizer.pad_token_id or 0).to(model.device)
            losses = batch_losses(model, batch).each.double().cpu().numpy()
            words = batch.kinds.cpu().numpy() == WORD
            owners = windows.owners[batch.owners.cpu().numpy()[words]]
            np.add.at(nats, owners, losses[words])
            np.add.at(tokens, owners, 1)
            progress.step(len(some))
    texts = ["".join(assistant_turns(one)) for one in test]
    return WordScores(
        form, [one["id"] for one in test], nats.tolist(), tokens.tolist(),
        [len(text.encode()) for text in texts],
    )  # fmt: skip
