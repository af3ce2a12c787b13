"""Toxic language by a word list, offline and over every message.

The list (`toxic_words.yaml`) is of English words and phrases by kind. It finds words and not what
they mean, so the figure to read is the difference from people's.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from userlm_synth.records import Record
from userlm_synth.reporting.trust.passages import plain_words
from userlm_synth.reporting.trust.share import Share, beside

LIST = Path(__file__).with_name("toxic_words.yaml")
SIDES = ("user", "assistant")
PLACES = 10


@dataclass(frozen=True)
class Lexicon:
    """Words by kind, and phrases by their longest word, which most texts do not have."""

    kinds: tuple[str, ...]
    words: dict[str, str]  # word -> kind
    phrases: dict[str, tuple[tuple[tuple[str, ...], str], ...]]  # longest word -> (words, kind)
    marks: frozenset[str]  # all of these words: a text without any has nothing

    def find(self, said: Sequence[str]) -> set[str]:
        """The kinds that the words of a message have."""
        kinds: set[str] = set()
        for mark in self.marks.intersection(said):
            if mark in self.words:
                kinds.add(self.words[mark])
            kinds |= {kind for phrase, kind in self.phrases.get(mark, ()) if _holds(said, phrase)}
        return kinds


def _holds(said: Sequence[str], phrase: tuple[str, ...]) -> bool:
    starts = (at for at, word in enumerate(said) if word == phrase[0])
    return any(tuple(said[at : at + len(phrase)]) == phrase for at in starts)


@functools.cache
def lexicon() -> Lexicon:
    """The shipped list."""
    import yaml

    entries = yaml.safe_load(LIST.read_text(encoding="utf-8"))
    single: dict[str, str] = {}
    phrases: dict[str, tuple[tuple[tuple[str, ...], str], ...]] = {}
    for kind, some in entries.items():
        for entry in some:
            parts = tuple(plain_words(entry))
            if len(parts) == 1:
                single[parts[0]] = kind
            else:
                mark = max(parts, key=len)
                phrases[mark] = (*phrases.get(mark, ()), (parts, kind))
    return Lexicon(tuple(entries), single, phrases, frozenset(single) | frozenset(phrases))


def is_toxic(text: str) -> bool:
    """Whether a text has any word of the list."""
    return bool(lexicon().find(plain_words(text)))


class Toxic:
    """Messages with a word of the list, by side and kind, over all records; part of a tally."""

    def __init__(self) -> None:
        kinds = ("any", *lexicon().kinds)
        self.shares = {side: {kind: Share() for kind in kinds} for side in SIDES}
        self.places: list[Record] = []

    def add(self, place: int, record: Record, words: Sequence[list[str]]) -> None:
        """A conversation and the `plain_words` of each of its messages."""
        listed = lexicon()
        found: dict[str, list[set[str]]] = {side: [] for side in SIDES}
        for number, (message, said) in enumerate(zip(record["messages"], words, strict=True)):
            kinds = listed.find(said)
            found.get(message["role"], []).append(kinds)
            if kinds and len(self.places) < PLACES:
                self.places.append(_place(place, record, number, kinds))
        for side, messages in found.items():
            hits = [kind for kinds in messages for kind in (*kinds, *(["any"] if kinds else []))]
            for kind, share in self.shares[side].items():
                share.add(hits.count(kind) if hits else 0, len(messages))

    def merge(self, later: Toxic) -> None:
        """The sums of both, and the first places."""
        for side, kind in self._all():
            self.shares[side][kind].merge(later.shares[side][kind])
        self.places = (self.places + later.places)[:PLACES]

    def _all(self) -> Iterator[tuple[str, str]]:
        return ((side, kind) for side, kinds in self.shares.items() for kind in kinds)


def _place(row: int, record: Record, number: int, kinds: set[str]) -> Record:
    role = record["messages"][number]["role"]
    at = {"row": row, "id": str(record.get("id")), "message": number}
    return {**at, "role": role, "kinds": sorted(kinds)}


def toxicity_part(made: Toxic, people: Toxic | None) -> Record:
    """`trust.toxicity`: {kind: "toxicity", kinds: [str], words: how many entries, user, assistant:
    {any and each kind: `share.beside`, % of that side's messages}, places: [{row, id, message,
    role, kinds}], the first 10}."""
    listed = lexicon()
    sides = {
        side: {
            kind: beside(share, people.shares[side][kind] if people else None)
            for kind, share in made.shares[side].items()
        }
        for side in SIDES
    }
    entries = len(listed.words) + sum(map(len, listed.phrases.values()))
    return {
        "kind": "toxicity",
        "kinds": list(listed.kinds),
        "words": entries,
        **sides,
        "places": made.places,
    }
