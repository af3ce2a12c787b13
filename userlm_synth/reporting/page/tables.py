"""The figures of a report as rows of text and small drawings, for one set or for two side by side.

A cell is `{label, value, interval, tag}`, all text that is ready to be shown; `tag` says whether a
difference is larger than chance makes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from userlm_synth.records import Record
from userlm_synth.reporting.page import charts
from userlm_synth.reporting.page.shown import NAME, short

STYLES = ("made", "second")  # of the first set, and of the one that is compared with it
GROUPS = {
    "diversity": (
        "Diversity",
        "How much the user's turns differ from each other, beside those of as many people.",
    ),
    "naturalness": (
        "Naturalness",
        "How much the user's turns read like those that people write.",
    ),
    "trust": (
        "Trust",
        "What should make a reader careful: copies, echoes, insults, personal data.",
    ),
}
#: What a reader looks at first; those that a report has, at most `HEADS` of them.
HEADLINES = (
    "first_turn_diversity",
    "vendi_score",
    "near_duplicates",
    "classifier",
    "mauve",
    "words_per_user_turn",
    "copied_8_grams",
    "self_bleu",
    "distinct_2",
    "detector",
)
HEADS = 6
PEOPLE = "People"
FLOOR = "People beside people"
ALL_OF_IT = {"within": "within chance", "beyond": "beyond chance"}

Cell = dict[str, Any]


def decimals(value: float) -> int:
    """Digits after the point that give a figure about three digits."""
    return 1 if abs(value) >= 9.995 or value == 0 else 2 if abs(value) >= 0.0995 else 3


def fixed(value: float, digits: int) -> str:
    """A number with so many digits after the point, and a true minus sign."""
    text = f"{value:,.{digits}f}"
    return text.replace("-", "\u2212") if float(text.replace(",", "")) else text.lstrip("-")


def names_of(report: Record) -> list[str]:
    """What the page calls each set: its name, told apart where two have the same."""
    names = [short(str(one["name"]), NAME) for one in report["sets"]]
    if len(set(names)) == len(names):
        return names
    return [f"{name} ({at})" for at, name in enumerate(names, 1)]


def of_set(report: Record, key: str) -> list[Record | None]:
    """A figure in each set, None where it was not measured."""
    found = [one["figures"].get(key) for one in report["sets"]]
    return [one if one and one["kind"] != "none" else None for one in found]


def unit(definition: Record) -> str:
    """A figure's unit, where its name does not say it already."""
    found = str(definition["unit"])
    if found.lower() in str(definition["name"]).lower():
        return ""
    return f"\u00d7{found[1:]}" if found.split(" ")[0] == "x" else found


def tag(beyond: bool | None) -> str:
    """Whether a difference is more than chance, in words; nothing where that is not known."""
    return "" if beyond is None else ALL_OF_IT["beyond" if beyond else "within"]


def cell(
    label: str, side: Record | None, *, beyond: bool | None = None, sign: bool = False
) -> Cell:
    """A value and its interval."""
    if side is None:
        return {"label": label, "value": "\u2013", "interval": "", "tag": ""}
    digits = decimals(side["value"])
    plus = "+" if sign and side["value"] >= 0 else ""
    low, high = side.get("low"), side.get("high")
    interval = (
        "" if low is None or high is None else f"{fixed(low, digits)} to {fixed(high, digits)}"
    )
    return {
        "label": label,
        "value": plus + fixed(side["value"], digits),
        "interval": interval,
        "tag": tag(beyond),
    }


# ---- the tables ------------------------------------------------------------------------------


def groups(report: Record) -> list[dict[str, Any]]:
    """Each group's two tables (side by side; from afar), and why some figures are missing."""
    found = []
    for key, (title, about) in GROUPS.items():
        definitions = [one for one in report["definitions"] if one["group"] == key]
        tables = [_table(report, definitions, kind) for kind in ("sides", "between")]
        found.append(
            {
                "key": key,
                "title": title,
                "about": about,
                "tables": [table for table in tables if table["rows"]],
                "reasons": reasons(report, definitions),
            }
        )
    return found


def _table(report: Record, definitions: Sequence[Record], kind: str) -> dict[str, Any]:
    rows = []
    for one in definitions:
        measured = of_set(report, one["key"])
        if kind in {found["kind"] for found in measured if found}:
            make = _side_cells if kind == "sides" else _between_cells
            drawn = charts.strip(*_strip(kind, measured))
            strip = drawn if len(drawn["rows"]) > 1 else None
            rows.append(
                {
                    **one,
                    "shown_unit": unit(one),
                    "cells": make(report, one["key"], measured),
                    "strip": strip,
                }
            )
    heads = [entry["label"] for entry in rows[0]["cells"]] if rows else []
    return {"kind": kind, "heads": heads, "rows": rows, "strips": any(row["strip"] for row in rows)}


