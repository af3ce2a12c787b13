"""What a report says of itself, ready for the template: its sets, facts, marks, how it was made.

A line is `{text, style}`: with two sets each has its own line, marked by its style.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from userlm_synth.pages import number
from userlm_synth.records import Record
from userlm_synth.reporting.page.shown import NAME, short
from userlm_synth.reporting.page.tables import STYLES, names_of

MOST = 8  # names of a mapping in one line

Line = dict[str, Any]
Row = tuple[str, list[Line]]


def heads(report: Record) -> list[dict[str, Any]]:
    """Each set: what it is called, how it is marked, and who made it."""
    return [
        {
            "name": name,
            "style": style,
            "count": one["shape"]["dialogues"],
            "users": list(one["shape"]["models"]["user"]),
            "assistants": list(one["shape"]["models"]["assistant"]),
        }
        for name, style, one in zip(names_of(report), STYLES, report["sets"], strict=False)
    ]


def facts(report: Record) -> list[tuple[str, list[int]]]:
    """The numbers under the title."""
    shapes = [one["shape"] for one in report["sets"]]
    found = [
        ("Dialogues", [shape["dialogues"] for shape in shapes]),
        ("Rejected", [shape["rejected"]["total"] for shape in shapes]),
        ("Distinct intents", [shape["intents"]["distinct"] for shape in shapes]),
        ("User turns", [shape["words"]["user"]["turns"] for shape in shapes]),
        ("Compared, each side", [report["sampling"]["n"]]),
    ]
    return [(name, values) for name, values in found if any(value is not None for value in values)]


def keys(report: Record) -> list[dict[str, str]]:
    """What the marks of the drawings mean."""
    names = names_of(report) if len(report["sets"]) > 1 else ["generated"]
    marks = [{"style": style, "name": name} for style, name in zip(STYLES, names, strict=False)]
    return [*marks, {"style": "people", "name": "people"}] if report["reference"] else marks


def spoken(mapping: Mapping[str, Any]) -> str:
    """`counts` of reasons, whose names are words joined by underscores."""
    return counts({str(name).replace("_", " "): count for name, count in mapping.items()})


def counts(mapping: Mapping[str, Any], most: int = MOST) -> str:
    """Names with their counts, the largest first, and how many more there are."""
    ordered = sorted(mapping.items(), key=lambda item: -item[1])
    said = [f"{short(str(name), NAME)} ({number(count)})" for name, count in ordered[:most]]
    if len(ordered) > most:
        said.append(f"{len(ordered) - most:,} more")
    return ", ".join(said) or "none"


def lines(report: Record, say: Callable[[Record], str | None]) -> list[Line]:
    """What each set says, with its mark where there are two."""
    several = len(report["sets"]) > 1
    found = zip(STYLES, map(say, report["sets"]), strict=False)
    return [{"text": text, "style": style if several else ""} for style, text in found if text]


def plain(text: str) -> list[Line]:
    """One line that is of no set."""
    return [{"text": text, "style": ""}]


def how(report: Record) -> Iterator[str]:
    """How the figures were taken, a few sentences each."""
    sampling = report["sampling"]
    yield str(sampling["text"])
    yield (
        f"Intervals resample whole conversations ({number(sampling['resamples'])} times). Figures "
        "that fall or rise with the size of a set are taken on random halves, of one size for all "
        "sides, and their interval is the spread of these halves."
    )
    if report["reference"]:
        yield (
            "Chance: the conversations of people are split into two halves again and again "
            f"({number(sampling['splits'])} times). A difference larger than in 95 of 100 such "
            "splits is called beyond chance; of twenty figures, one would be so by luck. Beyond "
            "chance is not bad in itself: it says that the difference is there."
        )
    if embedding := sampling["embedding"]:
        yield (
            f"Embeddings: {embedding['name']}, {number(embedding['dimensions'])} dimensions, of "
            "the user's turns together."
        )
    made = {**report["made_by"]}
    for name in ("userlm_synth", "packages"):
        made.pop(name, None)
    for name, text in made.items():
        yield f"{str(name).replace('_', ' ').capitalize()}: {text}"


def made_by(report: Record) -> str:
    """The versions behind the figures, in one line."""
    made = report["made_by"]
    versions = {"userlm_synth": made["userlm_synth"], **(made.get("packages") or {})}
    return ", ".join(f"{name} {version}" for name, version in versions.items())
