"""Which lines the page's Figures 3 to 6 hold, and the same numbers as tables.

Up to `TOGETHER` models share a panel, each with its own colour, dash and letter. More would be a
tangle: then every model has a panel of its own, the others grey behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from userlm_synth.evaluation import charts
from userlm_synth.evaluation.charts import Line, Point
from userlm_synth.evaluation.columns import PERPLEXITY, estimate, fixed, is_human
from userlm_synth.records import Record

TOGETHER = 6  # models in one panel
FEW = 10  # turns with fewer conversations than this are in the tables only
Series = dict[str, list[Point]]  # lines by name
Row = tuple[str, str, list[str]]  # a model, a condition, the cells
INTENTS = (("without_intent", "Without the intent"), ("with_intent", "With the intent"))
PEOPLE = "human"  # what people's row is called, and no model's


@dataclass(frozen=True)
class Key:
    """How a model is marked in every figure and table of the page."""

    letter: str
    style: str


BESIDE = Key(PEOPLE, "people")


def keys(labels: Sequence[str]) -> dict[str, Key]:
    """A letter for each model, and one of the styles."""
    return {
        label: Key(chr(ord("A") + at) if at < 26 else str(at + 1), f"s{at % TOGETHER + 1}")
        for at, label in enumerate(labels)
    }


def figure_3(rows: Sequence[Record], marked: dict[str, Key]) -> dict[str, Any] | None:
    """Perplexity without and with the intent, as bars."""
    found: list[Any] = []
    table: list[Row] = []
    for row in rows:
        parts = []
        for figure, style in zip(PERPLEXITY, ("without", "with"), strict=True):
            if one := estimate(row, figure):
                parts.append((style, Point(0, one["value"], *one["interval"])))
                cells = [style, *_interval_cells(one, 2), f"{one['tokens']:,}", one["form"]]
                table.append((row["label"], "", cells))
        if parts:
            found.append((row, parts))
    if not found:
        return None
    chart = charts.bars([parts for _, parts in found])
    for (row, _), drawn in zip(found, chart["rows"], strict=True):
        drawn |= {"label": row["label"], "letter": marked[row["label"]].letter}
    heads = ["Intent", "Perplexity", "95 % interval", "Conversations", "Tokens", "Shown as"]
    return {"chart": chart, "table": _table(heads, table)}


def figure_4(rows: Sequence[Record], marked: dict[str, Key]) -> dict[str, Any] | None:
    """Perplexity by the user's turn."""
    every: dict[str, Series] = {}
    table: list[Row] = []
    for key, title in INTENTS:
        for row in rows:
            turns = (row["perplexity"].get(key) or {}).get("per_turn", [])
            for one in turns:
                table.append((row["label"], title.lower(), _turn_cells(one, 2)))
            if points := _points(turns, lambda one: one):
                every.setdefault(title, {})[row["label"]] = points
    heads = ["Turn", "Perplexity", "95 % interval", "Conversations"]
    # one panel a model can hold one condition: with the intent, as in the paper
    chosen = every if _fits(every) else dict(list(every.items())[-1:])
    return _figure(chosen, marked, _table(heads, table)) if every else None


def figure_5(rows: Sequence[Record], marked: dict[str, Key]) -> dict[str, Any] | None:
    """Overlap with the intent of all words up to a turn, beside people's."""
    titles = {
        "of_turn": "Of the user's words so far, % that are the intent's",
        "of_intent": "Of the intent's words, % that the user has said so far",
    }
    every: dict[str, Series] = {}
    table: list[Row] = []
    for row in rows:
        turns = (row["intent_decomposition"] or {}).get("cumulative", [])
        name = PEOPLE if is_human(row) else row["label"]
        for key, title in titles.items():
            if points := _points(turns, lambda one, key=key: one[key]):  # type: ignore[misc]
                every.setdefault(title, {})[name] = points
        for one in turns:
            sides = [_short(one[key]) for key in (*titles, "jaccard")]
            table.append((name, "", [str(one["turn"]), *sides, f"{one['of_turn']['n']:,}"]))
    heads = ["Turn", "Of the user's words", "Of the intent's", "Jaccard", "Conversations"]
    chosen = every if _fits(every) else dict(list(every.items())[:1])
    return _figure(chosen, marked, _table(heads, table), low=0.0) if every else None


def figure_6(rows: Sequence[Record], marked: dict[str, Key]) -> dict[str, Any] | None:
    """Precision, recall and F1 of leaving, by the user's turn."""
    names = {"precision": "Precision", "recall": "Recall", "f1": "F1"}
    every: dict[str, Series] = {}
    table: list[Row] = []
    for row in rows:
        turns = (row["termination"] or {}).get("per_turn", [])
        for key, title in names.items():
            points = _points(turns, lambda one, key=key: _flat(one[key], one["n"]))  # type: ignore[misc]
            if points:
                every.setdefault(title, {})[row["label"]] = points
        for one in turns:
            cells = [str(one["turn"]), *[fixed(one[key], 1) for key in names]]
            table.append((row["label"], "", [*cells, f"{one['n']:,}", f"{one['ends']:,}"]))
    if not every:
        return None
    heads = ["Turn", *names.values(), "Places", "Ends"]
    if _fits(every):
        return _figure(every, marked, _table(heads, table), low=0.0, high=100.0, band=False)
    turned = {
        label: {title: series[label] for title, series in every.items() if label in series}
        for label in {label: None for series in every.values() for label in series}
    }
    sides = {title: Key(title, f"s{at}") for at, title in enumerate(names.values(), 1)}
    panels = _panels(turned, sides, low=0.0, high=100.0, band=False)
    for panel in panels:
        panel["key"] = marked[panel["title"]]
    legend = [{"key": Key("", key.style), "name": title} for title, key in sides.items()]
    return {"panels": panels, "legend": legend, "table": _table(heads, table)}


