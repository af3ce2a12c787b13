"""A conversation as token ids and the mask of what is trained on, in one readable pass.

Attention is causal, so the K+1 flipped samples of a conversation are one sequence with a mask on
the user's words, the token that closes each user turn, and `<|endconversation|>` after the last
reply ("Flipping the Dialogue", S2.1). A conversation longer than `max_length` is cut into windows
of it (`_windows`), in which each of the speaker's turns is a target exactly once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from userlm_synth.errors import UserError
from userlm_synth.records import Message, Record
from userlm_synth.user_lm.chat_format import ChatFormat, encode_texts

CONTEXT, WORD, TURN_END, END = range(4)  # kinds of tokens; everything but CONTEXT is a target
HISTORY = 512  # tokens of turns' text before a window's first target, where there are that many


@dataclass
class Rendered:
    """One training sequence. `ids`, `kinds` and `turns` have one entry a token.

    `turns` numbers the speaker's turns from 1 at its targets and is 0 elsewhere. What did not fit
    is counted: turns of the history without their beginning, and targets without their end.
    """

    ids: list[int] = field(default_factory=list)
    kinds: list[int] = field(default_factory=list)
    turns: list[int] = field(default_factory=list)
    lost_beginnings: int = 0
    lost_ends: int = 0

    def add(self, ids: list[int], kind: int = CONTEXT, turn: int = 0) -> None:
        """Append tokens of one kind."""
        self.ids += ids
        self.kinds += [kind] * len(ids)
        self.turns += [turn] * len(ids)

    @property
    def targets(self) -> int:
        """How many tokens are trained on."""
        return len(self.kinds) - self.kinds.count(CONTEXT)

    @property
    def cuts(self) -> int:
        """How many turns did not fit whole."""
        return self.lost_beginnings + self.lost_ends


def system_text(conversation: Mapping[str, object]) -> str | None:
    """The system message of a user LM: the intent, then a blank line and the persona, if any."""
    parts = [conversation.get("intent"), conversation.get("persona")]
    return "\n\n".join(str(part) for part in parts if part) or None


def user_prompt_messages(conversation: Record) -> list[Message]:
    """System message (if there is an intent) and turns, as the user LM sees them."""
    system = system_text(conversation)
    opening: list[Message] = [{"role": "system", "content": system}] if system else []
    return opening + list(conversation["messages"])


def render(
    form: ChatFormat, conversation: Record, *, max_length: int, with_intent: bool = True
) -> list[Rendered]:
    """The windows of one conversation, most often one, for `form.speaker`'s turns.

    An assistant's windows have no system message: it does not know what the user wants.
    `UserError` where the system message leaves no room for a turn.
    """
    windows = render_all(
        form, [conversation], max_length=max_length, with_intent=lambda _: with_intent
    )
    return [window for _, window in windows]


def render_all(
    form: ChatFormat,
    conversations: Iterable[Record],
    *,
    max_length: int,
    with_intent: Callable[[Record], bool] | None = None,
    block: int = 64,
) -> Iterator[tuple[int, Rendered]]:
    """(place of the conversation, window) of many conversations, in order.

    `with_intent` is asked once a conversation, in order, if its system message is shown; None: it
    always is. The texts of `block` conversations are encoded in one call, equal ones once; that
    call uses all cores. One block is in memory at a time.
    """
    numbered = enumerate(conversations)
    while some := list(islice(numbered, block)):
        systems = []
        for _, one in some:
            shown = form.speaker == "user" and (with_intent is None or with_intent(one))
            systems.append(system_text(one) if shown else None)
        texts = dict.fromkeys(message["content"] for _, one in some for message in one["messages"])
        texts |= dict.fromkeys(system for system in systems if system)
        ids = dict(zip(texts, encode_texts(form.tokenizer, list(texts)), strict=True))
        for (place, one), system in zip(some, systems, strict=True):
            row = _lay_out(form, one["messages"], system, ids)
            for window in _windows(row, form.speaker == "assistant", max_length, one["id"]):
                yield place, window


@dataclass
class _Row:
    """A whole conversation in one row. A turn's text begins at `begins`; its last token, the turn
    end or the end token, stands before `closes`. The methods count tokens."""

    tokens: Rendered = field(default_factory=Rendered)
    begins: list[int] = field(default_factory=list)
    closes: list[int] = field(default_factory=list)

    def text(self, turn: int) -> int:
        """A turn's text, without its end."""
        return self.closes[turn] - 1 - self.begins[turn]

    def history(self, first: int, target: int) -> int:
        """The texts of the turns from `first` up to `target`."""
        return sum(map(self.text, range(first, target)))

    def length(self, first: int, last: int) -> int:
        """A window of the system message and the turns from `first` to `last`."""
        return self.begins[0] + self.closes[last] - self.begins[first]

    def spare(self, first: int, target: int) -> int:
        """What the two turns that open a window can lose, where they stand before its target."""
        return sum(max(self.text(turn) - 1, 0) for turn in range(first, min(first + 2, target)))


