"""A conversation as token ids and the mask of what is trained on, in one readable pass.

Attention is causal, so the K+1 flipped samples of a conversation are one sequence with a mask on
the user's words, the token that closes each user turn, and `<|endconversation|>` after the last
reply ("Flipping the Dialogue", S2.1). A conversation longer than `max_length` is cut into windows:
each repeats the system message, opens on a user turn so that its first target has at least
`HISTORY` tokens of history (or all there is), and each turn is a target exactly once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from userlm_synth.errors import UserError
from userlm_synth.records import Message, Record
from userlm_synth.user_lm.chat_format import ChatFormat, encode_texts

CONTEXT, WORD, TURN_END, END = range(4)  # kinds of tokens; everything but CONTEXT is a target
HISTORY = 512


@dataclass
class Rendered:
    """One training sequence. `ids`, `kinds` and `turns` have one entry a token.

    `turns` numbers the speaker's turns from 1 at its targets and is 0 elsewhere; `cuts` counts
    what did not fit: beginnings of context turns, ends of the speaker's own.
    """

    ids: list[int] = field(default_factory=list)
    kinds: list[int] = field(default_factory=list)
    turns: list[int] = field(default_factory=list)
    cuts: int = 0

    def add(self, ids: list[int], kind: int = CONTEXT, turn: int = 0) -> None:
        """Append tokens of one kind."""
        self.ids += ids
        self.kinds += [kind] * len(ids)
        self.turns += [turn] * len(ids)

    @property
    def targets(self) -> int:
        """How many tokens are trained on."""
        return len(self.kinds) - self.kinds.count(CONTEXT)


@dataclass
class _Turn:
    role: str
    ids: list[int]
    number: int  # of the speaker's turns, from 1; 0 for the other side
    end: bool = False
    whole: bool = True


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
    """
    messages = conversation["messages"]
    system = system_text(conversation) if form.speaker == "user" and with_intent else None
    encoded = encode_texts(form.tokenizer, [system or "", *(m["content"] for m in messages)])
    turns, number = [], 0
    for message, ids in zip(messages, encoded[1:], strict=True):
        own = message["role"] == form.speaker
        number += own
        turns.append(_Turn(message["role"], ids, number if own else 0))
    if form.end_id is not None and messages[-1]["role"] == "assistant":
        turns.append(_Turn("user", [form.end_id], number + 1, end=True))
    head = form.pieces["start", "system"] + encoded[0] if system else []
    return _windows(form, turns, head, "system" if system else "start", max_length)


def _windows(
    form: ChatFormat, turns: list[_Turn], head: list[int], before: str, max_length: int
) -> list[Rendered]:
    windows: list[Rendered] = []
    room = max_length - len(head)
    target = 0 if form.speaker == "user" else 1
    while target < len(turns):
        first = _window_start(form, turns, target, before, room)
        last = target
        while last + 2 < len(turns) and _length(form, turns[first : last + 3], before) <= room:
            last += 2
        part, cuts = _fit(form, turns[first : last + 1], target - first, before, room)
        windows.append(_lay_out(form, part, target - first, head, before))
        windows[-1].cuts = cuts
        target = last + 2
    return windows


def _length(form: ChatFormat, turns: list[_Turn], before: str) -> int:
    """Tokens of some turns in a row with their markup and the last one's end."""
    total = 1
    for turn in turns:
        total += len(form.pieces[before, turn.role]) + len(turn.ids)
        before = turn.role
    return total


def _window_start(form: ChatFormat, turns: list[_Turn], target: int, before: str, room: int) -> int:
    """The user turn that a window opens on: enough history, as long as the target still fits."""
    start = max(target - (2 if form.speaker == "user" else 1), 0)
    while start >= 2:
        history = sum(len(turn.ids) for turn in turns[start:target])
        if history >= HISTORY or _length(form, turns[start - 2 : target + 1], before) > room:
            break
        start -= 2
    return start


def _fit(
    form: ChatFormat, turns: list[_Turn], target: int, before: str, room: int
) -> tuple[list[_Turn], int]:
    """Turns cut to the room: first the beginning of the reply before the target, then of what
    stands before that, last the end of the target itself; and how many were cut."""
    excess = _length(form, turns, before) - room
    turns, cuts = list(turns), 0
    for index in [*range(target - 1, -1, -1), target]:
        turn = turns[index]
        cut = min(excess, len(turn.ids) - 1)
        if cut > 0:
            ids = turn.ids[cut:] if index < target else turn.ids[:-cut]
            turns[index] = replace(turn, ids=ids, whole=False)
            excess -= cut
            cuts += 1
    if excess > 0:
        raise UserError(f"max_length is too small: the intent leaves {room} tokens for the turns")
    return turns, cuts


def _lay_out(
    form: ChatFormat, turns: list[_Turn], target: int, head: list[int], before: str
) -> Rendered:
    """The tokens of one window; turns from `target` on are trained on, those before are context."""
    out = Rendered()
    out.add(head)
    previous: _Turn | None = None
    for index, turn in enumerate(turns):
        own = turn.number > 0 and index >= target
        markup = form.pieces[before, turn.role]
        if previous:  # the first token of the markup after a trained turn is its end
            out.add(markup[:1], TURN_END, previous.number)
            markup = markup[1:]
        out.add(markup)
        out.add(turn.ids, (END if turn.end else WORD) if own else CONTEXT, turn.number * own)
        previous = turn if own and turn.whole and not turn.end else None
        before = turn.role
    if previous:
        out.add([form.turn_end_id], TURN_END, previous.number)
    return out


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
