"""Guardrails on user turns ("Flipping the Dialogue", App. D.1), as policy from the recipe.

What can be enforced in the sampler is (the first-token filter, no end before turn n, no empty
turn); the rest is checked on the text, and a turn that fails is sampled again, counted by reason.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from userlm_synth.errors import UserError
from userlm_synth.language import code, detect
from userlm_synth.records import INTENT_OPENING, Message
from userlm_synth.simulate.roles import breaks_role, runs_on

if TYPE_CHECKING:
    from userlm_synth.recipe import Guardrails

#: Why a user turn is refused, in the order in which it is looked at; `fault` gives one of them.
REASONS = (
    "ended_early", "unfinished", "empty", "control_tokens", "first_token", "run_on", "role_break",
    "too_short", "too_long", "repeats_a_turn", "repeats_the_intent", "language_drift",
)  # fmt: skip

UNWRITABLE = re.compile(r"[\x00\ud800-\udfff]")  # what no record may hold
# Control tokens as text, in the spellings of the common families, and what no record may hold.
MARKUP = re.compile(
    r"<\|[^<>|\s]{1,40}\|>|<(?:start|end)_of_turn>|\[/?INST\]|<</?SYS>>|</?s>|[\x00\ud800-\udfff]"
)
#: How tokenizers write the space before a word.
SPACES = ("", "Ġ", "▁")


def without_markup(text: str) -> str:
    """A model's text as data: control tokens are taken out before the other model sees it."""
    previous = None
    while previous != text:  # removing one may join the halves of another
        previous, text = text, MARKUP.sub("", text)
    return text


def fault(
    text: str,
    finish: str,
    messages: Sequence[Message],
    intent: str,
    rules: Guardrails,
    *,
    check_first: bool = True,
    language: str | None = None,
) -> str | None:
    """Why a user turn is refused (one of `REASONS`), or None.

    `check_first`: look at the first word, too, which a sampler may have done already; `language`:
    the code that `expected_language` gives, or None.
    """
    if finish == "end":  # left before it may, through a backend that cannot ban the token
        return "ended_early"
    if finish == "length":
        return "unfinished"
    if not text:
        return "empty"
    if (MARKUP if rules.control_tokens else UNWRITABLE).search(text):
        return "control_tokens"
    if check_first and rules.first_token_filter and _opens(rules.first_token_filter).match(text):
        return "first_token"
    if rules.run_on and runs_on(text):
        return "run_on"
    if rules.role_break and breaks_role(text):
        return "role_break"
    words = len(text.split())
    if words < rules.min_words:
        return "too_short"
    if rules.max_words is not None and words > rules.max_words:
        return "too_long"
    if rules.no_repeats and (repeated := _repeats(text, messages, intent)):
        return repeated
    if language is not None and _drifts(text, language):
        return "language_drift"
    return None


# ---- repeats ---------------------------------------------------------------------------------


def _repeats(text: str, messages: Sequence[Message], intent: str) -> str | None:
    new = _same(text)
    if any(new == _same(one["content"]) for one in messages if one["role"] == "user"):
        return "repeats_a_turn"
    return "repeats_the_intent" if new in _goal(intent) else None


def _same(text: str) -> str:
    """What two turns have in common that are equal but for case, spaces and the last full stop."""
    plain = " ".join(text.lower().split())
    return plain.strip(" .!?") or plain


@lru_cache(maxsize=4096)
def _goal(intent: str) -> frozenset[str]:
    """The intent, whole and without its usual opening, and a benchmark's bare task."""
    goal = intent.removeprefix(INTENT_OPENING)
    return frozenset(
        map(_same, (intent, goal, goal.strip().removeprefix("complete the following:")))
    )


# ---- the first word --------------------------------------------------------------------------


def _spellings(words: Iterable[str]) -> set[str]:
    """Both capitalisations, as in the paper; and the word as it is given."""
    return {form for word in words for form in (word, word.lower(), word.capitalize())}


@lru_cache(maxsize=64)
def _opens(words: tuple[str, ...]) -> re.Pattern[str]:
    forms = "|".join(re.escape(form) for form in sorted(_spellings(words), key=len, reverse=True))
    return re.compile(rf"\s*(?:{forms})(?!\w)")


def first_token_ids(tokenizer: Any, words: Sequence[str]) -> list[int]:
    """The tokens that are one of the words: both capitalisations, with a space before and without.

    A word of several tokens has none here, because its first piece opens other words, too (a
    filter of "Hereby" that forbids "Here"); `fault` finds it in the text. A word of one token
    still takes with it what is spelled with that token first ("I" takes "I'm").
    """
    vocabulary = tokenizer.get_vocab()
    found: set[int] = set()
    for form in _spellings(words):
        found |= {vocabulary[space + form] for space in SPACES if space + form in vocabulary}
        for spelling in (form, f" {form}"):  # how it writes letters beyond ASCII
            ids = tokenizer.encode(spelling, add_special_tokens=False)
            found |= set(ids) if len(ids) == 1 else set()
    return sorted(found)


# ---- language --------------------------------------------------------------------------------


def expected_language(rules: Guardrails, intent: str) -> str | None:
    """The code of the language that the user's turns are held to, or None.

    `auto`: the language that the intent is surely in, without its English opening.
    """
    if rules.language is None:
        return None
    if rules.language == "auto":
        return _language_of(intent)
    known = code(rules.language)
    if known is None:
        raise UserError(
            f"generate.guardrails.language: {rules.language!r} is no language that is known; "
            "give a code (en, pt) or auto"
        )
    return known


@lru_cache(maxsize=4096)
def _language_of(intent: str) -> str | None:
    return detect(intent.removeprefix(INTENT_OPENING).strip())


def _drifts(text: str, language: str) -> bool:
    """The text is surely in another language; where the detector is in doubt it is not."""
    return (found := detect(text)) is not None and found != language
