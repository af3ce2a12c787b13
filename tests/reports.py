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
    ("vendi_score", "diversity", "", "Vendi score",
     "How many entirely different ones would be as varied.", "sides", 31.2, 44.9, 1.1, 1.4),
    ("near_duplicates", "diversity", "%", "Near-duplicates",
     "Dialogues whose user side is almost that of another.", "sides", 3.4, 0.2, 0.7, 0.3),
    ("classifier", "naturalness", "%", "Told from people (AUROC)",
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
    ("unknown_words", "naturalness", "%", "Words not in the dictionary (typos, names)",
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
        words = rng.choices(["first", "then", "look", "wait", "turn", "slowly", "once"], k=30)
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


def spread(rng: random.Random, bins: list[str], peak: float, total: int) -> Record:
    """A histogram with its mean, median and 90th percentile."""
    weights = [2.7 ** -abs(at - peak) + 0.02 for at in range(len(bins))]
    counts = [round(total * weight * rng.uniform(0.9, 1.1) / sum(weights)) for weight in weights]
    return {"bins": bins, "counts": counts, "mean": 12.73, "median": 9.0, "p90": 27.0}


def shape(seed: int, count: int, *, people: bool = False) -> Record:
    """What all records of one side look like."""
    rng = random.Random(seed)
    turns = [str(at) for at in range(1, 10)] + ["10+"]
    words = ["0\u20132", "3\u20135", "6\u201310", "11\u201325", "26\u201350", "51\u2013100", "101+"]
    return {
        "dialogues": count,
        "turns": spread(rng, turns, 2.0 + seed / 3, count),
        "words": {
            "user": {"turns": count * 3, **spread(rng, words, 2.2 + seed / 5, count * 3)},
            "assistant": {"turns": count * 3, **spread(rng, words, 4.6, count * 3)},
        },
        "unreadable": {"count": 0, "first": []},
        "stop_reasons": {} if people else {"user_ended": count - 300, "max_turns": 260,
                                           "guardrails_exhausted": 40},
        "rejected": {"total": 0 if people else 57 + seed,
                     "by_reason": {} if people else {"too_short": 40 + seed, "repeats_itself": 17},
                     "tokens": {part: {"prompt_tokens": 0 if people else 31_000,
                                       "completion_tokens": 800, "cached_tokens": 0}
                                for part in ("user", "assistant")}},
        "models": {"user": {} if people else {"hf:user-lm@0f3a": count},
                   "assistant": {} if people else {"openai:helper": count}},
        "intents": {"distinct": 411, "per_intent": {"min": 1, "median": 3.0, "max": 9},
                    "given": 420, "unused": 9, "unused_first": ["intent-7", "intent-8"]},
        "recipes": {} if people else {"f00dfeed": count},
        "languages": {"en": count},
        "sources": {"wildchat" if people else "userlm_synth": count},
        "guardrails": {} if people else {"too_long": 31 + seed, "echoes_intent": 12},
        "tokens": {part: {"prompt_tokens": 0 if people else 910_000,
                          "completion_tokens": 0 if people else 45_000, "cached_tokens": 0}
                   for part in ("user", "assistant")},
        "cost": None if people else {"user": 0.0, "assistant": 1.83, "total": 1.83},
        "end_probabilities": {
            "bins": [f"{at / 10:.1f}\u2013{(at + 1) / 10:.1f}" for at in range(10)],
            **{place: {"count": 0 if people else 55 * 10, "mean": None if people else mean,
                       "counts": [0 if people else 10 * abs(9 * low - at) for at in range(10)]}
               for place, mean, low in (("last", 0.71, 0), ("earlier", 0.08, 1))},
        },
    }  # fmt: skip


def parts(seed: int, reference: bool) -> Record:
    """Openings, topics, intents and near-duplicates."""
    rng = random.Random(seed)
    openings = ["how do i fix", "can you help me", "i need to know", "what is the best"]
    topics = [
        "bike chain oil rust",
        "cake candles octopus party",
        "yeast dough oven warm",
        "landlord mould letter damp",
        "telescope mirror balcony",
        "obrigado palavra verbo",
    ]
    groups = [{"count": 9, "different": 3, "ids": ["a", "b"], "text": "how do i fix a bike chain"}]
    return {
        "openings": [
            {"words": words, "count": 90 - 20 * at, "share": (90 - 20 * at + seed) / 12,
             "people_share": 1.9 / (at + 1) if reference else None}
            for at, words in enumerate(openings)
        ],
        "topics": {
            "k": 6, "n": 500, "people_n": 500 if reference else 0, "vectors": "TF-IDF, SVD 128",
            "without": 0.0,
            "clusters": [
                {"words": words.split(), "share": 34.0 / (at + 1) + rng.random(),
                 "people_share": 25.0 / (at + 1) + rng.random() if reference else None,
                 "example": {"id": f"d-{at}", "text": f"I want to {SUBJECTS[at]}."}}
                for at, words in enumerate(topics)
            ],
        },
        "per_intent": {
            "drawn": 411, "repeated": 300, "dialogues": 1089, "within": side(71.3, 1.2),
            "across": 91.0,
            "intents": [
                {"id": f"intent-{at}", "intent": dialogue(at)["intent"], "count": 4, "compared": 4,
                 "diversity": 31.0 + 5 * at, "unigram_difference": 0.3 + at / 20}
                for at in range(5)
            ],
        },
        "repetitions": {"unigram_difference": side(0.612, 0.02), "across": 0.83, "intents": 300,
                        "dialogues": 1089},
        "near_duplicates": {
            "n": 1200, "compared": "the first 50 words of the user's turns, by MinHash",
            "threshold": 0.8, "share": 3.4, "surplus": 2.1,
            "identical": {"share": 0.9, "groups": 4, "largest": groups},
            "near": {"share": 2.5, "groups": 11, "largest": groups},
            "pairs": [
                {"ids": [f"left-{at + 700:04}", f"right-{at + 700:04}"], "places": [at, at + 40],
                 "texts": ["fix the chain", "fix a chain"], "similarity": 0.97 - at / 50}
                for at in range(10)
            ],
        },
    }  # fmt: skip


def beside(made: float, people: float, reference: bool) -> Record:
    """A share over all dialogues."""
    gap = round(made - people, 6)
    return {
        "made": side(made, made / 10),
        "people": side(people, people / 10) if reference else None,
        "difference": side(gap, 0.1) if reference else None,
        "beyond_chance": abs(gap) > 0.1 if reference else None,
        "having": 12,
        "n": 1200,
    }


def trusted(seed: int, reference: bool) -> Record:
    """Leakage, echo, toxicity."""
    longest = {"words": 23, "text": "my grandmother had one of these and it never once broke down "
               "until the day the dog got hold of the cable and that was", "row": 7, "id": "d-0007",
               "message": 2}  # fmt: skip
    copied = {"passages": 40_000, "copied": 56, "dialogues": 1100, "dialogues_with_a_copy": 31}
    kinds = ["insult", "profanity", "threat"]
    place = {"row": 3, "id": "d-0003", "message": 2, "role": "user", "kinds": ["insult"]}
    return {
        "leakage": {
            "kind": "leakage", "words": 8,
            "training": {"name": "train.jsonl", "conversations": 9000, "passages": 310_000},
            "share": beside(0.14 + seed, 0.11, reference),
            "made": {**copied, "longest": longest},
            "people": {**copied, "longest": None} if reference else None,
        },
        "echo": {
            "kind": "echo", "words": 5, "runs": beside(2.2, 0.3, reference),
            "equal": beside(0.1, 0.01, reference),
            "first_turn": {
                name: beside(21.0, 14.0, reference) for name in ("of_turn", "of_intent", "jaccard")
            },
            "examples": [{"row": 1, "id": "d-0001", "message": 0, "intent": SUBJECTS[0],
                          "text": f"please {SUBJECTS[0]}"}],
        },
        "toxicity": {
            "kind": "toxicity", "kinds": kinds, "words": 240,
            "user": {kind: beside(0.4, 1.3, reference) for kind in ("any", *kinds)},
            "assistant": {kind: beside(0.02, 0.03, reference) for kind in ("any", *kinds)},
            "places": [place] * 3,
        },
        "privacy": {
            "kind": "privacy", "count": 7, "dialogues": 5, "share": beside(0.42, 0.9, reference),
            "kinds": {kind: {"count": 5, "dialogues": 3} for kind in ("email", "api_key")},
            "places": [{"row": 9, "id": "d-0009", "field": "messages[2]", "kind": "email"}],
        },
        "schema": {
            "kind": "schema", "checked": {"dialogue": 1200, "conversation": 0}, "count": 2,
            "share": 0.17,
            "places": [{"row": 4, "id": "d-0004", "problem": "seed: -1 is less than 0"}],
        },
    }  # fmt: skip


def one_set(name: str, seed: int, *, reference: bool) -> Record:
    """One set of a report."""
    return {
        "name": name,
        "available": 1200 + seed,
        "shape": shape(seed, 1200 + seed),
        "figures": {row[0]: measured(row, seed * 1.7, reference) for row in FIGURES},
        **parts(seed, reference),
        "trust": trusted(seed, reference),
        "examples": {
            "random": [dialogue(at + 100 * seed) for at in range(20)],
            "least_natural": [
                dialogue(at + 500 + 100 * seed) | {"score": 1.3 + at} for at in range(10)
            ]
            if reference
            else [],
            "least_natural_why": None if reference else "needs a reference",
            "nearest": [
                [dialogue(at + 700, prefix="left"), dialogue(at + 700, prefix="right")]
                for at in range(10)
            ],
        },
    }


def report(*, sets: int = 1, reference: bool = True, training: bool = True) -> Record:
    """A report of version 2 on one set or two."""
    names = ["dialogues/run-a", "dialogues/run-b"][:sets]
    definitions = [
        {"key": key, "group": group, "unit": unit, "name": name, "description": text,
         "source": "Somebody et al. 2021, equation 3."}
        for key, group, unit, name, text, *_ in FIGURES
    ]  # fmt: skip
    return {
        "version": 2,
        "title": "Small talk about repairs",
        "made_by": {"userlm_synth": "0.9.0", "words": "a regular expression", "lemmas": "none",
                    "stopwords": "a list", "packages": {"scikit-learn": "1.9.0"}},
        "seed": 3,
        "sampling": {
            "seed": 3, "n": 500, "limit": 2000, "splits": 200, "resamples": 1000,
            "embedding": {"name": "TF-IDF, SVD 128", "n": 1500, "dimensions": 128},
            "text": "The sample is drawn by seed.",
        },
        "reference": {"name": "people.jsonl", "available": 4000, "sources": {"wildchat": 4000},
                      "shape": shape(0, 4000, people=True)} if reference else None,
        "training": {"name": "train.jsonl", "available": 9000} if training else None,
        "cannot_say": ["No detector was named: nothing says how a detector would judge."]
        + ([] if reference else ["No reference was given: nothing says how natural this is."]),
        "warnings": [] if reference else ["Only 500 dialogues were looked at."],
        "definitions": definitions,
        "sets": [one_set(name, at, reference=reference) for at, name in enumerate(names)],
        "compare": comparison() if sets > 1 else None,
    }  # fmt: skip


def comparison() -> Record:
    """The second set minus the first."""
    return {
        "figures": {
            row[0]: {
                "difference": side(round(1.7 * row[8], 6), row[8]),
                "beyond_chance": row[8] > 1,
            }
            for row in FIGURES
            if row[5] != "none"
        }
    }
