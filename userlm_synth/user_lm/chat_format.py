"""Turns as token ids, in the checkpoint's own chat template, with people's text kept as text.

The template is probed once: a toy conversation of marker strings is rendered, and the text between
two markers is what the template writes between those two turns. A conversation is then encoded
piece by piece: the template's text with its special tokens, a person's text without (so that
`<|eot_id|>` typed by a person is nine harmless characters). That works for any template which
treats each turn alike, ours and other people's; one which does not is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from userlm_synth.errors import UserError
from userlm_synth.records import END_TOKEN, Message
from userlm_synth.user_lm.families import Turns

Speaker = Literal["user", "assistant"]


def chat_template(turns: Turns, opens: Speaker, bos: bool) -> str:
    """A Jinja chat template that opens a turn of `opens`.

    A user LM's template opens a user turn after every conversation that does not end on one, as
    the published UserLM-8b's does, with or without `add_generation_prompt`; `generate_role`
    overrides the role. No dates, no trimming: a longer conversation extends a shorter one.
    """
    before, after = (
        ", ".join(f"'{role}': {_quoted(pieces[place])}" for role, pieces in turns.items())
        for place in (0, 1)
    )
    always = "not messages or messages[-1]['role'] != 'user' or " if opens == "user" else ""
    return (
        f"{{%- set before = {{{before}}} %}}{{%- set after = {{{after}}} %}}"
        + ("{{- bos_token }}" if bos else "")
        + "{%- for message in messages %}"
        + "{{- before[message['role']] + message['content'] + after[message['role']] }}"
        + "{%- endfor %}"
        + f"{{%- if {always}add_generation_prompt %}}"
        + f"{{{{- before[generate_role or '{opens}'] }}}}"
        + "{%- endif %}"
    )


def _quoted(text: str) -> str:
    return "'" + text.replace("\n", "\\n") + "'"


@dataclass(frozen=True, eq=False)
class ChatFormat:
    """A tokenizer's turn format, as token ids.

    `pieces[a, b]` are the ids between a turn of `a` and one of `b` (`start`: the very beginning);
    `opening[a]` the ids after a turn of `a` that ask `speaker` to speak; `lead` the ids that a
    template writes between that opening and the words (one newline in UserLM-8b, else none).
    """

    tokenizer: Any
    speaker: Speaker
    pieces: dict[tuple[str, str], list[int]]
    opening: dict[str, list[int]]
    lead: list[int]
    end_id: int | None

    @property
    def turn_end_id(self) -> int:
        """The token that closes the speaker's turn (`<|eot_id|>`, `<|im_end|>`)."""
        other = "assistant" if self.speaker == "user" else "user"
        return self.pieces[self.speaker, other][0]

    @property
    def stop_ids(self) -> list[int]:
        """Where the speaker stops: its turn's end and, for a user, the end token."""
        return [self.turn_end_id] + ([self.end_id] if self.end_id is not None else [])

    @classmethod
    def probe(cls, tokenizer: Any, speaker: Speaker = "user") -> ChatFormat:
        """Learn the format from the tokenizer's chat template; `UserError` where it has none."""
        name = getattr(tokenizer, "name_or_path", "") or "the tokenizer"
        if not tokenizer.chat_template:
            raise UserError(f"{name}: has no chat template; train it first, or use a chat model")
        system, first, second = _turns("s"), _turns("uav"), _turns("b")
        whole = _between(tokenizer, system + first + second, name)
        plain = _between(tokenizer, first, name)
        pieces = {
            ("start", "system"): whole[0],
            ("system", "user"): whole[1],
            ("user", "assistant"): whole[2],
            ("assistant", "user"): whole[3],
            ("start", "user"): plain[0],
        }
        if whole[4] != whole[2] or plain[1:3] != whole[2:4]:
            raise UserError(
                f"{name}: its chat template writes equal turns differently; unsupported"
            )
        openings = {"user": system + _turns("u")} if speaker == "assistant" else {}
        if speaker == "user":
            openings = {"assistant": system + _turns("ua"), "system": system}
        opening = {
            last: _between(tokenizer, turns, name, speaker)[-1] for last, turns in openings.items()
        }
        lead = ""
        if speaker == "user":
            lead = _lead(pieces["assistant", "user"], opening["assistant"], name)
            start = pieces["start", "user"]
            opening["start"] = start[: len(start) - len(lead)]

        def encode(text: str) -> list[int]:
            ids: list[int] = tokenizer.encode(text, add_special_tokens=False)
            return ids

        vocabulary = tokenizer.get_vocab()
        return cls(
            tokenizer=tokenizer,
            speaker=speaker,
            pieces={key: encode(text) for key, text in pieces.items()},
            opening={key: encode(text) for key, text in opening.items()},
            lead=encode(lead),
            end_id=vocabulary.get(END_TOKEN) if speaker == "user" else None,
        )

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """The ids that ask the speaker for the next turn, given the turns so far.

        Shape: a flat list. A system message may come first; roles alternate after it.
        """
        ids, last = self.extend([], "start", messages)
        return ids + self.opening[last]

    def extend(
        self, ids: list[int], last: str, messages: Sequence[Message]
    ) -> tuple[list[int], str]:
        """`ids` of the turns up to one of role `last` (`start`: of none), with more turns.

        Returns the ids, the same list, and the role of their last turn.
        """
        texts = encode_texts(self.tokenizer, [message["content"] for message in messages])
        for message, text in zip(messages, texts, strict=True):
            ids += self.pieces[last, message["role"]] + text
            last = message["role"]
        return ids, last


def encode_texts(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of people's texts; a special token's name in them stays ordinary text."""
    backend = tokenizer.backend_tokenizer
    if backend.truncation is not None:
        backend.no_truncation()
    if backend.padding is not None:
        backend.no_padding()
    if not backend.encode_special_tokens:
        backend.encode_special_tokens = True
    # without offsets, which nobody asks for: 1.4 times as fast
    return [one.ids for one in backend.encode_batch_fast(list(texts), add_special_tokens=False)]


def special_ids(tokenizer: Any) -> set[int]:
    """Every control token: markup, beginnings, ends, reserved slots."""
    added = tokenizer.added_tokens_decoder
    return {*tokenizer.all_special_ids, *(i for i, token in added.items() if token.special)}


def _turns(marks: str) -> list[dict[str, str]]:
    roles = {"s": "system", "u": "user", "a": "assistant", "v": "user", "b": "assistant"}
    return [{"role": roles[m], "content": f"\ue000{m}\ue001"} for m in marks]


def _between(
    tokenizer: Any, turns: list[dict[str, str]], name: str, opens: Speaker | None = None
) -> list[str]:
    """The template's text before, between and after the marked turns."""
    extra = {"add_generation_prompt": opens is not None}
    try:
        text = tokenizer.apply_chat_template(turns, tokenize=False, **extra)
    except Exception as error:  # a template may raise anything
        raise UserError(
            f"{name}: its chat template refuses a {turns[0]['role']} turn: {error}"
        ) from None
    parts: list[str] = []
    for turn in turns:
        part, found, text = text.partition(turn["content"])
        if not found:
            raise UserError(
                f"{name}: its chat template drops or changes a turn's text; unsupported"
            )
        parts.append(part)
    return [*parts, text]


def _lead(between: str, opening: str, name: str) -> str:
    if not opening or not between.startswith(opening):
        raise UserError(
            f"{name}: its chat template does not open a *user* turn; it is not a user LM "
            "(an assistant model can stand on the other side: --assistant)"
        )
    return between[len(opening) :]
