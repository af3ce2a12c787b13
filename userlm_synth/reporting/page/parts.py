"""Openings, topics, intents and near-duplicates of each set, ready for the template."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from userlm_synth.pages import number
from userlm_synth.records import Record
from userlm_synth.reporting.page.details import Row, heads, plain
from userlm_synth.reporting.page.tables import decimals, fixed

OPENINGS = 10  # shown; report.json has more
EXAMPLE = 120  # characters

View = dict[str, Any]
#: What a set's block of a part may hold.
EMPTY: View = dict.fromkeys(
    ("table", "compared", "rows", "least", "note", "why", "quote", "quoted")
)


def parts(report: Record) -> list[View]:
    """What stands under the figures of diversity: a block for each set in every part."""
    found: list[tuple[str, str, str, Callable[[Record, str], View]]] = [
        (
            "Openings that recur",
            "The first four words of the first user turn, over all dialogues.",
            "Opening",
            _openings,
        ),
        (
            "Topics",
            "Clusters of the sample's embeddings, and the words that mark them. A topic that only "
            "one side has shows where the set goes beyond people, or falls short of them.",
            "Words that mark it",
            _topics,
        ),
        (
            "Dialogues of one intent",
            "How much the dialogues of an intent differ from each other.",
            "Intent",
            _intents,
        ),
        (
            "Repeated and nearly repeated",
            "Over all dialogues; the ten nearest pairs are among the dialogues to look at.",
            "",
            _copies,
        ),
    ]
    return [
        {
            "title": title,
            "about": about,
            "first": first,
            "sets": [
                {**EMPTY, **head, **make(one, head["style"])}
                for head, one in zip(heads(report), report["sets"], strict=True)
            ],
        }
        for title, about, first, make in found
    ]


def _shares(rows: Sequence[tuple[str, str, float, float | None]], style: str) -> View:
    """A table of shares beside people's: (text, example, share, people's share)."""
    with_people = any(people is not None for *_, people in rows)
    longest = max([share for *_, share, _ in rows] + [people or 0 for *_, people in rows]) or 1
    return {
        "people": with_people,
        "longest": longest,
        "rows": [
            {
                "text": text,
                "example": example,
                "share": float(share),
                "people": None if people is None else float(people),
                "bars": [(style, share)]
                + ([("people", people)] if with_people and people is not None else []),
            }
            for text, example, share, people in rows
        ],
    }


def _openings(one: Record, style: str) -> View:
    rows = [
        (str(found["words"]), "", found["share"], found["people_share"])
        for found in one["openings"][:OPENINGS]
    ]
    if not rows:
        return {"why": "No opening occurs twice."}
    return {"table": _shares(rows, style)}


def _topics(one: Record, style: str) -> View:
    topics = one["topics"]
    if topics.get("kind") == "none":
        return {"why": topics["why"]}
    rows = []
    for cluster in topics["clusters"]:
        example = str((cluster["example"] or {}).get("text", ""))
        cut = f"{example[:EXAMPLE]}\u2026" if len(example) > EXAMPLE else example
        words = ", ".join(cluster["words"]) or "no word of its own"
        rows.append((words, cut, cluster["share"], cluster["people_share"]))
    return {"table": _shares(rows, style)} if rows else {"why": "There are no topics."}


def _intents(one: Record, style: str) -> View:
    within, repetitions = one["per_intent"], one["repetitions"]
    if within.get("kind") == "none":
        return {"why": f"Not measured: {within['why']}."}
    rows: list[Row] = [
        ("Intents told more than once", plain(f"{number(within['repeated'])} of "
         f"{number(within['drawn'])} drawn, {number(within['dialogues'])} dialogues")),
        ("First-turn diversity, one intent", plain(interval(within["within"], " %"))),
    ]  # fmt: skip
    if within["across"] is not None:
        rows.append(("Between different intents", plain(f"{short_value(within['across'])} %")))
    if repetitions.get("kind") != "none":
        rows.append(
            ("Unigram difference, one intent", plain(interval(repetitions["unigram_difference"])))
        )
        if repetitions["across"] is not None:
            rows.append(("Between different intents", plain(short_value(repetitions["across"]))))
    least = [
        (str(found["intent"] or found["id"]), f"{number(found['count'])} dialogues",
         found["diversity"], None)
        for found in within["intents"]
    ]  # fmt: skip
    return {"rows": rows, "least": _shares(least, style)}


def _copies(one: Record, _: str) -> View:
    found = one["near_duplicates"]
    same, near = found["identical"], found["near"]
    exact, close = (f"{short_value(part['share'])} %" for part in (same, near))
    rows: list[Row] = [
        ("With a twin, identical or near", plain(f"{short_value(found['share'])} % of "
         f"{number(found['n'])} dialogues; {short_value(found['surplus'])} % could go")),
        ("Word for word", plain(f"{exact} in {number(same['groups'])} groups")),
        ("Nearly", plain(f"{close} in {number(near['groups'])} groups")),
    ]  # fmt: skip
    for title, groups in (("Largest group, word for word", same), ("Largest group", near)):
        if groups["largest"]:
            largest = groups["largest"][0]
            text = str(largest["text"])
            cut = f"{text[:EXAMPLE]}\u2026" if len(text) > EXAMPLE else text
            rows.append((title, plain(f"{number(largest['count'])} dialogues: \u201c{cut}\u201d")))
    return {"rows": rows, "note": f"Compared: {found['compared']}."}


def short_value(value: float) -> str:
    """About three digits."""
    return fixed(value, decimals(value))


def interval(side: Record, unit: str = "") -> str:
    """A value and its interval in a line."""
    digits = decimals(side["value"])
    value, low, high = (fixed(side[name], digits) for name in ("value", "low", "high"))
    return f"{value}{unit} ({low} to {high})"


def percent(part: int, whole: int) -> str:
    """A part of a whole, counted and as a share."""
    if not whole:
        return f"{number(part)} of none"
    return f"{number(part)} of {number(whole)} ({short_value(100 * part / whole)} %)"
