"""One pass over conversations: the losses of the user's words, and who leaves where.

Histories are the human ones. A user LM is shown its own chat form; a base or chat checkpoint is
shown plain text too, so that its best form can count. A long conversation is read in windows, in
which each of the user's words is scored once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from userlm_synth.errors import UserError
from userlm_synth.evaluation.scores import Places, Scores, joined
from userlm_synth.progress import Progress, say
from userlm_synth.records import Record, stable_hash
from userlm_synth.training.attention import use_packed_attention
from userlm_synth.training.batches import Batch, collate, pack
from userlm_synth.training.loss import hidden_at_targets, score_hidden
from userlm_synth.training.tokens import Windows
from userlm_synth.user_lm import (
    END,
    WORD,
    ChatFormat,
    Rendered,
    encode_texts,
    open_chat,
    render_all,
    user_lm_format,
)
from userlm_synth.user_lm.adapters import open_checkpoint
from userlm_synth.user_lm.render import system_text

__all__ = ["MAX_LENGTH", "Model", "Places", "Scores", "score", "scored_forms"]

VERSION = "userlm_synth scores 1"  # kept scores of another one are not taken
MAX_LENGTH = 2048
CHUNK = 500  # conversations that are kept together
CPU_TOKENS = 1024  # at once: what is between two layers stays in a processor's caches
Kind = Literal["user_lm", "base", "assistant", "prompted"]


class Model:
    """A checkpoint to be scored, and the ways in which it can be shown a conversation.

    `system`: what its system message says, with `{intent}` (intent and persona) in it, for a model
    that was trained on other words than ours.
    """

    most_tokens = MAX_LENGTH
    spells_end = False  # it writes the end token's name, which is no token of its own

    def __init__(self, name: str, system: str | None = None) -> None:
        self.name = name.removeprefix("hf:").removeprefix("vllm:")
        self.system = system
        self._open()

    def _open(self) -> None:
        import torch

        self.tokenizer, net, self.fingerprint = open_checkpoint(self.name)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.kind, self._chat = self._recognise(self.tokenizer)
        context = getattr(net.config, "max_position_embeddings", None) or self.most_tokens
        self.max_length = min(self.most_tokens, context)
        self._place(net)

    def _recognise(self, tokenizer: Any) -> tuple[Kind, ChatFormat | None]:
        """What it is, and its own turns, if it has any that a user writes."""
        own = _own_turns(tokenizer)
        return "user_lm" if own else "assistant" if tokenizer.chat_template else "base", own

    def _place(self, net: Any) -> None:
        self.packed = use_packed_attention(net.to(self.device).eval())
        self.model = net

    @property
    def is_user_lm(self) -> bool:
        """True for a checkpoint that opens a user's turn by itself."""
        return self.kind == "user_lm"

    @property
    def chat(self) -> ChatFormat:
        """Its turns; a base or chat checkpoint is opened as it would start its training."""
        if self._chat is None:
            self._chat = open_chat(self.model.to("cpu"), self.tokenizer, "user")
            self._place(self.model)
        return self._chat

    @property
    def end_id(self) -> int | None:
        """The end token, where the model was trained on it."""
        return self.chat.end_id if self.is_user_lm else None

    @property
    def forms(self) -> tuple[str, ...]:
        """Chat for a user LM; a base is shown plain text too, and its best form counts."""
        return ("chat",) if self.is_user_lm else ("lines", "transcript", "chat")

    @property
    def wording(self) -> str:
        """What else than conversation and form decides on what the model is shown."""
        return str(self.system)

    def shown(self, conversation: Record) -> Record:
        """The conversation with the system message that the model was trained on."""
        text = system_text(conversation)
        if self.system is None or text is None:
            return conversation
        return {**conversation, "intent": self.system.replace("{intent}", text), "persona": None}

    def windows(
        self, form: str, conversations: Sequence[Record], with_intent: bool, ends: bool = True
    ) -> Iterator[tuple[int, Rendered]]:
        """(place of the conversation, window) in one form; `ends`: also where the user may leave,
        if that takes windows of its own."""
        turns, some = self.chat if form == "chat" else self._plain_text(form), conversations
        if form == "transcript":
            some = [_spaced(one) for one in some]
        yield from render_all(
            turns, map(self.shown, some), max_length=self.max_length,
            with_intent=lambda _: with_intent,
        )  # fmt: skip

    def _plain_text(self, form: str) -> ChatFormat:
        """One turn a line, with `User:` and `Assistant:` before it in a transcript. The model is
        taken as it came, without the rows that its chat form brings along."""
        if self._chat is not None and not self.is_user_lm:
            self._open()
        tokenizer = self.tokenizer
        start = next(
            ([i] for i in (tokenizer.bos_token_id, tokenizer.eos_token_id) if i is not None), []
        )
        newline, user, assistant = encode_texts(tokenizer, ["\n", "User:", "Assistant:"])
        label = {"user": user, "assistant": assistant} if form == "transcript" else {}
        pieces = {
            (before, role): (start if before == "start" else newline) + label.get(role, [])
            for before, role in (
                ("start", "system"), ("start", "user"), ("system", "user"),
                ("user", "assistant"), ("assistant", "user"),
            )
        }  # fmt: skip
        return ChatFormat(tokenizer, "user", pieces, {}, [], None)


