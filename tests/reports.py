"""Hand-made reports (report.json, version 2) for tests of the page and of the card: no dialogue
was read for them, their numbers are plausible and their texts are short."""

from __future__ import annotations

import random
from typing import Any

Record = dict[str, Any]

SUBJECTS = (
    "fix the rattling chain of an old bike",
    "plan a birthday for a child of six who loves octopuses",
    "understand why bread dough does not rise in a cold kitchen",
    "write a letter to the landlord about mould",
    "choose a telescope for the balcony",
    "learn twenty words of Portuguese before Friday",
)
REASONS = ("user_ended", "max_turns", "guardrails_exhausted")
#: key, group, unit, name, description, kind, made, people, half width of the intervals, p95
FIGURES: tuple[tuple[Any, ...], ...] = (
    ("first_turn_diversity", "diversity", "%", "First-turn diversity",
     "How little the words of two first user turns overlap.", "sides", 91.2, 93.4, 0.3, 0.35),
    ("distinct_2", "diversity", "%", "Distinct word pairs",
     "Different pairs of neighbouring words, of all pairs.", "sides", 61.8, 62.3, 0.9, 1.1),
    ("self_bleu", "diversity", "%", "Self-BLEU",
     "How much of a user's turns other users' turns hold too.", "sides", 18.4, 9.9, 0.6, 0.7),
    ("mattr", "diversity", "%", "Vocabulary in 50 words (MATTR)",
     "Different words among 50 in a row.", "sides", 77.1, 79.0, 0.4, 0.6),
    ("vendi", "diversity", "", "Vendi score",
     "How many entirely different conversations would be as varied.", "sides", 31.2, 44.9, 1.1, 1.4),
    ("near_duplicates", "diversity", "%", "Near-duplicates",
     "Dialogues whose user side is almost that of another.", "sides", 3.4, 0.2, 0.7, 0.3),
    ("two_sample", "naturalness", "%", "Told from people (AUROC)",
     "How well a classifier tells the dialogues from people's; 50 is chance.", "between",
     74.1, 50.3, 2.1, 0.0),
    ("mauve", "naturalness", "%", "MAUVE",
     "How much of the space of texts both sides share.", "between", 71.5, 94.8, 2.9, 0.0),
    ("frechet", "naturalness", "", "Fréchet distance",
     "Distance of the two clouds of embeddings.", "between", 0.0912, 0.0331, 0.006, 0.0),
    ("detector", "naturalness", "%", "Detector: human",
     "Mean probability that a detector gives to a human author.", "none", 0, 0, 0, 0),
    ("words_per_user_turn", "naturalness", "words", "Words per user turn",
     "Mean over all user turns.", "sides", 12.7, 13.1, 0.5, 0.6),
    ("starts_with_capital", "naturalness", "%", "Starts with a capital",
     "User turns whose first character is upper-case.", "sides", 71.0, 54.2, 1.9, 2.4),
    ("typos", "naturalness", "%", "Words not in the dictionary (typos, names)",
     "Of the words of the user's turns.", "sides", 1.21, 2.84, 0.11, 0.18),
    ("copied_8_grams", "trust", "%", "Passages found in other people's turns",
     "Runs of 8 words that as many other conversations hold too.", "sides", 0.14, 0.11, 0.05, 0.08),
    ("toxic", "trust", "%", "Turns with a word from the list of insults",
     "User turns with such a word.", "sides", 0.4, 1.3, 0.2, 0.4),
)  # fmt: skip


def talk(rng: random.Random, turns: int) -> list[Record]:
    """A short conversation about nothing in particular."""
    said = ["ok and what if that doesnt work", "How long does it take?", "thanks!", "cheaper way?"]
    messages = [{"role": "user", "content": f"I want to {rng.choice(SUBJECTS)}. Where do I start?"}]
    for _ in range(turns):
        words = rng.choices("first then look check wait turn slowly once more".split(), k=30)
        messages.append({"role": "assistant", "content": " ".join(words).capitalize() + "."})
        messages.append({"role": "user", "content": rng.choice(said)})
    return messages


def dialogue(at: int, *, prefix: str = "d") -> Record:
    """A dialogue as the page shows it."""
    rng = random.Random(f"{prefix}{at}")
    goal = SUBJECTS[at % len(SUBJECTS)]
    return {
        "id": f"{prefix}-{at:04}",
        "intent": f"You are a user chatting with an assistant language model to {goal}.",
        "intent_id": f"intent-{at % len(SUBJECTS)}",
        "persona": "Writes in short lines." if at % 4 == 0 else None,
        "stop_reason": REASONS[at % 5 % len(REASONS)],
        "user_model": "hf:user-lm@0f3a",
        "assistant_model": "openai:helper",
        "messages": talk(rng, rng.randint(1, 4)),
    }


def side(value: float, half: float) -> Record:
    return {"value": value, "low": round(value - half, 6), "high": round(value + half, 6)}


def measured(row: tuple[Any, ...], shift: float, reference: bool) -> Record:
    """A figure of the list above, `shift` away from it."""
    kind, made, people, half, p95 = row[5:]
    if kind == "none":
        return {"kind": "none", "why": "no detector was named"}
    made = round(made + shift * half, 6)
    if kind == "between":
        if not reference:
            return {"kind": "none", "why": "needs a reference"}
        beyond = abs(made - people) > 2 * half
        found = {"made": side(made, half), "floor": side(people, half)}
        return {"kind": "between", **found, "beyond_chance": beyond, "n": 500}
    gap = round(made - people, 6)
    return {
        "kind": "sides",
        "made": side(made, half),
        "people": side(people, half) if reference else None,
        "difference": gap if reference else None,
        "chance": {"median": p95 / 2, "p95": p95} if reference else None,
        "beyond_chance": abs(gap) > p95 if reference else None,
        "n": 500,
    }
