"""What a report says in words: how it sampled, what it cannot say, and what to be careful of."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

from userlm_synth.metrics import definitions
from userlm_synth.recipe import Report
from userlm_synth.records import Record
from userlm_synth.reporting.plan import LEAST, Plan

SMALL = 30  # conversations a side below which a percentile interval is too narrow
PACKAGES = ("numpy", "scikit-learn", "simplemma")


def made_by() -> Record:
    """The versions behind the figures, and what words are."""
    try:
        own = version("userlm-synth")
    except PackageNotFoundError:  # a bare checkout
        own = "unknown"
    packages = {name: version(name) for name in PACKAGES}
    return {"userlm_synth": own, **definitions(), "packages": packages}


def sampled(plan: Plan, sets: int) -> str:
    """How the figures' sample was drawn and compared."""
    one = "dialogue" if plan.n == 1 else "dialogues"
    text = (
        f"Counts are over all dialogues. Figures are measured on {plan.n:,} {one} of each set, "
        "drawn at random with the seed"
    )
    if plan.people:
        text += (
            f", beside {plan.n:,} reference conversations and {plan.n:,} others, which show how "
            "far apart two equal sets of people's conversations lie"
        )
    text += ". Intervals are 95 %."
    if sets > 1:
        text += (
            " The difference of the two sets is the second minus the first; its interval is made "
            "of theirs by the square-and-add method for independent samples (MOVER, Zou & Donner "
            "2008), and it is beyond chance where that leaves out 0."
        )
    return text


def cannot_say(
    sets: Sequence[Record], reference: bool, training: Record | None, settings: Report
) -> list[str]:
    """What was not given, and what the report therefore does not know."""
    lines = []
    if not reference:
        lines.append(
            "No reference was given: nothing here says how natural the dialogues are, or whether "
            "people's conversations are more or less diverse."
        )
    if training is None:
        lines.append(
            "No training conversations were given: nothing here says whether the dialogues repeat "
            "what the user model learnt from."
        )
    if not any(one["shape"]["intents"]["distinct"] for one in sets):
        lines.append(
            "The dialogues name no intents: nothing here says how they keep to one, or how "
            "repetitions of one differ."
        )
    if not settings.detector:
        lines.append(
            "No detector was named (report.detector): nothing here says what a trained detector of "
            "generated text makes of them."
        )
    if not settings.toxicity:
        lines.append(
            "No toxicity classifier was named (report.toxicity): insults and threats without a "
            "word of the list are not found."
        )
    return lines


def warnings(sets: Sequence[Record], people: int | None, n: int, settings: Report) -> list[str]:
    """What a reader should know before trusting the figures."""
    lines = []
    for one in sets:
        faults = one["shape"]["unreadable"]
        if faults["count"]:
            first = faults["first"][0]
            lines.append(
                f"{one['name']}: {faults['count']:,} rows hold no conversation with a user and are "
                f"left out (the first: row {first['row']}, {first['why']})."
            )
    if people is not None and people < LEAST:
        lines.append(
            f"The reference has {people} conversations, too few for two halves: nothing is "
            "compared with it."
        )
    if n < 2:
        lines.append("One dialogue has no variety: no figure is measured.")
    elif n < SMALL:
        lines.append(
            f"Only {n} conversations a side: the intervals are too narrow, read them with care."
        )
    fewest = min(one["available"] for one in sets)
    if people is not None and people >= LEAST and n < min(settings.sample, fewest):
        lines.append(
            f"The reference has {people:,} conversations, so only {n:,} of the dialogues of each "
            "set are compared; a larger reference makes sharper figures."
        )
    return lines