def _side_cells(report: Record, key: str, measured: Sequence[Record | None]) -> list[Cell]:
    people = next((one["people"] for one in measured if one and one["people"]), None)
    chance = next((one["chance"] for one in measured if one and one["chance"]), None)
    beside = [cell(PEOPLE, people)] if report["reference"] else []
    if len(measured) > 1:
        return [*_made(report, measured), *beside, _compared(report, key)]
    (one,) = measured
    cells = [cell("Generated", one["made"] if one else None)]
    if not report["reference"] or one is None:
        return [*cells, *beside]
    gap = None if one["difference"] is None else {"value": one["difference"]}
    band = {"value": chance["p95"]} if chance else None
    halves = cell("Chance", band)
    halves["value"] = f"\u00b1{halves['value']}" if band else halves["value"]
    difference = cell("Difference", gap, beyond=one["beyond_chance"], sign=True)
    return [*cells, *beside, difference, halves]


def _between_cells(report: Record, key: str, measured: Sequence[Record | None]) -> list[Cell]:
    floor = next((one["floor"] for one in measured if one), None)
    if len(measured) > 1:
        made = _made(report, measured)
        return [*made, cell(FLOOR, floor), _compared(report, key)]
    (one,) = measured
    made = [cell("Generated beside people", one["made"] if one else None)]
    if one:
        made[0]["tag"] = tag(one["beyond_chance"])
    return [*made, cell(FLOOR, floor)]


def _made(report: Record, measured: Sequence[Record | None]) -> list[Cell]:
    return [
        cell(name, one["made"] if one else None, beyond=one["beyond_chance"] if one else None)
        for name, one in zip(names_of(report), measured, strict=True)
    ]


def _compared(report: Record, key: str) -> Cell:
    """The second set minus the first."""
    found = ((report["compare"] or {}).get("figures") or {}).get(key)
    if not found:
        return cell("Second \u2212 first", None)
    return cell(
        "Second \u2212 first", found["difference"], beyond=found["beyond_chance"], sign=True
    )


def _strip(
    kind: str, measured: Sequence[Record | None]
) -> tuple[list[tuple[str, Record]], tuple[float, float] | None]:
    """What `charts.strip` draws: each set, people, and the band of chance."""
    sides = [(style, one["made"]) for style, one in zip(STYLES, measured, strict=False) if one]
    there = next(one for one in measured if one)
    people = there["people"] if kind == "sides" else there["floor"]
    if people is None:
        return sides, None
    sides.append(("people", people))
    if kind == "between":
        return sides, (people["low"], people["high"])
    reach = there["chance"]["p95"] if there["chance"] else 0.0
    return sides, (people["value"] - reach, people["value"] + reach)


def reasons(report: Record, definitions: Sequence[Record]) -> dict[str, list[str]]:
    """Why figures were not measured: the names of the figures by reason."""
    found: dict[str, list[str]] = {}
    several = len(report["sets"]) > 1
    for one in definitions:
        states = [(each["name"], each["figures"].get(one["key"])) for each in report["sets"]]
        why = {name: state["why"] for name, state in states if state and state["kind"] == "none"}
        everywhere = len(why) == len(states) and len(set(why.values())) == 1
        for name, reason in why.items():
            said = one["name"] if everywhere or not several else f"{one['name']} ({name})"
            if said not in found.setdefault(reason, []):
                found[reason].append(said)
    return found


# ---- what comes first ------------------------------------------------------------------------


def headlines(report: Record) -> list[dict[str, Any]]:
    """The few figures at the top of the page."""
    by_key = {one["key"]: one for one in report["definitions"]}
    found: list[dict[str, Any]] = []
    for key in HEADLINES:
        measured = of_set(report, key) if key in by_key else []
        if any(measured) and len(found) < HEADS:
            found.append({**by_key[key], "unit": unit(by_key[key]), **_headline(measured)})
    return found


def _headline(measured: Sequence[Record | None]) -> dict[str, Any]:
    there = next(one for one in measured if one)
    people = there["people"] if there["kind"] == "sides" else there["floor"]
    return {
        "values": [
            {
                **cell("", one["made"], beyond=one["beyond_chance"]),
                "style": style,
            }
            for style, one in zip(STYLES, measured, strict=False)
            if one
        ],
        "beside": cell(PEOPLE if there["kind"] == "sides" else FLOOR, people) if people else None,
    }


def verdicts(report: Record) -> list[dict[str, Any]]:
    """For each set, how many of its figures lie within chance of people's."""
    found = []
    for name, one in zip(names_of(report), report["sets"], strict=True):
        told = [
            figure["beyond_chance"]
            for figure in one["figures"].values()
            if figure.get("beyond_chance") is not None
        ]
        if told:
            found.append({"name": name, "all": len(told), "within": told.count(False)})
    return found
