"""The report's plots as PNG files for a dataset card, drawn by matplotlib.

The same report gives the same bytes: no dates, one font (DejaVu Sans, which matplotlib brings),
one background (white, so that they can be read on a dark page too).
"""

from __future__ import annotations

import unicodedata
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from userlm_synth.errors import UserError
from userlm_synth.records import Record
from userlm_synth.reporting.page import charts
from userlm_synth.reporting.page.details import keys
from userlm_synth.reporting.page.shapes import LENGTHS, series
from userlm_synth.reporting.page.tables import PEOPLE, STYLES, cell, of_set

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, SOFT, LINE, BAND = "#1c1f23", "#565d66", "#dcdfe3", "#e2e7ec"
COLOURS = {"made": "#1d5f9e", "second": "#0d7a5f", "people": "#b4631a"}
HATCHES = {"made": "", "second": "..", "people": "///"}
MARKERS = {"made": "o", "second": "D", "people": "s"}
FAR = 100.0  # times chance; what lies farther stands at the edge, as an arrow
WIDE = 9.0  # inches
NAME = 44  # characters of a name
SETTINGS: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "text.parse_math": False,
    "text.color": INK,
    "axes.labelcolor": SOFT,
    "axes.edgecolor": LINE,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "xtick.color": SOFT,
    "ytick.color": INK,
    "hatch.linewidth": 1.0,
    "legend.frameon": False,
    "svg.hashsalt": "report",
}
TITLES = {
    "diversity": "Diversity: how far from people",
    "naturalness": "Naturalness: how far from people",
}

Drawing = Callable[[Record], "Figure | None"]


def write_plots(report: Record, folder: Path) -> list[str]:
    """Draw what the report has into `folder`; the names of the files that were written.

    `diversity.png` and `naturalness.png` need a reference; `lengths.png` and `stop_reasons.png`
    need dialogues.
    """
    import matplotlib as mpl

    drawings: dict[str, Drawing] = {
        "diversity.png": lambda found: _beside(found, "diversity"),
        "naturalness.png": lambda found: _beside(found, "naturalness"),
        "lengths.png": _lengths,
        "stop_reasons.png": _stops,
    }
    written = []
    with mpl.rc_context(SETTINGS), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*[Gg]lyph.*")  # of a name in a rare script
        for name, draw in drawings.items():
            if (figure := draw(report)) is not None:
                _save(figure, folder / name)
                written.append(name)
    return written


def _save(figure: Figure, path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(
            path, dpi=160, facecolor="white", bbox_inches="tight", metadata={"Software": None}
        )
    except OSError as error:
        raise UserError(f"{path}: the plot cannot be written: {error.strerror}") from error


def label(text: Any, most: int = NAME) -> str:
    """A name that a plot can hold: one line, no control or format characters, not long."""
    kept = "".join(
        " " if mark.isspace() else mark
        for mark in str(text)
        if mark.isspace() or unicodedata.category(mark)[0] != "C"
    )
    return kept if len(kept) <= most else f"{kept[: most - 1]}\u2026"


def _figure(height: float, panels: int = 1) -> tuple[Figure, Sequence[Axes]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDE, height), layout="constrained")
    return figure, figure.subplots(1, panels, squeeze=False)[0]


def _legend(figure: Figure, report: Record, handles: Mapping[str, Any]) -> None:
    """The names of what is drawn, in one row under the plot, if there is more than one."""
    names = {key["style"]: label(key["name"]) for key in keys(report)}
    used = [style for style in names if style in handles]
    if len(used) > 1:
        figure.legend(
            [handles[style] for style in used],
            [names[style] for style in used],
            loc="outside lower left",
            ncols=3,
        )


# ---- beside people ---------------------------------------------------------------------------


