"""The report as one self-contained HTML page: no request, no outside script, hostile text inert.

`render_page` needs nothing but report.json, whose form `schemas/report.schema.json` describes.
`userlm_synth.pages` has the style and the care for texts of models and people; `shown` keeps the
page small whatever the texts are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from userlm_synth.pages import render
from userlm_synth.records import INTENT_OPENING, Record
from userlm_synth.reporting.page import details, tables
from userlm_synth.reporting.page.parts import parts
from userlm_synth.reporting.page.shapes import shape
from userlm_synth.reporting.page.shown import NAME, short, shortened, shown, shown_dialogue
from userlm_synth.reporting.page.trusting import trust

__all__ = ["render_page", "shown", "shown_dialogue"]

TEMPLATE = Path(__file__).with_name("page.html.j2")
LONG = 1200  # characters from which a message scrolls
LONG_LINES = 24  # or lines
TITLE = 400  # bytes of an entry's title
NO_INTENT = "no intent"
#: The lists of dialogues: key, title, what they are, what is said where there are none.
LISTS = (
    (
        "random",
        "Drawn at random",
        "Drawn from all dialogues with the report's seed, not chosen.",
        "There is no dialogue.",
    ),
    (
        "least_natural",
        "Least natural",
        "Those of the sample that a classifier, which had not seen them, is surest that people "
        "did not write.",
        "Nothing to rank them by: that needs a reference.",
    ),
    (
        "nearest",
        "Nearest pairs",
        "The pairs of dialogues whose user sides are most alike.",
        "No two dialogues are alike.",
    ),
)
WHO = {"user": ("user", "User"), "assistant": ("assistant", "Assistant")}


def render_page(report: Record) -> str:
    """The page for a report of version 2; the same report gives the same bytes."""
    examples = [one["examples"] for one in report["sets"]]
    plain = shortened({key: value for key, value in report.items() if key != "sets"})
    plain["sets"] = [
        shortened({key: value for key, value in one.items() if key != "examples"})
        for one in report["sets"]
    ]
    sets = details.heads(plain)
    lists, stops = _lists(examples, sets, _similar(plain))
    groups = tables.groups(plain)
    headlines = tables.headlines(plain)
    return render(
        TEMPLATE,
        report=plain,
        sets=sets,
        several=len(sets) > 1,
        sources=list((plain["reference"] or {}).get("sources") or {}),
        warnings=list(dict.fromkeys(plain["warnings"])),
        facts=details.facts(plain),
        links=_links(groups, headlines),
        headlines=headlines,
        verdicts=tables.verdicts(plain),
        groups=groups,
        keys=details.keys(plain),
        parts=parts(plain),
        trust=trust(plain),
        shape=shape(plain),
        lists=lists,
        stops=stops,
        how=list(details.how(plain)),
        made_by=details.made_by(plain),
    )


def _links(groups: Sequence[Record], headlines: Sequence[Record]) -> Iterator[tuple[str, str]]:
    """The parts of the page, for its table of contents."""
    if headlines:
        yield "short", "In short"
    yield from ((group["key"], group["title"]) for group in groups)
    yield "shape", "Shape"
    yield "dialogues", "Dialogues"
    yield "how", "How to read this page"
    yield "definitions", "Definitions"


# ---- the dialogues ---------------------------------------------------------------------------


def _similar(report: Record) -> dict[tuple[str, ...], float]:
    """How alike the dialogues of each pair are, by their ids."""
    return {
        tuple(map(str, pair["ids"])): pair["similarity"]
        for one in report["sets"]
        for pair in one["near_duplicates"]["pairs"]
    }


def _lists(
    examples: Sequence[Record],
    sets: Sequence[Record],
    similar: Mapping[tuple[str, ...], float],
) -> tuple[list[dict[str, Any]], list[str]]:
    """The lists of entries, and the stop reasons that the filter offers."""
    entries = [
        (key, at, entry if key == "nearest" else [entry])
        for key, *_ in LISTS
        for at, found in enumerate(examples)
        for entry in found.get(key) or []
    ]
    flat = shown(list(chain.from_iterable(dialogues for _, _, dialogues in entries)))
    stops = sorted({one["stop_reason"] for one in flat if one["stop_reason"]})
    rest = iter(flat)
    drawn: dict[str, list[dict[str, Any]]] = {key: [] for key, *_ in LISTS}
    for key, at, dialogues in entries:
        views = [_dialogue(next(rest)) for _ in dialogues]
        entry = _entry(views, stops, similar) | {
            "at": at,
            "set": sets[at]["name"] if len(sets) > 1 else "",
        }
        drawn[key].append(entry | {"open": key == "random" and not drawn[key]})
    why = {"least_natural": next((one.get("least_natural_why") for one in examples), None)}
    lists = [
        {
            "title": _counted(title, drawn[key]),
            "about": about,
            "empty": f"There are none: {short(reason)}." if (reason := why.get(key)) else none,
            "entries": drawn[key],
        }
        for key, title, about, none in LISTS
    ]
    return lists, [short(reason, 100) for reason in stops]


def _counted(title: str, entries: Sequence[Any]) -> str:
    return f"{title}: {len(entries)}" if entries else title


def _entry(
    views: Sequence[Record], stops: Sequence[str], similar: Mapping[tuple[str, ...], float]
) -> dict[str, Any]:
    """One line that opens: a dialogue, or a pair of them."""
    meta = views[0]["meta"]
    if len(views) > 1:
        near = similar.get(tuple(str(one["id"]) for one in views))
        meta = "two dialogues" if near is None else f"{100 * near:.0f} % alike"
    return {
        "dialogues": views,
        "title": views[0]["title"],
        "meta": meta,
        "stops": [stops.index(one["stop_reason"]) for one in views if one["stop_reason"]],
    }


def _dialogue(found: Record) -> Record:
    """A dialogue as the template shows it."""
    intent = short(found["intent"]) if found["intent"] else NO_INTENT
    messages = [_message(message) for message in found["messages"]]
    said = next((one["content"] for one in messages if one["side"] == "user"), "")
    turns = sum(one["side"] == "user" for one in messages)
    says = [f"{turns} user turn{'s' if turns != 1 else ''}"]
    if found["stop_reason"]:
        says.append(short(found["stop_reason"].replace("_", " "), 100))
    if found.get("score") is not None:
        says.append(f"{found['score']:.1f} % likely to be a person's")
    title = intent.removeprefix(INTENT_OPENING).strip() if found["intent"] else said or NO_INTENT
    names = {
        name: short(found[name], NAME) if found[name] else None
        for name in ("id", "user_model", "assistant_model")
    }
    return {
        **names,
        "persona": short(found["persona"]) if found["persona"] else None,
        "intent": intent,
        "title": short(title, TITLE),
        "meta": ", ".join(says),
        "stop_reason": found["stop_reason"],
        "messages": messages,
        "left_out": found.get("left_out", 0),
    }


def _message(message: Record) -> Record:
    text = message["content"]
    side, who = WHO.get(message["role"], ("assistant", short(str(message["role"]), 40)))
    long = len(text) > LONG or text.count("\n") >= LONG_LINES
    return {"side": side, "who": who, "content": text, "long": long, "cut": message.get("cut", 0)}
