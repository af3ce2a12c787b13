"""Plain marks of style, counted over user turns: rates that a reader can check by eye.

A count takes a conversation and gives (how many have the mark, out of how many); sums over
conversations of the first by the second are the figures.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable

from userlm_synth.language import code, detect
from userlm_synth.metrics import POLITE, is_stopword, lemmas, words
from userlm_synth.records import INTENT_OPENING, Record, user_turns

Count = Callable[[Record], tuple[float, float]]

#: Emoji and pictures: the blocks of Unicode that hold little else, and the variation selector that
#: turns a sign into one.
EMOJI = re.compile("[\U0001f1e6-\U0001f1ff\U0001f300-\U0001faff\u2600-\u27bf\ufe0f]")
DIGIT = re.compile(r"\d")
LETTERS = 2  # fewer letters than this are an initial or a slip of the pen, and no word to look up


def turns_with(mark: Callable[[str], bool]) -> Count:
    """Count of the user turns that have a mark."""

    def count(record: Record) -> tuple[float, float]:
        turns = user_turns(record["messages"])
        return sum(map(mark, turns)), len(turns)

    return count


def starts_with_capital(text: str) -> bool:
    """The first character is an upper-case letter."""
    return text.strip()[:1].isupper()


def ends_with_stop(text: str) -> bool:
    """The last character is . ! or ?"""
    return text.rstrip().endswith((".", "!", "?"))


def has_question_mark(text: str) -> bool:
    """There is a ? somewhere."""
    return "?" in text


def has_exclamation(text: str) -> bool:
    """There is a ! somewhere."""
    return "!" in text


def has_emoji(text: str) -> bool:
    """There is an emoji somewhere."""
    return not text.isascii() and EMOJI.search(text) is not None


def is_polite(text: str) -> bool:
    """Says please, thanks or thank you."""
    return POLITE.search(text) is not None


def all_lower_case(text: str) -> bool:
    """There are letters, and none is upper-case."""
    return text.islower()


def words_per_turn(record: Record) -> tuple[float, float]:
    """Words of the user turns, and how many turns there are."""
    turns = user_turns(record["messages"])
    return sum(len(words(turn)) for turn in turns), len(turns)


def turns_per_dialogue(record: Record) -> tuple[float, float]:
    """User turns, and one dialogue."""
    return len(user_turns(record["messages"])), 1


# ---- words that no dictionary has ----------------------------------------------------------------


def unknown_words(record: Record) -> tuple[float, float]:
    """Words of the user turns that simplemma's English dictionary lacks, and all that were looked
    up: none where the user's turns are not in English. Numbers and single letters are left out."""
    turns = user_turns(record["messages"])
    if (code(record.get("language")) or detect(" ".join(turns))) != "en":
        return 0, 0
    there = [word for turn in turns for word in words(turn) if _looked_up(word)]
    return sum(not _in_dictionary(word) for word in there), len(there)


def _looked_up(word: str) -> bool:
    return len(word) >= LETTERS and not DIGIT.search(word)


@functools.lru_cache(maxsize=100_000)
def _in_dictionary(word: str) -> bool:
    """Whether a word is an English one, or what stands before its apostrophe is."""
    import simplemma

    stem = word.partition("'")[0]
    return is_stopword(word) or any(simplemma.is_known(one, lang="en") for one in {word, stem})


# ---- how early the intent is told ----------------------------------------------------------------


def front_loading(record: Record) -> tuple[float, float]:
    """Different words of the intent that the first user turn tells, and those that any user turn
    does; (0, 0) without an intent. Words as dictionary forms, without stopwords."""
    intent, turns = record.get("intent"), user_turns(record["messages"])
    if not intent or not turns:
        return 0, 0
    wanted = _subject(str(intent).removeprefix(INTENT_OPENING))
    told = wanted & _subject(" ".join(turns))
    return len(told & _subject(turns[0])), len(told)


def _subject(text: str) -> set[str]:
    return set(lemmas(word for word in words(text) if not is_stopword(word)))