def _own_turns(tokenizer: Any) -> ChatFormat | None:
    """The turns of a user LM, ours or another's; None for an assistant or a base."""
    if (own := user_lm_format(tokenizer)) is not None or not tokenizer.chat_template:
        return own
    try:
        found = ChatFormat.probe(tokenizer, "user")
    except UserError:
        return None
    # A template that opens no turn at all leaves the user's markup to the model.
    return None if tokenizer.decode(found.lead).strip() else found


def _spaced(conversation: Record) -> Record:
    """Turns that stand behind a label: the space before a word is a part of its first token."""
    messages = [{**one, "content": " " + one["content"]} for one in conversation["messages"]]
    return {**conversation, "messages": messages}


def scored_forms(
    model: Model, conversations: Sequence[Record], batch_tokens: int, *, keep: Path | None = None
) -> dict[bool, list[Scores]]:
    """False: all conversations without the intent; True: with it, those that have one, if any do.
    The scores of each of the model's forms, the best first.

    Where the user may leave is looked at once, in the second of the two if there is one.
    """
    known = [one for one in conversations if one["intent"]]
    which = {shown: some for shown, some in ((False, conversations), (True, known)) if some}
    found: dict[bool, list[Scores]] = {shown: [] for shown in which}
    for form in model.forms:  # outside, since a base is opened anew for plain text after its chat
        for shown, some in which.items():
            ends = shown == max(which)
            one = score(model, some, form, shown, batch_tokens, keep=keep, ends=ends)
            found[shown].append(one)
    return {shown: sorted(some, key=lambda one: one.perplexity) for shown, some in found.items()}


def score(
    model: Model, conversations: Sequence[Record], form: str, with_intent: bool, batch_tokens: int,
    *, keep: Path | None = None, ends: bool = True,
) -> Scores:  # fmt: skip
    """One pass over the conversations, packed; finished parts are kept in the folder `keep`.

    `ends`: measure the places where the user may leave even if that takes windows of its own.
    """
    if not conversations:
        return Scores.blank(form, [])
    chunks = [conversations[at : at + CHUNK] for at in range(0, len(conversations), CHUNK)]
    parts = [Scores.blank(form, some) for some in chunks]
    paths: list[Path | None] = [None] * len(chunks)
    if keep:
        own = (VERSION, model.fingerprint, model.wording, form, with_intent, model.max_length, ends)
        paths = [keep / f"{_key(own, some, with_intent)}.npz" for some in chunks]
    todo = [at for at, path in enumerate(paths) if not (path and parts[at].fill(path))]
    label = f"scoring {model.fingerprint} ({form}, {'with' if with_intent else 'without'} intent)"
    done = len(conversations) - sum(len(chunks[at]) for at in todo)
    with Progress(label, len(conversations), "conversations", done) as progress:
        for at in todo:
            windows = model.windows(form, chunks[at], with_intent, ends)
            _score_chunk(parts[at], model, windows, ends, batch_tokens, progress)
            if path := paths[at]:
                parts[at].save(path)
    whole = joined(parts, conversations)
    _say_what_did_not_fit(whole, model)
    return whole


def _key(own: tuple[object, ...], conversations: Sequence[Record], with_intent: bool) -> str:
    texts = [
        [one["id"], system_text(one) if with_intent else None, one["messages"]]
        for one in conversations
    ]
    return stable_hash(*own, texts)[:32]


def _say_what_did_not_fit(scores: Scores, model: Model) -> None:
    most, turns = f"{model.max_length:,} tokens", f"of {len(scores.turn):,} user turns"
    if scores.shortened:
        say(
            f"  {model.fingerprint}: at {scores.shortened:,} places the history does not fit "
            f"{most}; its oldest turns are left out there"
        )
    if scores.cut:
        say(f"  {model.fingerprint}: {scores.cut:,} {turns} do not fit {most}; their ends are cut")


