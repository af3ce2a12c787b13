"""Which shards a user turn reveals by its words alone: no model, the same on every machine.

A shard is revealed where the turn has every number of the shard (3 and three are the same) and at
least `SHARE` of its other content words, as lemmas. It takes other words for the same thing for
silence, and what is told over two turns for neither; English only. It stands beside a judge, with
their agreement, and in its place where none is named.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from userlm_synth.metrics import is_stopword, lemmas, words

#: On 698 sharded GSM8K tasks (3,228 shards), a turn that is the whole question reveals 94 % of the
#: task's shards at this share (95 % at 0.4, 81 % at 1.0), and a turn that is one shard reveals 13 %
#: of the others (20 % and 4 %).
SHARE = 0.6

FIGURES = re.compile(r"\d[\d,]*(?:\.\d+)?")
UNITS = """
    zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen
    sixteen seventeen eighteen nineteen twenty
"""
TENS = "thirty forty fifty sixty seventy eighty ninety"
NAMED = {word: str(number) for number, word in enumerate(UNITS.split())} | {
    word: str(10 * number) for number, word in enumerate(TENS.split(), 3)
}

Revealed = list[frozenset[int]]  # the places of the shards, for each turn


@dataclass(frozen=True)
class Content:
    """What a text says: the numbers that have to be met, those there are, and its content words."""

    needed: frozenset[str]
    numbers: frozenset[str]
    lemmas: frozenset[str]


def _plain(number: str) -> str:
    """1,200.50 as 1200.5."""
    number = number.replace(",", "")
    return number.rstrip("0").rstrip(".") if "." in number else number


def content(text: str) -> Content:
    """The numbers and content words of a text. `one` may count as 1, but is not asked for: it
    mostly stands for a thing."""
    figures = {_plain(found) for found in FIGURES.findall(text)}
    there = words(FIGURES.sub(" ", text))
    named = {NAMED[word] for word in there if word in NAMED}
    needed = figures | {NAMED[word] for word in there if word in NAMED and word != "one"}
    plain = lemmas(word for word in there if word not in NAMED and not is_stopword(word))
    return Content(frozenset(needed), frozenset(figures | named), frozenset(plain))


def reveals(turn: Content, shard: Content) -> bool:
    """All of the shard's numbers, and at least `SHARE` of its content words; of a shard with
    neither, nothing is known."""
    if not shard.needed <= turn.numbers:
        return False
    if not shard.lemmas:
        return bool(shard.needed)
    return len(shard.lemmas & turn.lemmas) >= SHARE * len(shard.lemmas)


def match_turns(shards: Sequence[str], turns: Sequence[str]) -> Revealed:
    """Which shards each turn reveals."""
    parts = [content(text) for text in shards]
    return [
        frozenset(place for place, part in enumerate(parts) if reveals(said, part))
        for said in map(content, turns)
    ]


def kappa(one: Sequence[bool], other: Sequence[bool]) -> float | None:
    """Cohen's kappa of two raters, (p_o - p_e) / (1 - p_e); None where chance alone agrees in all.

    p_o is the share of equal ratings, p_e what two raters with these shares of yes would have by
    chance (Cohen 1960).
    """
    n = len(one)
    if n != len(other) or not n:
        raise ValueError(f"kappa compares pairs of ratings: {n} and {len(other)}")
    yes, also = sum(one) / n, sum(other) / n
    observed = sum(a == b for a, b in zip(one, other, strict=True)) / n
    expected = yes * also + (1 - yes) * (1 - also)
    return None if expected == 1 else (observed - expected) / (1 - expected)