def _beside(report: Record, group: str) -> Figure | None:
    """Each figure's distance from people, in units of what chance explains."""
    rows = [
        (one, found)
        for one in report["definitions"]
        if one["group"] == group and any(found := list(map(_distance, of_set(report, one["key"]))))
    ]
    if not rows:
        return None
    from matplotlib.ticker import NullLocator

    figure, (axes,) = _figure(1.3 + 0.42 * len(rows))
    handles: dict[str, Any] = {}
    axes.axvspan(-1, 1, color=BAND, zorder=0, linewidth=0)
    axes.axvline(0, color=COLOURS["people"], linewidth=1.2, zorder=1)
    for at, (one, found) in enumerate(rows):
        for place, (style, distance) in enumerate(zip(STYLES, found, strict=False)):
            if distance is not None:
                y = at + (place - (len(found) - 1) / 2) * 0.3
                handles[style] = _point(axes, style, distance, y)
        axes.text(FAR * 1.9, at, _values(report, one), va="center", color=SOFT, fontsize=9)
    axes.set_yticks(range(len(rows)), [label(one["name"]) for one, _ in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xscale("symlog", linthresh=1)
    axes.set_xlim(-FAR * 1.4, FAR * 1.4)
    axes.set_xticks(marks := [-100, -10, -1, 0, 1, 10, 100], [str(mark) for mark in marks])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel(
        "distance from people; 1 is as far as people lie from people (95 of 100 splits)"
    )
    axes.set_title(TITLES[group])
    _plain(axes)
    _legend(figure, report, handles)
    return figure


def _point(axes: Axes, style: str, distance: float, y: float) -> Any:
    far = abs(distance) > FAR
    marker = (">" if distance > 0 else "<") if far else MARKERS[style]
    x = max(-FAR, min(FAR, distance))
    axes.plot([0, x], [y, y], color=COLOURS[style], linewidth=1.2, alpha=0.5, zorder=2)
    axes.plot([x], [y], marker=marker, markersize=7, color=COLOURS[style], zorder=3)
    from matplotlib.lines import Line2D

    return Line2D([], [], color=COLOURS[style], marker=MARKERS[style], markersize=7, linewidth=1.2)


def _distance(measured: Record | None) -> float | None:
    """How many times the reach of chance a figure lies from people; None without people."""
    if measured is None or measured["beyond_chance"] is None:
        return None
    made = measured["made"]["value"]
    if measured["kind"] == "sides":
        gap, reach = measured["difference"], measured["chance"]["p95"]
    else:
        floor = measured["floor"]
        gap = made - floor["value"]
        reach = floor["high"] - floor["value"] if gap > 0 else floor["value"] - floor["low"]
    if not gap:
        return 0.0
    return float(gap / reach) if reach else float("inf") if gap > 0 else float("-inf")


def _values(report: Record, definition: Record) -> str:
    """The figure of each set, and people's."""
    measured = of_set(report, definition["key"])
    there = next(one for one in measured if one)
    people = there["people"] if there["kind"] == "sides" else there["floor"]
    said = [cell("", one["made"] if one else None)["value"] for one in measured]
    unit = " %" if definition["unit"] == "%" else ""
    return f"{' | '.join(said)}{unit}   ({PEOPLE.lower()} {cell('', people)['value']}{unit})"


# ---- shape -----------------------------------------------------------------------------------


def _lengths(report: Record) -> Figure | None:
    """Turns and words, as shares."""
    panels = [
        (title, axis, found) for title, _, axis, find in LENGTHS if (found := series(report, find))
    ]
    if not panels:
        return None
    figure, every = _figure(3.4, len(panels))
    handles: dict[str, Any] = {}
    for axes, (title, axis, found) in zip(every, panels, strict=True):
        bins = next(iter(found.values()))["bins"]
        drawn = charts.columns(bins, {style: one["counts"] for style, one in found.items()})
        wide = 0.8 / len(found)
        for place, style in enumerate(found):
            heights = [group["bars"][place]["share"] for group in drawn["groups"]]
            places = [at + (place - (len(found) - 1) / 2) * wide for at in range(len(bins))]
            handles[style] = axes.bar(places, heights, wide, **_fill(style))
        axes.set_xticks(range(len(bins)), [label(one, 12) for one in bins], fontsize=8)
        for text in axes.get_xticklabels():
            text.set(rotation=40, ha="right", rotation_mode="anchor")
        axes.set_title(title)
        axes.set_xlabel(axis)
        _plain(axes, grid="y")
    every[0].set_ylabel("%")
    _legend(figure, report, handles)
    return figure


def _stops(report: Record) -> Figure | None:
    """Why the dialogues stopped, as shares."""
    found = {
        style: one["shape"]["stop_reasons"]
        for style, one in zip(STYLES, report["sets"], strict=False)
        if one["shape"]["stop_reasons"]
    }
    if not found:
        return None
    rows = charts.bars(found)["rows"]
    figure, (axes,) = _figure(1.2 + 0.5 * len(rows))
    handles: dict[str, Any] = {}
    wide = 0.7 / len(found)
    for place, style in enumerate(found):
        shares = [row["bars"][place]["share"] for row in rows]
        places = [at + (place - (len(found) - 1) / 2) * wide for at in range(len(rows))]
        handles[style] = axes.barh(places, shares, wide, **_fill(style))
        for y, share in zip(places, shares, strict=True):
            axes.annotate(
                f"{share:.1f} %",
                (share, y),
                (4, 0),
                textcoords="offset points",
                va="center",
                color=SOFT,
                fontsize=9,
            )
    axes.set_yticks(range(len(rows)), [label(row["label"]).replace("_", " ") for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.margins(x=0.12)
    axes.set_title("Why the dialogues stopped")
    axes.set_xlabel("% of the dialogues")
    _plain(axes)
    _legend(figure, report, handles)
    return figure


def _fill(style: str) -> dict[str, Any]:
    """Colour and pattern of a bar: solid for the first set alone."""
    colour = COLOURS[style]
    face = colour if style == "made" else "white"
    return {"facecolor": face, "edgecolor": colour, "hatch": HATCHES[style], "linewidth": 1.0}


def _plain(axes: Axes, grid: str = "x") -> None:
    """No frame, and a faint grid behind."""
    for side in ("top", "right", "left" if grid == "x" else "bottom"):
        axes.spines[side].set_visible(False)
    axes.grid(axis=grid, color=LINE, linewidth=0.8)  # type: ignore[arg-type]
    axes.set_axisbelow(True)
    axes.tick_params(length=0)
