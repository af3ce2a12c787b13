"""Guardrails on user turns ("Flipping the Dialogue", App. D.1), as policy from the recipe.

What can be enforced in the sampler is (the first-token filter, no end before turn n, no empty
turn); the rest is checked on the text, and a turn that fails is sampled again, counted by reason.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from userlm_synth.records import INTENT_OPENING, Message, user_turns

if TYPE_CHECKING:
    from userlm_synth.recipe import Guardrails

# Control tokens as text, in the spellings of the common families, and what no record may hold.
MARKUP = re.compile(
    r"<\|[^<>|\s]{1,40}\|>|<(?:start|end)_of_turn>|\[/?INST\]|<</?SYS>>|</?s>|[\x00\ud800-\udfff]"
)


def without_markup(text: str) -> str:
    """A model's text as data: control tokens are taken out before the other model sees it."""
    previous = None
    while previous != text:  # removing one may join the halves of another
        previous, text = text, MARKUP.sub("", text)
    return text


def fault(
    text: str, finish: str, messages: Sequence[Message], intent: str, rules: Guardrails
) -> str | None:
    """Why a user turn is refused, or None: the keys of a dialogue's `guardrails`."""
    words = len(text.split())
    if finish == "end":  # left before it may, through a backend that cannot ban the token
        return "ended_early"
    if finish == "length":
        return "unfinished"
    if not text:
        return "empty"
    if MARKUP.search(text):
        return "control_tokens"
    if words < rules.min_words:
        return "too_short"
    if rules.max_words is not None and words > rules.max_words:
        return "too_long"
    if rules.no_repeats and _same(text) in {_same(turn) for turn in user_turns(messages)}:
        return "repeats_a_turn"
    if rules.no_repeats and _same(text) in (
        _same(intent),
        _same(intent.removeprefix(INTENT_OPENING)),
    ):
        return "repeats_the_intent"
    return None


def _same(text: str) -> str:
    return " ".join(text.lower().split()).strip(" .!?")


def first_token_ids(tokenizer: Any, words: Sequence[str]) -> list[int]:
    """First tokens of the filtered words, in lower case and capitalised, also after a space."""
    cases = {form for word in words for form in (word.lower(), word.capitalize())}
    spellings = cases | {f" {form}" for form in cases}
    return sorted({tokenizer.encode(s, add_special_tokens=False)[0] for s in spellings})
