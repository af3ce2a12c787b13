"""An evaluation as one self-contained HTML page: Tables 1, 2 and 4, and Figures 3 to 6.

It asks for nothing from outside and runs no script; names of models and files are text in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from userlm_synth.evaluation import drawings
from userlm_synth.evaluation.columns import (
    BITS,
    FURTHER,
    INSTRUMENTS,
    PERPLEXITY,
    SIX,
    Figure,
    by_file,
    estimate,
    fixed,
    flat,
    is_human,
    measured,
    models,
    reasons,
    sizes,
)
from userlm_synth.pages import render
from userlm_synth.records import Record

TEMPLATE = Path(__file__).with_name("page.html.j2")
FIGURES = (
    (3, "Perplexity without and with the intent", drawings.figure_3),
    (4, "Perplexity by the user's turn", drawings.figure_4),
    (5, "Overlap with the intent, turn by turn", drawings.figure_5),
    (6, "When they leave, by the user's turn", drawings.figure_6),
)


def render_page(evaluation: Record) -> str:
    """The page for an evaluation."""
    labels = models(evaluation)
    keys = drawings.keys(labels)
    return render(
        TEMPLATE,
        evaluation=evaluation,
        labels=labels,
        keys=keys,
        human=any(map(is_human, evaluation["results"])),
        parts=[_part(at, file, rows, keys) for at, (file, rows) in enumerate(by_file(evaluation))],
        settings=list(flat(evaluation["settings"])),
        few=drawings.FEW,
        fixed=fixed,
        estimate=estimate,
    )


def _part(
    at: int, file: Record, rows: Sequence[Record], keys: dict[str, drawings.Key]
) -> dict[str, Any]:
    """What the page says about one conversations file."""
    scored = [row for row in rows if not is_human(row)]
    drawn = [(number, title, draw(rows, keys)) for number, title, draw in FIGURES]
    return {
        "at": at,
        "file": file,
        "rows": rows,
        "scored": scored,
        "figures": [
            {"number": number, "title": title, **figure}
            for number, title, figure in drawn
            if figure
        ],
        "table_1": _columns(rows, (*PERPLEXITY, *BITS)),
        "table_2": _columns(rows, SIX),
        "missing_1": reasons(scored, PERPLEXITY[:1]),
        "missing_2": reasons(rows, SIX),
        "further": [(row, list(_further(row)), list(_notes(row))) for row in rows],
    }


def _columns(rows: Sequence[Record], figures: Sequence[Figure]) -> list[tuple[Figure, str]]:
    """The figures of a table and their n; nothing where none is measured."""
    if not any(measured(rows, figure) for figure in figures):
        return []
    return [(figure, sizes(rows, figure)) for figure in figures]


def _further(row: Record) -> Iterator[tuple[str, Record, int]]:
    """The figures behind those of the tables."""
    for figure in (*FURTHER, *INSTRUMENTS):
        if one := estimate(row, figure):
            yield figure.name, one, figure.digits


def _notes(row: Record) -> Iterator[tuple[str, str]]:
    """How a row was measured, in words."""
    for key, one in row["perplexity"].items():
        yield (
            f"Perplexity {key.replace('_', ' ')}",
            f"{one['tokens']:,} tokens, shown as {one['form']}",
        )
    for one in row["other_forms"]:
        where = "with" if one["intent"] else "without"
        yield f"Shown as {one['form']}, {where} intent", fixed(one["value"], 2)
    for name, gap in row["gaps"].items():
        low, high = gap["interval"]
        yield f"Perplexity, {name}", f"{gap['ratio']:.3f} times ({low:.3f} to {high:.3f})"
    if leaves := row["termination"]:
        yield "Termination", _termination(leaves)
    if natural := row["naturalness"]:
        yield "Naturalness", _naturalness(natural)
    if role := row["role_adherence"]:
        yield (
            "Role adherence",
            f"of {role['n']:,} replies {role['answered']:,} gave an answer and "
            f"{role['repeated_question']:,} repeated the question; questions: {role['questions']}; "
            f"the assistant's part: {role['unsure']}",
        )
    if intent := row["intent_adherence"]:
        yield (
            "Intent adherence",
            f"{intent['refused']:,} refused, {intent['accepted']:,} accepted, "
            f"{intent['unclear']:,} unclear; judge: {intent['judge']}; questions: "
            f"{intent['questions']}; the assistant's part: {intent['unsure']}",
        )


def _termination(leaves: Record) -> str:
    text = f"{leaves['n']:,} places, {leaves['ends']:,} of them ends; told by {leaves['by']}"
    at_end, elsewhere = leaves["mean_probability_at_end"], leaves["mean_probability_elsewhere"]
    if at_end is None or elsewhere is None:
        return text
    return f"{text}; mean end probability {at_end:.3f} where people left, {elsewhere:.3f} elsewhere"


def _naturalness(natural: Record) -> str:
    text = f"by {natural['by']}, {natural['texts']} first turns"
    if natural["contrast"]:
        text += f", trained against {natural['contrast']}"
    if natural["two_sample"]:
        text += f"; no difference from people: p = {natural['two_sample']['p']:.4f}"
    return text
