"""Dialogues of one intent: how much they differ from each other. A tally over all dialogues.

Of the intents of the set 500 are drawn by a hash of their names, of each 20 dialogues by a hash of
their rows, so that it is the same draw in whatever order and on however many machines. Memory is
bounded by that: 10,000 texts.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from userlm_synth.metrics import bootstrap, first_turn_diversity, unigram_difference
from userlm_synth.records import Record, user_turns
from userlm_synth.reporting.diversity.alike import text_hash

INTENTS = 500  # drawn at most
EACH = 20  # dialogues of an intent at most
FIRST, SAID = 1600, 4000  # characters kept of the first user turn, and of all of them
SHOWN = 10  # intents of the report, those whose dialogues differ least
SHOWN_INTENT = 300  # characters of an intent's text
RESAMPLES = 1000

NO_INTENTS = "the dialogues name no intent"
NO_REPETITIONS = "no intent has two dialogues"


@dataclass
class _Intent:
    """What is kept of one intent: its name, how many dialogues it has, and the drawn ones."""

    name: str
    text: str
    count: int = 0
    drawn: list[tuple[int, int, str, str]] = field(default_factory=list)  # -hash, -row, texts

    def take(self, item: tuple[int, int, str, str]) -> None:
        """Keep a dialogue where it is among the `EACH` of the smallest hashes."""
        if len(self.drawn) < EACH:
            heapq.heappush(self.drawn, item)
        elif item > self.drawn[0]:  # negative hashes: the root is the one with the largest hash
            heapq.heapreplace(self.drawn, item)

    def dialogues(self) -> list[tuple[str, str]]:
        """(first user turn, all user turns) of the drawn dialogues, in the order of their rows."""
        return [one[2:] for one in sorted(self.drawn, key=lambda one: -one[1])]


class Repeats:
    """The tally: `add` each dialogue, `merge` later ones, `result` in the end."""

    def __init__(self) -> None:
        self._intents: dict[int, _Intent] = {}
        self._limit = 2**64  # intents whose names have no smaller hash are not drawn

    def add(self, place: int, record: Record) -> None:
        """Take in the dialogue of row `place`; one without an intent is left out."""
        text = record.get("intent") or ""
        name = record.get("intent_id") or text
        turns = user_turns(record["messages"])
        if not name or not turns:
            return
        number = text_hash(str(name))
        if number >= self._limit:
            return
        intent = self._intents.get(number)
        if intent is None:
            intent = self._intents[number] = _Intent(str(name), str(text))
            self._cut()
        intent.count += 1
        said = "\n".join(turns)[:SAID]
        intent.take((-text_hash(f"row {place}"), -place, turns[0][:FIRST], said))

    def _cut(self) -> None:
        """Let go of the intents of the largest hashes; they cannot come back."""
        if len(self._intents) > INTENTS:
            for number in sorted(self._intents)[INTENTS:]:
                del self._intents[number]
                self._limit = min(self._limit, number)

    def merge(self, later: Repeats) -> None:
        """Add those of later rows."""
        for number, other in later._intents.items():
            mine = self._intents.setdefault(number, _Intent(other.name, other.text))
            mine.count += other.count
            for item in other.drawn:
                mine.take(item)
        self._cut()  # an intent that either side has let go: there are 500 of smaller hashes

    def result(self) -> Record:
        """`{"per_intent": ..., "repetitions": ...}`; see `per_intent` and `repetitions`."""
        repeated = [one for _, one in sorted(self._intents.items()) if one.count > 1]
        if not repeated:
            why = NO_REPETITIONS if self._intents else NO_INTENTS
            return {name: {"kind": "none", "why": why} for name in ("per_intent", "repetitions")}
        measured = [_measure(one) for one in repeated]
        return {
            "per_intent": self._per_intent(measured),
            "repetitions": self._repetitions(repeated, measured),
        }

    def _across(self) -> list[tuple[str, str]]:
        """One dialogue of each drawn intent."""
        return [one.dialogues()[0] for _, one in sorted(self._intents.items())]

    def _per_intent(self, measured: list[Record]) -> Record:
        """First-turn diversity within one intent, beside that of different intents::

            {"drawn": intents drawn, "repeated": those of two dialogues or more,
             "dialogues": compared,
             "within": {"value", "low", "high"},   # mean over intents, %
             "across": % | null,                   # first turns of different intents, one of each
             "intents": [{"id": str | null, "intent", "count", "compared", "diversity": %,
                          "unigram_difference": 0 to 1}]}   # the 10 least diverse

        or `{"kind": "none", "why": str}`.
        """
        first = [turn for turn, _ in self._across()]
        return {
            "drawn": len(self._intents),
            "repeated": len(measured),
            "dialogues": sum(one["compared"] for one in measured),
            "within": _mean([one["diversity"] for one in measured]),
            "across": first_turn_diversity(first) if len(first) > 1 else None,
            "intents": sorted(measured, key=_least_diverse)[:SHOWN],
        }

    def _repetitions(self, repeated: list[_Intent], measured: list[Record]) -> Record:
        """Unigram difference between repetitions of one intent, the paper's Table 3::

            {"unigram_difference": {"value", "low", "high"},   # mean over intents, 0 to 1
             "across": 0 to 1 | null,   # the same between dialogues of different intents
             "intents": int, "dialogues": int}

        or `{"kind": "none", "why": str}`. The paper has 0.43 and 0.40 for prompted assistants and
        0.71 for UserLM-8b, over 10 runs of a task.
        """
        across = [said for _, said in self._across()]
        return {
            "unigram_difference": _mean([one["unigram_difference"] for one in measured]),
            "across": unigram_difference(across) if len(across) > 1 else None,
            "intents": len(repeated),
            "dialogues": sum(len(one.drawn) for one in repeated),
        }


def _measure(intent: _Intent) -> dict[str, Any]:
    dialogues = intent.dialogues()
    return {
        "id": intent.name if intent.name != intent.text else None,
        "intent": intent.text[:SHOWN_INTENT],
        "count": intent.count,
        "compared": len(dialogues),
        "diversity": max(0.0, first_turn_diversity([first for first, _ in dialogues])),
        "unigram_difference": unigram_difference([said for _, said in dialogues]),
    }


def _least_diverse(one: dict[str, Any]) -> tuple[float, str, str]:
    return one["diversity"], one["intent"], one["id"] or ""


def _mean(values: list[float]) -> dict[str, float]:
    """The mean over intents and its 95 % interval (percentile bootstrap over intents)."""
    mean = fmean(values)
    low, high = bootstrap(fmean, values, samples=RESAMPLES)
    return {"value": mean, "low": min(low, mean), "high": max(high, mean)}
