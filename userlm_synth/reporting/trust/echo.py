"""Intent echo: a user who says the intent's own words tells everything at once, as no person does.

Counted are user turns with a run of 5 words of the intent, turns that are the intent, and how much
of the intent the first turn repeats (the paper's intent overlap, arXiv 2510.06552).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

from userlm_synth.metrics import intent_overlap, words
from userlm_synth.records import INTENT_OPENING, Record
from userlm_synth.reporting.trust.passages import plain_words
from userlm_synth.reporting.trust.share import Share, beside

RUN = 5  # words of the intent in a row
EXAMPLES = 5
LONGEST = 300  # characters of an example
UNIT = 10**6  # overlaps are added up as whole numbers of millionths of a percent, to be exact
OVERLAPS = ("of_turn", "of_intent", "jaccard")


@functools.lru_cache(maxsize=20_000)
def _intent(text: str) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    """An intent without its opening: its words joined, every `RUN` of them, and those that its
    overlap is counted by."""
    goal = text.removeprefix(INTENT_OPENING)
    plain = plain_words(goal)
    runs = [plain[at : at + RUN] for at in range(len(plain) - RUN + 1)]
    return _joined(plain), tuple(dict.fromkeys(map(_joined, runs))), tuple(words(goal))


def _joined(some: Sequence[str]) -> str:
    """Words with a space around each, so that a run is found at whole words only."""
    return f" {' '.join(some)} "


def repeats(intent: str, said: Sequence[str]) -> tuple[bool, bool]:
    """Whether a turn (its `plain_words`) has `RUN` words of the intent in a row, and whether it is
    the intent, with or without the words that every intent opens with."""
    goal, runs, _ = _intent(intent)
    text = _joined(said)
    equal = bool(goal.strip()) and (text == goal or text == _joined(plain_words(intent)))
    return equal or any(run in text for run in runs), equal


class Echo:
    """Turns that repeat the intent, over all records that have one; part of a tally."""

    def __init__(self) -> None:
        self.runs, self.equal = Share(), Share()
        self.overlap = {name: Share() for name in OVERLAPS}
        self.examples: list[Record] = []

    def add(self, place: int, record: Record, turns: Sequence[tuple[int, list[str]]]) -> None:
        """A conversation; `turns`: of its user, the number of the message and its `plain_words`."""
        intent = record.get("intent")
        if not isinstance(intent, str) or not intent.strip() or not turns:
            return
        found = [repeats(intent, said) for _, said in turns]
        self.runs.add(sum(run for run, _ in found), len(turns))
        self.equal.add(sum(equal for _, equal in found), len(turns))
        first = words(record["messages"][turns[0][0]]["content"])
        for name, value in intent_overlap(first, _intent(intent)[2]).items():
            self.overlap[name].add(round(value * UNIT), UNIT)
        if len(self.examples) < EXAMPLES:
            self._keep(place, record, [turns[at][0] for at, (run, _) in enumerate(found) if run])

    def _keep(self, place: int, record: Record, messages: Sequence[int]) -> None:
        for message in messages[: EXAMPLES - len(self.examples)]:
            text = record["messages"][message]["content"][:LONGEST]
            at = {"row": place, "id": str(record.get("id")), "message": message}
            self.examples.append({**at, "intent": record["intent"][:LONGEST], "text": text})

    def merge(self, later: Echo) -> None:
        """The sums of both, and the first examples."""
        self.runs.merge(later.runs)
        self.equal.merge(later.equal)
        for name in OVERLAPS:
            self.overlap[name].merge(later.overlap[name])
        self.examples = (self.examples + later.examples)[:EXAMPLES]


def echo_part(made: Echo, people: Echo | None) -> Record:
    """`trust.echo`: {kind: "echo", words: 5, runs, equal (`share.beside`, % of user turns of
    dialogues with an intent), first_turn: {of_turn, of_intent, jaccard: `share.beside`, %},
    examples: [{row, id, message, intent, text}], the first 5}; or {kind: "none", why}."""
    if not made.runs.n:
        return {"kind": "none", "why": "no dialogue has an intent"}
    return {
        "kind": "echo",
        "words": RUN,
        "runs": beside(made.runs, people.runs if people else None),
        "equal": beside(made.equal, people.equal if people else None),
        "first_turn": {
            name: beside(made.overlap[name], people.overlap[name] if people else None, scale=1)
            for name in OVERLAPS
        },
        "examples": made.examples,
    }
