"""Geometry of the page's charts: numbers in, coordinates out; the template draws them as SVG."""

from __future__ import annotations

from typing import Any

from userlm_synth.pages import shares

WIDTH, HEIGHT = 380, 220  # of a column chart, in SVG units (about one CSS pixel)
LEFT, RIGHT, TOP, BOTTOM = 38, 4, 10, 40  # room for the axis labels
ROW = 30  # height of one bar of a bar chart
STRIP_WIDTH, STRIP_PAD = 180, 8  # of the small interval chart in a table row


def ticks(highest: float) -> list[int]:
    """Three to six round axis marks from 0 to at least `highest` percent."""
    step = next((size for size in (1, 2, 5, 10, 20) if highest <= 5 * size), 25)
    last = step
    while last < highest:
        last += step
    return list(range(0, last + 1, step))


def columns(bins: list[str], generated: list[int], reference: list[int]) -> dict[str, Any]:
    """A histogram of two series side by side, as shares, so that unequal sizes compare."""
    series = {
        "generated": (generated, shares(generated)),
        "reference": (reference, shares(reference)),
    }
    marks = ticks(max([1.0, *series["generated"][1], *series["reference"][1]]))
    floor, room = HEIGHT - BOTTOM, HEIGHT - BOTTOM - TOP
    slot = (WIDTH - LEFT - RIGHT) / len(bins)
    bar = slot * 0.38
    groups = []
    for at, label in enumerate(bins):
        middle = LEFT + slot * (at + 0.5)
        bars = [
            {
                "series": name,
                "x": round(middle + (-bar - 0.5 if name == "generated" else 0.5), 2),
                "y": round(floor - room * share[at] / marks[-1], 2),
                "width": round(bar, 2),
                "height": round(room * share[at] / marks[-1], 2),
                "count": counts[at],
                "share": share[at],
            }
            for name, (counts, share) in series.items()
        ]
        groups.append({"label": label, "x": round(middle, 2), "bars": bars})
    lines = [{"y": round(floor - room * mark / marks[-1], 2), "label": mark} for mark in marks]
    return {"width": WIDTH, "height": HEIGHT, "left": LEFT, "floor": floor, "groups": groups} | {
        "ticks": lines,
        "right": WIDTH - RIGHT,
    }


def bars(counts: dict[str, int]) -> dict[str, Any]:
    """Horizontal bars, one for each name, the longest as wide as the chart allows."""
    left, right = 0, 92
    longest = max(counts.values(), default=0) or 1
    total = sum(counts.values()) or 1
    rows = [
        {
            "label": name,
            "y": at * (ROW + 12),
            "width": round((WIDTH - left - right) * count / longest, 2),
            "count": count,
            "share": 100 * count / total,
        }
        for at, (name, count) in enumerate(counts.items())
    ]
    return {"width": WIDTH, "height": max(1, len(rows)) * (ROW + 12), "rows": rows}


def strip(measured: dict[str, Any]) -> dict[str, Any]:
    """Both intervals on one line of numbers, and the band that chance alone would cover."""
    made, people = measured["generated"], measured["reference"]
    chance = measured["chance"]["p95"]
    band = (people["value"] - chance, people["value"] + chance)
    low, high = min(made["low"], people["low"], band[0]), max(made["high"], people["high"], band[1])
    scale: float = (STRIP_WIDTH - 2 * STRIP_PAD) / ((high - low) or 1)

    def place(value: float) -> float:
        return round(float(STRIP_PAD + (value - low) * scale), 2)

    rows = [
        {
            "series": name,
            "y": y,
            "low": place(side["low"]),
            "high": place(side["high"]),
            "value": place(side["value"]),
        }
        for name, side, y in (("generated", made, 11), ("reference", people, 25))
    ]
    return {
        "width": STRIP_WIDTH,
        "rows": rows,
        "band": {"x": place(band[0]), "width": round(max(1.0, (band[1] - band[0]) * scale), 2)},
    }
