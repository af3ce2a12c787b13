"""Role adherence (Table 2 of the paper, metric 5): does the user stay a user?

The user asks a multiple-choice question and names its choices; the assistant does not know and asks
for the answer. By the paper's rule the simulator has fallen out of its role where its next turn
names one or two of the choices. All of them are a repeat of the question, and some but not all
beyond two (three of five) are a narrowing of it: neither counts as an answer. A user that leaves
has not answered.

A choice is named by its words, whole and in order, whatever their case and the punctuation between
them; of choices that overlap, the longest counts ("ice cream" is not "ice"). A turn that is nothing
but a label ("B", "(b)", "it's B.") names the choice at that place, although the question shows
none. That a choice is named in a denial ("not the bank") makes no difference, as in the paper.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from userlm_synth import metrics
from userlm_synth.estimates import Units
from userlm_synth.evaluation.kept import Turn
from userlm_synth.evaluation.probes import Probes, make_probes, read_choices
from userlm_synth.records import INTENT_OPENING, Record

if TYPE_CHECKING:
    from userlm_synth.recipe import Evaluate

NAME = "role adherence"
INTENT = f"{INTENT_OPENING} find out the right answer to a quiz question."
NO_QUESTIONS = "needs multiple-choice questions: evaluate.multiple_choice=FILE"
REQUEST = """\
Somebody has asked an assistant the quiz question below. Write the assistant's reply. In it the
assistant says honestly that it does not know the answer, and asks the person to tell it which one
is right. It names none of the choices, gives no hint and makes no guess. One to three sentences,
and nothing but the reply."""
LABEL = re.compile(
    r"(?:(?:i think|i guess|maybe|probably)?\s*(?:it'?s|it is|the answer is|answer:?|option)?\s*)?"
    r"\(?([a-z])\)?[.!?]*"
)

Outcome = Literal["adherent", "answered", "repeated_question"]


def role_probes(settings: Evaluate, out: Path, *, seed: int) -> Probes | None:
    """The probes of `evaluate.multiple_choice`; None without one (see `NO_QUESTIONS`)."""
    if settings.multiple_choice is None:
        return None
    file = Path(settings.multiple_choice)
    questions = read_choices(file)
    return make_probes(
        NAME, INTENT, file, questions, settings, out, may_end=True, request=REQUEST, seed=seed
    )


def role_adherence(
    probes: Probes, turns: Mapping[str, Turn], *, samples: int, seed: int
) -> tuple[Record, dict[str, Units]]:
    """`role_adherence`: the share of probes, x 100, in which the simulator gave no answer."""
    outcomes = {
        probe.question.id: outcome(turn.text, probe.question.choices)
        for probe, turn in probes.answered(turns)
    }
    adherent = {key: float(found != "answered") for key, found in outcomes.items()}
    units = Units.means(adherent, scale=100)
    found = list(outcomes.values())
    record = {
        **units.estimate(samples=samples, seed=seed),
        "answered": found.count("answered"),
        "repeated_question": found.count("repeated_question"),
        "unsure": probes.unsure,
        "questions": probes.questions,
    }
    return record, {"role_adherence": units}


def outcome(text: str, choices: Sequence[str]) -> Outcome:
    """What a turn does with the choices of the question."""
    count = len(named(text, choices))
    if count == len(choices):
        return "repeated_question"
    return "answered" if count in (1, 2) else "adherent"


def named(text: str, choices: Sequence[str]) -> set[int]:
    """Which choices a text names."""
    found = _by_words(text, choices)
    label = LABEL.fullmatch(text.strip().replace("\u2019", "'").lower())
    if label and not found and (place := ord(label[1]) - ord("a")) < len(choices):
        return {place}
    return found


def _by_words(text: str, choices: Sequence[str]) -> set[int]:
    spoken = metrics.words(text)
    wanted = [(metrics.words(choice), place) for place, choice in enumerate(choices)]
    wanted.sort(key=lambda pair: -len(pair[0]))
    found = {place for words, place in wanted if not words and choices[place] in text}  # "+", "%"
    at = 0
    while at < len(spoken):
        step = 1
        for words, place in wanted:
            if words and spoken[at : at + len(words)] == words:
                found.add(place)
                step = len(words)
                break
        at += step
    return found
