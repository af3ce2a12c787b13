"""The content of `report.json`: what was made, and how it compares with the reference.

`make_report` takes plain records and gives a plain dict; `schemas/report.schema.json` describes it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from userlm_synth.errors import UserError
from userlm_synth.reporting import figures
from userlm_synth.reporting.figures import Measured, Plan, Record, user_turns
from userlm_synth.reporting.shape import counted, make_shape

VERSION = 1
SMALL = 30  # conversations a side below which a percentile interval is too narrow

FigureMaker = Callable[[Plan], Measured | None]


def _style(name: str) -> FigureMaker:
    return partial(figures.style_figure, name=name)


def _turn_count(plan: Plan) -> Measured | None:
    return figures.ratio_figure(plan, lambda record: (len(user_turns(record)), 1), scale=1)


#: key, group, unit, name, what it is; in the order of the page.
FIGURES: list[tuple[str, str, str, str, str, FigureMaker]] = [
    (
        "first_turn_diversity",
        "diversity",
        "%",
        "First-turn diversity",
        "100 x (1 - mean Jaccard index of the words of each two first user turns).",
        figures.diversity_figure,
    ),
    (
        "distinct_1",
        "diversity",
        "%",
        "Distinct words",
        "Different words of the user turns / all of them, at one number of words for all sides.",
        partial(figures.distinct_figure, n=1),
    ),
    (
        "distinct_2",
        "diversity",
        "%",
        "Distinct word pairs",
        "The same for pairs of neighbouring words.",
        partial(figures.distinct_figure, n=2),
    ),
    (
        "copied_8_grams",
        "diversity",
        "%",
        "Passages found in the reference",
        "Runs of 8 words in user turns that as many other reference conversations hold too.",
        figures.copied_figure,
    ),
    (
        "duplicates",
        "diversity",
        "%",
        "Repeated dialogues",
        "Dialogues whose user side occurs again, word for word, in the same sample.",
        figures.duplicate_figure,
    ),
    (
        "user_turns",
        "naturalness",
        "turns",
        "User turns per dialogue",
        "Mean number of user turns.",
        _turn_count,
    ),
    (
        "words_per_user_turn",
        "naturalness",
        "words",
        "Words per user turn",
        "Mean over all user turns.",
        _style("mean_words"),
    ),
    (
        "starts_with_capital",
        "naturalness",
        "%",
        "Starts with a capital",
        "User turns whose first character is upper-case.",
        _style("starts_with_capital"),
    ),
    (
        "ends_with_stop",
        "naturalness",
        "%",
        "Ends in . ! or ?",
        "User turns whose last character is one of these.",
        _style("ends_with_stop"),
    ),
    (
        "has_question_mark",
        "naturalness",
        "%",
        "Has a question mark",
        "User turns with a ? anywhere.",
        _style("has_question_mark"),
    ),
    (
        "has_politeness",
        "naturalness",
        "%",
        "Says please or thanks",
        "User turns with please, thanks or thank you.",
        _style("has_politeness"),
    ),
]


def make_leakage(dialogues: list[Record], reference: list[Record]) -> dict[str, Any]:
    """8-grams of all user turns that occur in the user turns of the whole given reference."""
    known: dict[Any, int] = {}
    n = figures.COPY_LENGTH
    there = figures.numbered([user_turns(record) for record in reference], n, known)
    limit = len(known)
    grams = figures.numbered([user_turns(record) for record in dialogues], n, known)
    copied = [int((found < limit).sum()) for found in grams]
    total = sum(map(len, grams))
    return {
        "against": "user turns of the given reference",
        "words": n,
        "reference_passages": sum(map(len, there)),
        "generated_passages": total,
        "copied_passages": sum(copied),
        "copied_share": 100 * sum(copied) / total if total else None,
        "dialogues_with_a_copy": sum(1 for count in copied if count),
        "repeated_dialogues": sum(figures.repeated(dialogues)),
    }


def _warnings(n: int, dialogues: list[Record], reference: list[Record]) -> list[str]:
    lines = []
    if n < 2:
        lines.append(
            "Too few conversations to compare: the figures need two dialogues and four reference "
            f"conversations, and there are {len(dialogues)} and {len(reference)}."
        )
    elif n < SMALL:
        lines.append(
            f"Only {n} conversations a side: the intervals are too narrow, read them with care."
        )
    if 2 <= n < len(dialogues) and n < figures.LIMIT:
        lines.append(
            f"The reference has {len(reference)} conversations, so only {n} of the "
            f"{len(dialogues)} dialogues are compared; a larger reference makes sharper figures."
        )
    return lines


def _plain(value: Any) -> Any:
    """Floats to six decimals, as later digits depend on the machine; text that UTF-8 can hold."""
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, dict):
        return {_plain(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value


def make_report(
    dialogues: list[Record],
    rejected: list[Record],
    reference: list[Record],
    *,
    title: str,
    seed: int = 0,
) -> dict[str, Any]:
    """The report as plain JSON-able values; figures that cannot be taken are None.

    Raises `UserError` when there is nothing to report on, or nothing to compare it with.
    """
    if not dialogues and not rejected:
        raise UserError("no dialogues to report on: the file is empty")
    if not reference:
        raise UserError("the reference has no conversations: a report compares, so it needs some")
    for record in [*dialogues, *reference]:
        if not user_turns(record):
            raise UserError(f"{record.get('id')}: no user turn; `validate` shows every problem")
    plan = figures.make_plan(dialogues, reference, seed)
    sources = counted(str(record.get("source") or "unknown") for record in reference)
    report = {
        "version": VERSION,
        "title": title,
        "note": {
            "reference_sources": sources,
            "text": "The reference is the conversations of these sources, as given; this report "
            "takes their word for who wrote them.",
        },
        "sampling": {
            "seed": seed,
            "n": plan.n,
            "limit": figures.LIMIT,
            "generated_available": len(dialogues),
            "reference_available": len(reference),
            "reference_halves": f"{plan.n} + {plan.n}",
            "splits": figures.SPLITS,
            "resamples": figures.RESAMPLES,
        },
        "warnings": _warnings(plan.n, dialogues, reference),
        "shape": make_shape(dialogues, rejected, reference),
        "figures": [
            {
                "key": key,
                "group": group,
                "unit": unit,
                "name": name,
                "description": text,
                "measured": make(plan) if plan.n > 1 else None,
            }
            for key, group, unit, name, text, make in FIGURES
        ],
        "leakage": make_leakage(dialogues, reference),
    }
    result: dict[str, Any] = _plain(report)
    return result
