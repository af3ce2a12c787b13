"""Tables 3 and 5 of the paper, from one benchmark or several side by side: for a terminal, as
Markdown and as LaTeX (booktabs). All three are spelled from one grid of cells."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from userlm_synth.benchmark.notes import all_notes, labels
from userlm_synth.errors import UserError
from userlm_synth.pages import printable
from userlm_synth.pages.latex import latex_text
from userlm_synth.pages.markdown import plain as markdown_text
from userlm_synth.records import Record, check, parse_json

#: (the group's heading, its rows: name and figure), in the order of the paper.
ROWS = (
    ("Intent coverage", (("Intent coverage (%)", "intent_coverage"),)),
    (
        "Information diversity",
        (
            ("% Repeat required", "repeat_required"),
            ("% Skip non-required", "skip_non_required"),
            ("% Add demands", "add_demands"),
        ),
    ),
    ("Pace diversity", (("Turn variance", "turn_variance"), ("Turn range", "turn_range"))),
    ("Lexical diversity", (("Unigram difference", "unigram_difference"),)),
    ("Assistant performance", (("Assistant score (%)", "assistant_score"),)),
)
NONE = "n/a"
DIGITS = {"turn_variance": 2, "unigram_difference": 2}
TITLES = {"all": "All tasks", "math": "Math", "code": "Code"}
CAPTIONS = {
    3: "Simulated conversations with each user simulator, laid out as the paper's Table 3",
    5: "The same by kind of task, laid out as the paper's Table 5",
}
#: A table that is wider than the text is made as wide as the text.
FIT = "\\resizebox{\\ifdim\\width>\\linewidth\\linewidth\\else\\width\\fi}{!}{%"


@dataclass(frozen=True)
class Column:
    """One simulator's figures of one domain."""

    label: str
    row: Record

    def cell(self, figure: str) -> tuple[str, str]:
        """(value, interval) as text; the interval may be empty."""
        figures = self.row["figures"]
        if figure == "turn_range":
            ends = [figures["turn_min"], figures["turn_max"]]
            if None in ends:
                return NONE, ""
            intervals = [_interval(end, 1) for end in ends]
            value = "\u2013".join(f"{end['value']:.1f}" for end in ends)
            return value, f"[{'; '.join(intervals)}]" if all(intervals) else ""
        one, digits = figures[figure], DIGITS.get(figure, 1)
        if one is None:
            return NONE, ""
        interval = _interval(one, digits)
        return f"{one['value']:.{digits}f}", f"[{interval}]" if interval else ""


def _interval(one: Record, digits: int) -> str:
    return ", ".join(f"{end:.{digits}f}" for end in one["interval"] or ())


@dataclass(frozen=True)
class Grid:
    """A table before it is spelled: columns stand in groups, each with a title."""

    number: int
    groups: Sequence[tuple[str, Sequence[Column]]]

    @property
    def columns(self) -> list[Column]:
        """All columns, from the left."""
        return [column for _, group in self.groups for column in group]

    @property
    def caption(self) -> str:
        """What the table is."""
        return CAPTIONS[self.number]


# ---- what is shown ---------------------------------------------------------------------------


def read_benchmark(path: Path) -> Record:
    """A benchmark's folder, or its `benchmark.json`."""
    file = path / "benchmark.json" if path.is_dir() else path
    if not file.is_file():
        raise UserError(f"{file}: no such file; name a folder that benchmark has written")
    try:
        found: Record = parse_json(file.read_bytes())
    except ValueError as error:
        raise UserError(f"{file}: {error}") from None
    return check(found, "benchmark", str(file))


def grids(benchmarks: Sequence[Record]) -> list[Grid]:
    """Table 3 and, where there are tasks of two kinds, Table 5."""
    named = list(zip(labels(benchmarks), benchmarks, strict=True))

    def columns(domain: str) -> list[Column]:
        return [
            Column(label, row)
            for label, one in named
            for row in one["results"]
            if row["domain"] == domain
        ]

    found = [Grid(3, [(TITLES["all"], columns("all"))])]
    split = [(TITLES[name], columns(name)) for name in ("math", "code") if columns(name)]
    return [*found, Grid(5, split)] if split else found


# ---- how it is spelled -----------------------------------------------------------------------