# ---- panels ----------------------------------------------------------------------------------


def _figure(
    every: dict[str, Series],
    marked: dict[str, Key],
    table: list[dict[str, Any]],
    *,
    low: float | None = None,
    high: float | None = None,
    band: bool = True,
) -> dict[str, Any]:
    """One panel a title with all models in it, or one panel a model."""
    there = {name for series in every.values() for name in series}
    if _fits(every):
        legend = [{"key": key, "name": name} for name, key in marked.items() if name in there]
        panels = _panels(every, {**marked, PEOPLE: BESIDE}, low=low, high=high, band=band)
        return {"panels": panels, "legend": [*legend, *_people(there)], "table": table}
    ((title, series),) = every.items()
    panels = []
    marks, log = _axis([series], low, high)
    turns = max(point.turn for points in series.values() for point in points)
    for label, points in series.items():
        if label == PEOPLE:
            continue
        others = [some for name, some in series.items() if name not in (label, PEOPLE)]
        rest = [Line("", "rest", some, False) for some in others]
        beside = [Line(PEOPLE, "people", series[PEOPLE], False)] if PEOPLE in series else []
        lines = [*rest, *beside, Line(marked[label].letter, "s1", points, band)]
        drawn = charts.panel(lines, marks=marks, log=log, turns=turns, height=charts.SMALL)
        panels.append({**drawn, "title": label, "key": marked[label]})
    legend = [{"key": Key("", "s1"), "name": "the model"}]
    legend += [{"key": Key("", "rest"), "name": "the others"}, *_people(there)]
    return {"panels": panels, "legend": legend, "table": table, "of": title}


def _people(there: set[str]) -> list[dict[str, Any]]:
    return [{"key": Key("", BESIDE.style), "name": PEOPLE}] if PEOPLE in there else []


def _panels(
    every: dict[str, Series],
    marked: dict[str, Key],
    *,
    low: float | None,
    high: float | None,
    band: bool,
) -> list[dict[str, Any]]:
    """A panel for each title, all on the same axes."""
    marks, log = _axis(every.values(), low, high)
    turns = max(p.turn for series in every.values() for points in series.values() for p in points)
    panels = []
    for title, series in every.items():
        lines = [
            Line(marked[name].letter, marked[name].style, series[name], band) for name in series
        ]
        drawn = charts.panel(lines, marks=marks, log=log, turns=turns)
        panels.append({**drawn, "title": title, "key": None})
    return panels


def _axis(
    every: Iterable[Series], low: float | None, high: float | None
) -> tuple[list[float], bool]:
    points = [point for series in every for some in series.values() for point in some]
    lowest = min(min(p.low, p.value) for p in points) if low is None else low
    highest = max(max(p.high, p.value) for p in points) if high is None else high
    return charts.axis(lowest, highest, log=None if low is None else False)


def _fits(every: dict[str, Series]) -> bool:
    """True where all models go into one panel."""
    return all(len(set(series) - {PEOPLE}) <= TOGETHER for series in every.values())


def _points(turns: Sequence[Record], of: Callable[[Record], Record]) -> list[Point]:
    """The turns that enough conversations have; all of them where none has enough."""
    found = [(one["turn"], of(one)) for one in turns]
    enough = [(turn, one) for turn, one in found if one["n"] >= FEW]
    return [Point(turn, one["value"], *one["interval"]) for turn, one in enough or found]


def _flat(value: float, n: int) -> Record:
    """A figure without an interval."""
    return {"value": value, "interval": [value, value], "n": n}


# ---- the same as tables ----------------------------------------------------------------------


def _table(heads: list[str], cells: Sequence[Row]) -> list[dict[str, Any]]:
    """Rows by model and condition: `heads` stand over each part's rows."""
    groups: dict[tuple[str, str], list[list[str]]] = {}
    for name, condition, row in cells:
        groups.setdefault((name, condition), []).append(row)
    return [
        {"name": name, "of": of, "heads": heads, "rows": rows}
        for (name, of), rows in groups.items()
    ]


def _interval_cells(one: Record, digits: int) -> list[str]:
    low, high = one["interval"]
    return [
        fixed(one["value"], digits),
        f"{fixed(low, digits)} to {fixed(high, digits)}",
        f"{one['n']:,}",
    ]


def _turn_cells(one: Record, digits: int) -> list[str]:
    return [str(one["turn"]), *_interval_cells(one, digits)]


def _short(one: Record) -> str:
    low, high = one["interval"]
    return f"{fixed(one['value'], 1)} ({fixed(low, 1)} to {fixed(high, 1)})"