def _score_chunk(
    out: Scores, model: Model, rendered: Iterator[tuple[int, Rendered]], ends: bool,
    batch_tokens: int, progress: Progress,
) -> None:  # fmt: skip
    """Fill in `out`, whose conversations are `rendered`."""
    import torch

    add, first = _Adder(out, model, ends), progress.done
    windows = Windows.of(add.watch(rendered))
    lengths = windows.lengths
    longest = int(lengths.max(initial=1))
    rows = pack(lengths, longest) if model.packed else [[i] for i in range(len(lengths))]
    most = min(batch_tokens, CPU_TOKENS) if model.device.type == "cpu" else batch_tokens
    size = max(1, most // longest) if model.packed else 1
    pad = model.tokenizer.pad_token_id or 0
    with torch.inference_mode():
        for begin in range(0, len(rows), size):
            some = rows[begin : begin + size]
            batch = collate(windows, [index for row in some for index in row], pad)
            add.batch(batch.to(model.device), windows.owners)
            progress.reach(first + (begin + len(some)) * len(out.ids) // len(rows))
    add.finish()


class _Adder:
    """Adds up what the batches of a chunk came to."""

    def __init__(self, out: Scores, model: Model, ends: bool) -> None:
        self.out, self.model = out, model
        every, p = np.arange(len(out.ids)), len(out.places)
        self.turns_at = np.searchsorted(out.owner, every)  # of each conversation's first turn
        self.places_at = np.searchsorted(out.places.owner, every)
        self.spelt = np.zeros(p) if ends and model.spells_end else None
        if not model.spells_end and model.end_id is not None:
            out.places.leaves, out.places.probability = np.zeros(p, bool), np.full(p, np.nan)

    def watch(self, rendered: Iterator[tuple[int, Rendered]]) -> Iterator[tuple[int, Rendered]]:
        """Count on the way what did not fit."""
        former = -1
        for owner, window in rendered:
            if owner == former and not self.model.spells_end:  # a later window
                self.out.shortened += len({*window.turns} - {0})
            elif window.lost_beginnings:
                self.out.shortened += 1
            if window.lost_ends:
                self._count_cut(owner, window)
            former = owner
            yield owner, window

    def _count_cut(self, owner: int, window: Rendered) -> None:
        """A window's last turn has no end: only the bytes of its beginning are scored."""
        turn = max(window.turns)
        words = [
            token for token, kind, at in zip(window.ids, window.kinds, window.turns, strict=True)
            if kind == WORD and at == turn
        ]  # fmt: skip
        if words:
            text = self.model.tokenizer.decode(words, clean_up_tokenization_spaces=False)
            row = self.turns_at[owner] + turn - 1
            self.out.bytes[row] = min(self.out.bytes[row], len(text.encode()))
            self.out.cut += 1

    def batch(self, batch: Batch, conversation_of: Any) -> None:
        """The words' losses, and the first tokens of turns after the first one."""
        import torch

        model, out = self.model, self.out
        kinds, turns, owners = (x.cpu().numpy() for x in (batch.kinds, batch.turns, batch.owners))
        firsts = np.zeros(len(kinds), dtype=bool)
        if out.places.leaves is not None:
            opens = np.ones(len(kinds), dtype=bool)  # a turn of the user, or the end
            opens[1:] = (turns[1:] != turns[:-1]) | (owners[1:] != owners[:-1])
            firsts = opens & (turns > 1) & ((kinds == WORD) | (kinds == END))
        losses, found = score_hidden(
            model.model, hidden_at_targets(model.model, batch), batch.labels, model.end_id,
            torch.from_numpy(firsts).to(model.device),
        )  # fmt: skip
        nats, owner = losses.cpu().double().numpy(), conversation_of[owners]
        words, ends = kinds == WORD, kinds == END
        rows = self.turns_at[owner[words]] + turns[words] - 1
        np.add.at(out.nats, rows, nats[words])
        np.add.at(out.tokens, rows, 1)
        places = self.places_at[owner] + turns - 2
        if out.places.leaves is not None and out.places.probability is not None:
            out.places.leaves[places[firsts]], out.places.probability[places[firsts]] = found
        if self.spelt is not None:
            np.add.at(self.spelt, places[ends], nats[ends])

    def finish(self) -> None:
        """The end token's name is as likely as all of its tokens, one after the other."""
        if self.spelt is not None:
            self.out.places.probability = np.exp(-self.spelt)
