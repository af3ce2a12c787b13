"""Perplexity of an assistant model that is prompted to play the user.

It is told what `backends.prompted` tells it when it plays: a system message with the intent, the
turns so far from its side, and a note that asks for the person's next message. The person's own
words, as its reply, are scored. It has no end token and is asked to write its name instead: how
likely it is to write it there is scored at every place where the user may leave.

The notes differ from turn to turn, so a conversation of K turns is up to 2 K sequences, each with
the whole history: the cost grows with the square of the conversation's length.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from userlm_synth.backends import parse_spec
from userlm_synth.backends.prompted import NEXT, told_to
from userlm_synth.errors import UserError
from userlm_synth.evaluation.scoring import Kind, Model
from userlm_synth.records import END_TOKEN, Message, Record, Role, stable_hash
from userlm_synth.user_lm import END, WORD, ChatFormat, Rendered, encode_texts
from userlm_synth.user_lm.render import user_prompt_messages

Turn = tuple[Role, list[int]]
OPENING = 2  # messages that open what the model is told: they stay
EXCHANGE = (("user", "assistant"), ("assistant", "user"))
NO_PROBABILITIES = (
    "gives no probabilities of what people wrote; models in process do (hf:, vllm: and prompted: "
    "with one of them)"
)


def why_not_scored(spec: str) -> str | None:
    """Why the model of a SPEC has no perplexity; None where it has one."""
    parsed = parse_spec(spec)
    inner = parse_spec(parsed.target) if parsed.kind == "prompted" else parsed
    return None if inner.kind in ("hf", "vllm") else NO_PROBABILITIES


def open_model(spec: str, system: str | None = None) -> Model:
    """The model of a SPEC, to be scored; `system`: what its system message says (see `Model`).
    Raises `UserError` for one that gives no probabilities."""
    if why := why_not_scored(spec):
        raise UserError(f"{spec}: {why}")
    if spec.startswith("prompted:"):
        return PromptedModel(spec, system)
    return Model(spec, system)


class PromptedModel(Model):
    """An assistant checkpoint in the user's place."""

    most_tokens = 4096  # what it is told is long
    spells_end = True

    def __init__(self, name: str, system: str | None = None) -> None:
        super().__init__(name.removeprefix("prompted:"), system)
        self.name, self.fingerprint = f"prompted:{self.name}", f"prompted:{self.fingerprint}"

    def _recognise(self, tokenizer: Any) -> tuple[Kind, ChatFormat | None]:
        self._note = len(encode_texts(tokenizer, ["\n\n" + NEXT])[0])
        return "prompted", ChatFormat.probe(tokenizer, "assistant")

    @property
    def forms(self) -> tuple[str, ...]:
        """What it is told when it plays the user."""
        return ("prompted",)

    @property
    def wording(self) -> str:
        """All that it is told beside the conversation."""
        example: list[Message] = [
            {"role": "system", "content": "i"},
            {"role": "user", "content": "u"},
            {"role": "assistant", "content": "a"},
        ]
        return stable_hash(self.system, told_to(example, may_end=True))

    def windows(
        self, form: str, conversations: Sequence[Record], with_intent: bool, ends: bool = True
    ) -> Iterator[tuple[int, Rendered]]:
        """The person's words as the model's replies, a sequence each; with `ends` also the end
        token's name at every place where the user may leave."""
        end = encode_texts(self.tokenizer, [END_TOKEN])[0]
        for place, conversation in enumerate(map(self.shown, conversations)):
            messages = user_prompt_messages(conversation)
            system = [one for one in messages if one["role"] == "system" and with_intent]
            turns = [one for one in messages if one["role"] != "system"]
            ids = _Ids(self.chat)
            for number in range(1, len(turns) // 2 + 2):
                history = turns[: 2 * number - 2]
                told = ids.of(told_to([*system, *history], may_end=True))
                said = [one["content"] for one in turns[2 * number - 2 : 2 * number - 1]]
                replies = [(encode_texts(self.tokenizer, said)[0], WORD)] if said else []
                if ends and history:
                    replies.append((end, END))
                for at, (reply, kind) in enumerate(replies):
                    window = self._fitted(told, reply, kind, number, conversation["id"])
                    window.lost_beginnings *= not at  # a place counts once
                    yield place, window

    def _fitted(
        self, told: list[Turn], reply: list[int], kind: int, number: int, name: str
    ) -> Rendered:
        """What the model is told, and a reply. Where that is too long whole exchanges are left
        out, the oldest first; then the last one loses its beginning, and the reply its end."""
        told, shortened = list(told), False
        between = sum(len(self.chat.pieces[pair]) for pair in EXCHANGE)
        excess = len(self._prompt(told)) + len(reply) - self.max_length
        while excess > 0 and len(told) > OPENING + 2:
            excess -= between + sum(len(ids) for _, ids in told[OPENING : OPENING + 2])
            shortened = True
            del told[OPENING : OPENING + 2]
        for at in range(len(told) - 1, OPENING - 1, -1):
            (role, ids), note = told[at], self._note if at == len(told) - 1 else 0
            if excess > 0:
                keep = max(len(ids) - excess, note + 1)
                told[at], shortened, excess = (role, ids[-keep:]), True, excess - len(ids) + keep
        out = Rendered(lost_beginnings=int(shortened))
        out.add(self._prompt(told))
        room = self.max_length - len(out.ids)
        if room < 1 or (kind == END and room < len(reply)):
            raise UserError(
                f"conversation {name!r}: {self.name} takes {self.max_length:,} tokens, and what it "
                f"is told takes {len(out.ids):,}; leave the conversation out, or the model"
            )
        out.add(reply[:room], kind, number)
        out.lost_ends = int(room < len(reply))
        return out

    def _prompt(self, told: Sequence[Turn]) -> list[int]:
        ids: list[int] = []
        last = "start"
        for role, text in told:
            ids += self.chat.pieces[last, role] + text
            last = role
        return ids + self.chat.opening[last] + self.chat.lead


class _Ids:
    """The token ids of a conversation's messages, each text encoded once."""

    def __init__(self, form: ChatFormat) -> None:
        self.form = form
        self.known: dict[str, list[int]] = {}

    def of(self, messages: Sequence[Message]) -> list[Turn]:
        """(role, ids) of each message."""
        new = list({one["content"] for one in messages} - set(self.known))
        self.known.update(zip(new, encode_texts(self.form.tokenizer, new), strict=True))
        return [(one["role"], self.known[one["content"]]) for one in messages]