def _lay_out(
    form: ChatFormat, messages: list[Message], system: str | None, ids: Mapping[str, list[int]]
) -> _Row:
    """All turns up to the last target, in a row."""
    turns = [(message["role"], ids[message["content"]], WORD) for message in messages]
    if form.end_id is not None and turns[-1][0] == "assistant":
        turns.append(("user", [form.end_id], END))
    if turns[-1][0] != form.speaker:
        turns.pop()
    row = _Row()
    add, before = row.tokens.add, "start"
    if system:
        add(form.pieces["start", "system"] + ids[system])
        before = "system"
    number = unclosed = 0
    for role, text, kind in turns:
        markup = form.pieces[before, role]
        if unclosed:  # the first token of the markup after the speaker's turn is its end
            add(markup[:1], TURN_END, unclosed)
            markup = markup[1:]
        add(markup)
        row.begins.append(len(row.tokens.ids))
        own = role == form.speaker
        number += own
        add(text, kind if own else CONTEXT, number if own else 0)
        row.closes.append(len(row.tokens.ids) + (kind != END))
        before, unclosed = role, number if own and kind != END else 0
    if unclosed:
        add([form.turn_end_id], TURN_END, unclosed)
    return row


def _windows(row: _Row, nearest: int, max_length: int, name: str) -> Iterator[Rendered]:
    """The first window takes as many turns as fit. Each next one repeats the system message, opens
    on the last user turn that leaves its first target `HISTORY` tokens of text (or all there is,
    or what fits), and takes as many further turns as fit.

    Where that history is too long it loses its beginning: that of the longer of the two turns that
    open the window, then that of the other. A target that does not fit at all leaves half of the
    room to its history and loses its end. `nearest`: turns that stand before a target in any case.
    """
    target = nearest
    while target < len(row.begins):
        first, room = target - nearest, max_length
        if row.length(first, target) - row.spare(first, target) > max_length:
            half = (max_length - row.begins[0] + 1) // 2
            room += row.closes[target] - row.begins[target] - half  # its end needs no room
        first = _opening(row, first, target, room)
        last = _last(row, first, target, room) if room == max_length else target
        window = _window(row, first, target, last, row.length(first, last) - room)
        if len(window.ids) - row.closes[last] + row.begins[target] >= max_length:
            raise UserError(
                f"conversation {name!r}: max_length={max_length} is too small: its intent, persona "
                f"and markup take {row.begins[0]} tokens; raise max_length, or leave it out"
            )
        if len(window.ids) > max_length:
            window.lost_ends = 1
            for entries in (window.ids, window.kinds, window.turns):
                del entries[max_length:]
        yield window
        target = last + 2


def _opening(row: _Row, first: int, target: int, room: int) -> int:
    """The turn that a window opens on: `first`, or as long as its history is short one before."""
    history = row.history(first, target)
    while first and history < HISTORY:
        if row.length(first - 2, target) - row.spare(first - 2, target) > room:
            break
        first -= 2
        history += row.text(first) + row.text(first + 1)
    return first


def _last(row: _Row, first: int, target: int, room: int) -> int:
    """The last turn of a window. A history that is cut anyway is cut to `HISTORY` for more turns;
    one that fits whole stays whole."""
    if row.length(first, target) > room:
        room += max(min(row.history(first, target) - HISTORY, row.spare(first, target)), 0)
    last = target
    while last + 2 < len(row.begins) and row.length(first, last + 2) <= room:
        last += 2
    return last


def _window(row: _Row, first: int, target: int, last: int, excess: int) -> Rendered:
    """The turns from `first` to `last`, context up to `target`, whose opening turns lose `excess`
    tokens as far as they can."""
    lost = {}
    opening = range(first, min(first + 2, target))
    for turn in sorted(opening, key=row.text, reverse=True):
        lost[turn] = max(min(excess, row.text(turn) - 1), 0)
        excess -= lost[turn]
    source, window = row.tokens, Rendered(lost_beginnings=sum(map(bool, lost.values())))
    window.add(source.ids[: row.begins[0]])
    at = row.begins[first]
    for turn in opening:
        window.add(source.ids[at : row.begins[turn]])
        at = row.begins[turn] + lost[turn]
    window.add(source.ids[at : row.begins[target]])
    own = slice(row.begins[target], row.closes[last])
    window.ids += source.ids[own]
    window.kinds += source.kinds[own]
    window.turns += source.turns[own]
    return window


def show_targets(tokenizer: Any, rendered: Rendered) -> str:
    """The tokens as ANSI text: green is trained on, grey is context; turn ends are bold."""
    colours = {CONTEXT: "\x1b[90m", WORD: "\x1b[32m", TURN_END: "\x1b[1;32m", END: "\x1b[1;35m"}
    out, last, pending = "", None, []  # type: str, int | None, list[int]
    for token, kind in [*zip(rendered.ids, rendered.kinds, strict=True), (None, None)]:
        if kind != last and pending:
            out += colours[last or 0] + tokenizer.decode(pending) + "\x1b[0m"
            pending = []
        if token is not None:
            pending.append(token)
        last = kind
    return out
