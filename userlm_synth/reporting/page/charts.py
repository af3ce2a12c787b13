"""Geometry of the page's charts: numbers in, coordinates out; the template draws them as SVG.

A series is a style and its numbers. Styles are CSS classes: `made` (the first set), `second` (the
set that it is compared with) and `people`; each has a colour and a pattern or mark of its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from userlm_synth.pages import shares

WIDTH, HEIGHT = 380, 220  # of a column chart, in SVG units (about one CSS pixel)
LEFT, RIGHT, TOP, BOTTOM = 38, 4, 10, 40  # room for the axis labels
GAP = 12  # between two groups of a bar chart
BAR = 11  # height of one bar
LABEL = 19  # of the line above the bars
VALUES = 92  # room for the numbers after a bar
STRIP_WIDTH, STRIP_PAD, STRIP_ROW = 180, 8, 14  # of the small interval chart in a table row
LETTER = 6.8  # width of a letter of a label under a column

Side = Mapping[str, float]  # {"value", "low", "high"}


def ticks(highest: float) -> list[int]:
    """Three to six round axis marks from 0 to at least `highest` percent."""
    step = next((size for size in (1, 2, 5, 10, 20) if highest <= 5 * size), 25)
    last = step
    while last < highest:
        last += step
    return list(range(0, last + 1, step))


def columns(bins: Sequence[str], series: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    """A histogram of series side by side, as shares, so that unequal sizes compare."""
    percent = {style: shares(list(counts)) for style, counts in series.items()}
    marks = ticks(max([1.0, *(share for found in percent.values() for share in found)]))
    floor, room = HEIGHT - BOTTOM, HEIGHT - BOTTOM - TOP
    slot = (WIDTH - LEFT - RIGHT) / max(1, len(bins))
    bar = slot * 0.78 / max(1, len(series))
    widest = max((len(label) for label in bins), default=0) * LETTER + 6
    step = max(1, math.ceil(widest / slot))
    groups = []
    for at, label in enumerate(bins):
        start = LEFT + slot * (at + 0.11)
        drawn = []
        for place, (style, counts) in enumerate(series.items()):
            height = room * percent[style][at] / marks[-1]
            drawn.append(
                {
                    "style": style,
                    "x": round(start + place * bar, 2),
                    "y": round(floor - height, 2),
                    "width": round(bar - min(1.0, bar / 5), 2),
                    "height": round(height, 2),
                    "count": counts[at],
                    "share": percent[style][at],
                }
            )
        middle = round(LEFT + slot * (at + 0.5), 2)
        groups.append({"label": label, "said": at % step == 0, "x": middle, "bars": drawn})
    lines = [{"y": round(floor - room * mark / marks[-1], 2), "label": mark} for mark in marks]
    frame = {"width": WIDTH, "height": HEIGHT, "left": LEFT, "floor": floor}
    return {**frame, "right": WIDTH - RIGHT, "groups": groups, "ticks": lines}


def bars(series: Mapping[str, Mapping[str, float]], most: int = 10) -> dict[str, Any]:
    """Horizontal bars by name, one a series, as shares of each series' sum.

    The names stand in the order of their largest share; those after the first `most` are added up
    under a name of their own.
    """
    series = {style: _together(series, counts, most) for style, counts in series.items()}
    totals = {style: sum(counts.values()) or 1 for style, counts in series.items()}
    percent = {
        name: {style: 100 * counts.get(name, 0) / totals[style] for style, counts in series.items()}
        for name in _ordered(series)
    }
    longest = max((share for found in percent.values() for share in found.values()), default=0) or 1
    rows, y = [], 0.0
    for name, found in percent.items():
        drawn = [
            {
                "style": style,
                "y": y + LABEL + place * (BAR + 3),
                "width": round((WIDTH - VALUES) * share / longest, 2),
                "count": series[style].get(name, 0),
                "share": share,
            }
            for place, (style, share) in enumerate(found.items())
        ]
        rows.append({"label": name, "y": y, "bars": drawn})
        y += LABEL + len(drawn) * (BAR + 3) + GAP
    return {"width": WIDTH, "height": max(1.0, y), "bar": BAR, "rows": rows}


def _ordered(series: Mapping[str, Mapping[str, float]]) -> list[str]:
    names = dict.fromkeys(name for counts in series.values() for name in counts)
    largest = {name: max(counts.get(name, 0) for counts in series.values()) for name in names}
    return sorted(names, key=lambda name: (name == OTHERS, -largest[name], name))


OTHERS = "all others"


def _together(
    series: Mapping[str, Mapping[str, float]], counts: Mapping[str, float], most: int
) -> dict[str, float]:
    """The counts of the first `most` names of all series, and the sum of the others."""
    first = _ordered(series)[:most]
    kept = {name: counts[name] for name in first if name in counts}
    rest = sum(counts.values()) - sum(kept.values())
    return {**kept, OTHERS: rest} if rest else kept


def strip(
    sides: Sequence[tuple[str, Side]], band: tuple[float, float] | None = None
) -> dict[str, Any]:
    """Intervals below each other on one line of numbers, and a band behind them."""
    ends = [end for _, side in sides for end in (side["low"], side["high"])] + [*(band or ())]
    low, high = min(ends), max(ends)
    scale = (STRIP_WIDTH - 2 * STRIP_PAD) / ((high - low) or 1.0)

    def place(value: float) -> float:
        return round(float(STRIP_PAD + (value - low) * scale), 2)

    rows = [
        {
            "style": style,
            "y": 11 + at * STRIP_ROW,
            "low": place(side["low"]),
            "high": place(side["high"]),
            "value": place(side["value"]),
        }
        for at, (style, side) in enumerate(sides)
    ]
    wide = round(max(1.0, (band[1] - band[0]) * scale), 2) if band else 0
    return {
        "width": STRIP_WIDTH,
        "height": 22 + (len(rows) - 1) * STRIP_ROW,
        "rows": rows,
        "band": {"x": place(band[0]), "width": wide} if band else None,
    }
