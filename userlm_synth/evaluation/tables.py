"""An evaluation as Markdown and as LaTeX (booktabs), laid out as the paper's Tables 1, 2 and 4.

Both are written from one `Table`: what differs is only how a cell, a name and a note are spelled.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from userlm_synth.evaluation.columns import (
    BITS,
    DASH,
    PERPLEXITY,
    SIX,
    Figure,
    by_file,
    estimate,
    fixed,
    is_human,
    measured,
    models,
    reason,
    shortened,
    sizes,
)
from userlm_synth.pages import printable
from userlm_synth.pages.latex import latex_text
from userlm_synth.pages.markdown import plain as markdown_text
from userlm_synth.records import Record

LATEX_LABEL = 32  # columns of a model's name; the page has it whole
SHORT = {
    "perplexity.without_intent": "w/o intent",
    "perplexity.with_intent": "w/ intent",
    "perplexity.without_intent.bits_per_byte": "b/B w/o",
    "perplexity.with_intent.bits_per_byte": "b/B w/",
}
GROUPS = (("Multi-turn interaction", 3), ("Simulation robustness", 3))
INTERVALS = "In brackets: 95 % bootstrap interval"
LATEX_HEAD = (
    "% \\usepackage{booktabs}\n"
    "% For names that are not in Latin letters: compile with LuaLaTeX and a font that has them."
)


@dataclass(frozen=True)
class Cell:
    """A figure in a table; `marks` name the notes that say why there is none."""

    one: Record | None
    digits: int
    marks: tuple[str, ...] = ()


@dataclass
class Table:
    """A table before it is spelled."""

    name: str
    caption: str
    groups: Sequence[tuple[str, int]]  # a title over that many columns
    heads: Sequence[tuple[str, str]]  # name, arrow
    rows: list[tuple[str, bool, list[Cell]]] = field(default_factory=list)  # label, human, cells
    notes: dict[str, str] = field(default_factory=dict)  # reason -> mark
    definitions: list[str] = field(default_factory=list)

    def add(self, label: str, human: bool, cells: Iterable[tuple[Record | None, Figure]]) -> None:
        """A row, from the row of `results` and the figure that each cell shows."""
        self.rows.append((label, human, [self._cell(row, figure) for row, figure in cells]))

    def _cell(self, row: Record | None, figure: Figure) -> Cell:
        one = estimate(row, figure) if row else None
        why = reason(row, figure) if row else None
        if why is None:
            return Cell(one, figure.digits)
        mark = self.notes.setdefault(why, _mark(len(self.notes)))
        return Cell(None, figure.digits, (mark,))


def _mark(at: int) -> str:
    """a, b, ... z, aa, ab ..."""
    return (_mark(at // 26 - 1) if at >= 26 else "") + chr(ord("a") + at % 26)


def table_1(evaluation: Record) -> Table:
    """Perplexity of each model on each conversations file, without and with the intent."""
    files = list(by_file(evaluation))
    figures = [
        figure
        for figure in (*PERPLEXITY, *BITS)
        if any(measured(rows, figure) for _, rows in files) or figure in PERPLEXITY
    ]
    counts = "; ".join(_table_1_sizes(file, rows) for file, rows in files)
    table = Table(
        "perplexity",
        "Perplexity on the words of real users, without (w/o) and with (w/) the intent, and bits "
        f"per byte (b/B), which compare across tokenizers. {counts}. {INTERVALS}.",
        [(file["file"], len(figures)) for file, _ in files],
        [(SHORT[figure.key], figure.arrow) for figure in figures] * len(files),
    )
    for label in models(evaluation):
        rows = [next((row for row in rows if row["label"] == label), None) for _, rows in files]
        table.add(label, False, [(row, figure) for row in rows for figure in figures])
    return table


def _table_1_sizes(file: Record, rows: Sequence[Record]) -> str:
    found = {SHORT[figure.key]: sizes(rows, figure) for figure in PERPLEXITY}
    counts = " and ".join(f"{n} conversations {key}" for key, n in found.items() if n)
    return f"{printable(file['file'])}: n = {counts or '0'}"


def table_2(file: Record, rows: Sequence[Record]) -> Table:
    """The six metrics of every simulator on a file, and of people where they have them."""
    counts = [f"{figure.name.lower()} {n}" for figure in SIX if (n := sizes(rows, figure))]
    table = Table(
        "intrinsic",
        f"Intrinsic metrics of user simulators on {printable(file['file'])}, x 100. "
        f"n: {', '.join(counts) or 'nothing measured'}. {INTERVALS}.",
        GROUPS,
        [(figure.name, figure.arrow) for figure in SIX],
    )
    for row in rows:
        table.add(row["label"], is_human(row), [(row, figure) for figure in SIX])
    return table


def all_tables(evaluation: Record) -> list[Table]:
    """Table 1 over all files, then Table 2 of each; what words are here stands under the last."""
    tables = [table_1(evaluation), *[table_2(file, rows) for file, rows in by_file(evaluation)]]
    for key, text in evaluation["definitions"].items():
        tables[-1].definitions.append(f"{key.replace('_', ' ')}: {text}")
    return tables


# ---- Markdown --------------------------------------------------------------------------------


def markdown_tables(evaluation: Record) -> str:
    """Tables 1 and 2 of an evaluation as GitHub's Markdown."""
    tables = enumerate(all_tables(evaluation), 1)
    return "\n".join(line for at, table in tables for line in _markdown(table, at))