def text_tables(benchmarks: Sequence[Record]) -> str:
    """For a terminal."""
    blocks = [_text(grid) for grid in grids(benchmarks)]
    return "\n\n".join([*blocks, "\n".join(printable(one) for one in all_notes(benchmarks))])


def _text(grid: Grid) -> str:
    columns = grid.columns
    titled = len(grid.groups) > 1
    names = [
        f"{title}: {printable(column.label)}" if titled else printable(column.label)
        for title, group in grid.groups for column in group
    ]  # fmt: skip
    lines: list[tuple[str, list[str]]] = [("", names)]
    for heading, rows in ROWS:
        lines.append((heading, []))
        for name, figure in rows:
            cells = [" ".join(column.cell(figure)).strip() for column in columns]
            lines.append((f"  {name}", cells))
    widths = [max(len(cells[at]) for _, cells in lines if cells) for at in range(len(columns))]
    shown = [
        f"{name:<24}"
        + "".join(f"  {cell:<{width}}" for cell, width in zip(cells, widths, strict=False))
        for name, cells in lines
    ]
    return "\n".join([grid.caption, *(line.rstrip() for line in shown)])


def markdown_tables(benchmarks: Sequence[Record]) -> str:
    """As GitHub's Markdown."""
    parts = [line for grid in grids(benchmarks) for line in _markdown(grid)]
    return "\n".join([*parts, *(f"- {markdown_text(one)}" for one in all_notes(benchmarks))]) + "\n"


def _markdown(grid: Grid) -> Iterator[str]:
    heads = [
        markdown_text(f"{title}: {column.label}" if len(grid.groups) > 1 else column.label)
        for title, group in grid.groups for column in group
    ]  # fmt: skip
    yield from (
        f"**{grid.caption}.**",
        "",
        _row(["", *heads]),
        _row(["---", *["---:"] * len(heads)]),
    )
    for heading, rows in ROWS:
        yield _row([f"*{heading}*", *[""] * len(heads)])
        for name, figure in rows:
            yield _row([name, *(" ".join(one.cell(figure)).strip() for one in grid.columns)])
    yield ""


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def latex_tables(benchmarks: Sequence[Record]) -> str:
    """As LaTeX tables."""
    lines = ["% \\usepackage{booktabs,graphicx}"]
    under = " ".join(f"{latex_text(one.rstrip('.'))}." for one in all_notes(benchmarks))
    tables = grids(benchmarks)
    for grid in tables:
        lines += ["", *_latex(grid, under if grid is tables[0] else "")]
    return "\n".join(lines) + "\n"


def _latex(grid: Grid, under: str) -> Iterator[str]:
    columns = grid.columns
    wide = len(columns) + 1
    yield "\\begin{table}[t]"
    yield "  \\centering\\small"
    yield f"  \\caption{{{latex_text(grid.caption)}.}}"
    yield f"  \\label{{tab:benchmark-{grid.number}}}"
    yield "  " + FIT
    yield f"  \\begin{{tabular}}{{l{'r' * len(columns)}}}"
    yield "    \\toprule"
    if len(grid.groups) > 1:
        spans = (f"\\multicolumn{{{len(group)}}}{{c}}{{{title}}}" for title, group in grid.groups)
        yield f"    & {' & '.join(spans)} \\\\"
    yield f"    & {' & '.join(latex_text(column.label) for column in columns)} \\\\"
    for heading, rows in ROWS:
        yield "    \\midrule"
        yield f"    \\multicolumn{{{wide}}}{{l}}{{\\emph{{{heading}}}}} \\\\"
        for name, figure in rows:
            cells = [column.cell(figure) for column in columns]
            yield f"    {latex_text(name)} & {' & '.join(latex_text(v) for v, _ in cells)} \\\\"
            if any(interval for _, interval in cells):
                small = (f"{{\\scriptsize {latex_text(i)}}}" if i else "" for _, i in cells)
                yield f"    & {' & '.join(small)} \\\\"
    yield "    \\bottomrule"
    yield "  \\end{tabular}}"
    if under:
        yield f"  \\par\\smallskip\\parbox{{\\linewidth}}{{\\footnotesize {under}}}"
    yield "\\end{table}"
