"""Geometry of the figures of an evaluation: numbers in, coordinates out; the template draws them.

A perplexity is never below 1, and its logarithm is the loss in nats: on a logarithmic axis bars
start at 1, so that their length means something there too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

WIDE = 10.0  # a span of this factor gets a logarithmic axis
WIDTH, HEIGHT = 400, 250  # of a panel, in SVG units (about one CSS pixel)
SMALL = 200  # height of a panel among many
LEFT, RIGHT, TOP, BOTTOM = 46, 58, 12, 38  # room for the labels
APART = 13  # between two labels at the ends of lines
BAR_WIDTH, BAR_ROOM, BAR, BAR_GAP = 400, 120, 13, 5  # one model's bars, and room for their values


@dataclass(frozen=True)
class Point:
    """A figure at a turn, with its interval where it has one."""

    turn: int
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Line:
    """A line of a panel: `style` is its class, `label` what stands at its end ("": nothing)."""

    label: str
    style: str
    points: Sequence[Point]
    band: bool = True


@dataclass(frozen=True)
class Scale:
    """Values to coordinates, straight or logarithmic."""

    low: float
    high: float
    log: bool
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Where a value lies, never outside."""
        low, high, value = (
            math.log(max(one, 1e-12)) if self.log else one for one in (self.low, self.high, value)
        )
        share = (value - low) / ((high - low) or 1.0)
        return round(self.start + (self.end - self.start) * min(1.0, max(0.0, share)), 2)


def straight_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """At most `most` + 1 round marks that enclose `low` and `high`."""
    span = high - low
    if span <= 1e-6 * abs(high):  # one value, as far as marks can say
        span = abs(high) or 1.0
    size = 10.0 ** math.floor(math.log10(span / most))
    step = next(one * size for one in (1, 2, 2.5, 5, 10, 20) if span <= (most - 1) * one * size)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(at * step, 10) for at in range(first, max(last, first + 1) + 1)]


def log_ticks(low: float, high: float, most: int = 7) -> list[float]:
    """Marks at 1, 2 and 5 of every power of ten that enclose `low` and `high`; fewer if many."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1
    heads = (1, 2, 5) if last - first <= 3 else (1, 3) if last - first <= 4 else (1,)
    every = [head * 10.0**power for power in range(first, last + 1) for head in heads]
    start = max(at for at, one in enumerate(every) if one <= low * (1 + 1e-9))
    end = next(at for at, one in enumerate(every) if at > start and one >= high * (1 - 1e-9))
    step = math.ceil((end - start) / most)
    return [*every[start:end:step], every[end]]


def shown(value: float) -> str:
    """A mark's label: as short as it can be."""
    return f"{value:.0e}".replace("e+0", "e") if value >= 1e6 else f"{value:,.10g}"


def axis(low: float, high: float, *, log: bool | None = None) -> tuple[list[float], bool]:
    """Marks over `low` to `high`, and whether the axis is logarithmic."""
    log = low > 0 and high / low > WIDE if log is None else log
    return (log_ticks(low, high) if log else straight_ticks(low, high)), log


# ---- Figure 3 --------------------------------------------------------------------------------


def bars(rows: Sequence[Sequence[tuple[str, Point]]]) -> dict[str, Any]:
    """Each model's bars, one below the other, and the axis that they share.

    A bar is its style and its value; `rows` may lack some.
    """
    points = [point for row in rows for _, point in row]
    lows, highs = [p.value for p in points], [max(p.value, p.high) for p in points]
    log = max(lows) / min(lows) > WIDE
    marks = log_ticks(1.0, max(highs)) if log else straight_ticks(0.0, max(highs), 5)
    end = BAR_WIDTH - BAR_ROOM
    scale = Scale(marks[0], marks[-1], log, 0, end)
    drawn = []
    for row in rows:
        parts = []
        for at, (style, point) in enumerate(row):
            y = BAR_GAP + at * (BAR + BAR_GAP)
            low, high = scale(point.low), scale(point.high)
            parts.append(
                {
                    "style": style,
                    "y": y,
                    "middle": y + BAR / 2,
                    "width": max(1.0, scale(point.value)),
                    "low": low,
                    "high": high,
                    "text": max(scale(point.value), high) + 6,
                    "point": point,
                }
            )
        drawn.append({"parts": parts, "height": BAR_GAP + len(row) * (BAR + BAR_GAP)})
    return {
        "width": BAR_WIDTH,
        "bar": BAR,
        "log": log,
        "rows": drawn,
        "ticks": [{"x": scale(mark), "label": shown(mark)} for mark in marks],
    }


# ---- Figures 4, 5 and 6 ----------------------------------------------------------------------


def panel(
    lines: Sequence[Line], *, marks: Sequence[float], log: bool, turns: int, height: int = HEIGHT
) -> dict[str, Any]:
    """Lines by turn, 1 to `turns`, with bands of their intervals and labels at their ends."""
    floor, right = height - BOTTOM, WIDTH - RIGHT
    across = Scale(1, max(turns, 2), False, LEFT + 8, right - 4)
    up = Scale(marks[0], marks[-1], log, floor, TOP)
    drawn = [_line(line, across, up) for line in lines]
    _part([one for one in drawn if one["label"]], TOP + 4, floor)
    step = max(1, math.ceil(turns / 8))
    return {
        "width": WIDTH,
        "height": height,
        "left": LEFT,
        "right": right,
        "floor": floor,
        "middle": (LEFT + right) / 2,
        "lines": drawn,
        "x_ticks": [{"x": across(at), "label": at} for at in range(1, turns + 1, step)],
        "y_ticks": [{"y": up(mark), "label": shown(mark)} for mark in marks],
    }


def _line(line: Line, across: Scale, up: Scale) -> dict[str, Any]:
    dots = [{"x": across(p.turn), "y": up(p.value), "point": p} for p in line.points]
    last = line.points[-1]
    there = [(across(p.turn), up(p.low), up(p.high)) for p in line.points]
    edge = [f"{x},{high}" for x, _, high in there] + [f"{x},{low}" for x, low, _ in there[::-1]]
    return {
        "label": line.label,
        "style": line.style,
        "path": " ".join(f"{dot['x']},{dot['y']}" for dot in dots),
        "dots": dots,
        "band": " ".join(edge) if line.band and len(there) > 1 else "",
        "whisker": there[0] if line.band and len(there) == 1 else None,
        "x": across(last.turn) + 9,
        "y": up(last.value),
    }


def _part(lines: Sequence[dict[str, Any]], top: float, floor: float) -> None:
    """Move labels at the ends of lines apart: down where they would cover each other, then up
    again where they would fall out of the panel."""
    ordered = sorted(lines, key=lambda line: float(line["y"]))
    room = top
    for line in ordered:
        line["y"] = max(line["y"], room)
        room = line["y"] + APART
    room = floor
    for line in reversed(ordered):
        line["y"] = round(min(line["y"], room), 2)
        room = line["y"] - APART