def _markdown(table: Table, number: int) -> Iterator[str]:
    yield f"**Table {number}.** {markdown_text(table.caption)}"
    yield ""
    over = [title for title, span in table.groups for _ in range(span)]
    shown = len(table.groups) > 1 and table.groups is not GROUPS
    heads = [
        f"{markdown_text(title)}: {name} {arrow}".strip() if shown else f"{name} {arrow}".strip()
        for title, (name, arrow) in zip(over, table.heads, strict=True)
    ]
    yield _markdown_row(["Model", *heads])
    yield _markdown_row(["---", *["---:"] * len(heads)])
    for label, _, cells in table.rows:
        yield _markdown_row([markdown_text(label), *[_markdown_cell(cell) for cell in cells]])
    yield ""
    for why, mark in table.notes.items():
        yield f"<sup>{mark}</sup> {markdown_text(why)}  "
    for line in table.definitions:
        yield f"{markdown_text(line)}  "
    yield ""


def _markdown_row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _markdown_cell(cell: Cell) -> str:
    return f"{_value(cell)} {_interval(cell)}" if cell.one else _dash(cell, "<sup>{}</sup>", DASH)


def _value(cell: Cell) -> str:
    return fixed(cell.one["value"], cell.digits) if cell.one else ""


def _interval(cell: Cell) -> str:
    if cell.one is None:
        return ""
    low, high = (fixed(x, cell.digits) for x in cell.one["interval"])
    return f"[{low}, {high}]"


def _dash(cell: Cell, mark: str, dash: str) -> str:
    return dash + "".join(mark.format(one) for one in cell.marks)


# ---- LaTeX -----------------------------------------------------------------------------------

ARROWS = {"\u2191": " $\\uparrow$", "\u2193": " $\\downarrow$", "": ""}


def latex_tables(evaluation: Record) -> str:
    """Tables 1 and 2 of an evaluation as LaTeX tables, intervals as second lines."""
    lines = [LATEX_HEAD]
    for at, table in enumerate(all_tables(evaluation)):
        lines += ["", *_latex(table, f"tab:{table.name}{f'-{at}' if at > 1 else ''}")]
    return "\n".join(lines) + "\n"


def _latex(table: Table, label: str) -> Iterator[str]:
    yield "\\begin{table}[t]"
    size, space = ("small", 4) if len(table.heads) <= 6 else ("footnotesize", 3)
    yield f"  \\centering\\{size}"
    yield f"  \\caption{{{latex_text(table.caption)}}}"
    yield f"  \\label{{{label}}}"
    yield f"  \\setlength{{\\tabcolsep}}{{{space}pt}}"
    yield f"  \\begin{{tabular}}{{l{'r' * len(table.heads)}}}"
    yield "    \\toprule"
    yield from _latex_groups(table)
    yield _latex_row(["Model", *[_latex_head(name, arrow) for name, arrow in table.heads]])
    yield "    \\midrule"
    for at, (name, human, cells) in enumerate(table.rows):
        if at:
            yield "    \\midrule" if human else "    \\addlinespace[2pt]"
        yield from _latex_lines(latex_text(shortened(name, LATEX_LABEL)), cells)
    yield "    \\bottomrule"
    yield "  \\end{tabular}"
    yield from _latex_notes(table)
    yield "\\end{table}"


def _latex_groups(table: Table) -> Iterator[str]:
    """A line of titles over the columns, each with its rule."""
    titles = [
        f"\\multicolumn{{{span}}}{{c}}{{{latex_text(shortened(title, LATEX_LABEL))}}}"
        for title, span in table.groups
    ]
    yield _latex_row(["", *titles])
    first = 2
    for _, span in table.groups:
        yield f"    \\cmidrule(lr){{{first}-{first + span - 1}}}"
        first += span


def _latex_head(name: str, arrow: str) -> str:
    """A column's name, its words on lines of their own where they are long."""
    text = f"{latex_text(name)}{ARROWS[arrow]}"
    first, space, rest = text.partition(" ")
    long = len(name) > 10 and space
    return f"\\shortstack[r]{{{first}\\\\{rest}}}" if long else text


def _latex_lines(name: str, cells: Sequence[Cell]) -> Iterator[str]:
    values = [
        _value(cell) if cell.one else _dash(cell, "\\textsuperscript{{{}}}", "--") for cell in cells
    ]
    yield _latex_row([name, *values])
    if any(cell.one for cell in cells):
        small = [f"{{\\scriptsize {_interval(cell)}}}" if cell.one else "" for cell in cells]
        yield _latex_row(["", *small])


def _latex_row(cells: Iterable[str]) -> str:
    return f"    {' & '.join(cells)} \\\\"


def _latex_notes(table: Table) -> Iterator[str]:
    for why, mark in table.notes.items():
        yield f"  \\par\\smallskip\\footnotesize\\textsuperscript{{{mark}}} {latex_text(why)}"
    for line in table.definitions:
        yield f"  \\par\\smallskip\\footnotesize {latex_text(line)}"
