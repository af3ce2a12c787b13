"""`evaluate --compare`: which figures of two evaluations differ by more than chance.

Where both measured the same things (`units.jsonl` beside the evaluation), these are resampled in
pairs, since what is hard for one model is hard for the other; elsewhere both figures are taken as
independent normal estimates, with what their intervals say of their errors. As many figures are
tested at once, the p-values are adjusted by Holm's method (1979), over all of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from userlm_synth.errors import UserError
from userlm_synth.estimates import difference
from userlm_synth.evaluation.columns import (
    BITS,
    FURTHER,
    PERPLEXITY,
    SIX,
    Figure,
    columns,
    estimate,
    fixed,
    shortened,
)
from userlm_synth.evaluation.matching import (
    Evaluation,
    comparable,
    matched,
    read_evaluation,
    warnings,
)
from userlm_synth.records import Record

ALPHA = 0.05
COMPARED = (*PERPLEXITY, *BITS, *SIX, *FURTHER)
PER_TEST = 40  # resamples a test at least, so that Holm's smallest threshold can be reached
HELD = 50_000_000  # numbers that the resamples of one figure may take in memory
ERRORS = 2 * 1.959964  # standard errors in the width of a 95 % interval
LABEL = 32  # columns of a model's name
HEADS = ("figure", "A", "B", "B - A, or x B / A", "p (Holm)", "significant", "by")


def compare(one: Path, other: Path, *, samples: int = 1000, seed: int = 0) -> Record:
    """Every figure that both evaluations have: how far `other` is from `one`, and how surely.

    Perplexities are compared by their ratio, everything else by its difference.
    """
    first, second = read_evaluation(one), read_evaluation(other)
    pairs = matched(first, second)
    tests = [
        (a, b, figure)
        for a, b in pairs
        for figure in COMPARED
        if estimate(a, figure) and estimate(b, figure)
    ]
    if not tests:
        raise UserError(
            f"{one} and {other} have nothing in common: no figure of the same model (by its label "
            "or name) on the same conversations, nor one row each"
        )
    figures = [
        _test(first, a, second, b, figure, _resamples(samples, len(tests)), seed)
        for a, b, figure in tests
    ]
    for each, p in zip(figures, holm([each["p"] for each in figures]), strict=True):
        each |= {"p_holm": p, "significant": p is not None and p < ALPHA}
    return {
        "one": str(one),
        "other": str(other),
        "alpha": ALPHA,
        "seed": seed,
        "warnings": warnings(first, second, pairs),
        "figures": figures,
    }


def _resamples(samples: int, tests: int) -> int:
    """A bootstrap p is never below 1 / resamples: enough of them for the number of tests."""
    return max(samples, PER_TEST * tests)


def _test(
    one: Evaluation,
    a: Record,
    other: Evaluation,
    b: Record,
    figure: Figure,
    samples: int,
    seed: int,
) -> Record:
    """How far a figure of row `b` is from that of row `a`."""
    mine, theirs = one.units_of(a, figure), other.units_of(b, figure)
    shared = len({*mine.ids} & {*theirs.ids}) if mine and theirs else 0
    sides = {"one": estimate(a, figure) or {}, "other": estimate(b, figure) or {}}
    if mine and theirs and shared >= 2 and comparable(one, a, other, b, figure):
        most = max(1000, HELD // shared)
        found = difference(theirs, mine, samples=min(samples, most), seed=seed)
        found |= {"paired": True}
    else:
        found = independent(sides["other"], sides["one"], ratio=figure.multiplicative)
        found |= {"paired": False, "n": None}
    return {
        "figure": figure.key,
        "labels": [a["label"], b["label"]],
        "models": [a["model"], b["model"]],
        "conversations": [a["conversations"], b["conversations"]],
        **{side: {key: x[key] for key in ("value", "interval", "n")} for side, x in sides.items()},
        **found,
    }


def independent(one: Record, other: Record, *, ratio: bool) -> Record:
    """`one` minus `other` (or their ratio) as of two independent normal estimates.

    `p` is None where no interval says how sure the figures are.
    """
    parts = [[each["value"], *each["interval"]] for each in (one, other)]
    if ratio:
        parts = [[math.log(max(x, 1e-12)) for x in part] for part in parts]
    (a, a_low, a_high), (b, b_low, b_high) = parts
    error = math.hypot(a_high - a_low, b_high - b_low) / ERRORS
    reach = error * ERRORS / 2
    values = [a - b, a - b - reach, a - b + reach]
    value, low, high = [math.exp(x) for x in values] if ratio else values
    p: float | None = 1.0 if a == b else None
    if error:
        p = math.erfc(abs(a - b) / error / math.sqrt(2))
    kind = "ratio" if ratio else "difference"
    return {"kind": kind, "value": value, "interval": [low, high], "p": p}


def holm(values: Sequence[float | None]) -> list[float | None]:
    """p-values adjusted for how many there are (Holm 1979); one that is None stays it."""
    known = sorted((p, at) for at, p in enumerate(values) if p is not None)
    adjusted: list[float | None] = [None] * len(values)
    highest = 0.0
    for rank, (p, at) in enumerate(known):
        highest = max(highest, min(1.0, (len(known) - rank) * p))
        adjusted[at] = highest
    return adjusted


# ---- for people ------------------------------------------------------------------------------


def comparison_table(record: Record) -> str:
    """A comparison as aligned text, a block for each pair of rows."""
    lines = [f"A: {record['one']}", f"B: {record['other']}"]
    lines += [f"warning: {line}" for line in record["warnings"]]
    blocks: dict[tuple[str, ...], list[Record]] = {}
    for each in record["figures"]:
        key = (*each["labels"], *each["models"], *each["conversations"])
        blocks.setdefault(key, []).append(each)
    for (label, other_label, model, other_model, *files), some in blocks.items():
        lines += ["", f"{_either(label, other_label)} on {_either(*files)}"]
        if label == other_label and model != other_model:
            lines.append(f"  {_either(model, other_model)}")
        lines += _aligned([HEADS, *map(_line, some)])
    surely = sum(each["significant"] for each in record["figures"])
    paired = sum(each["paired"] for each in record["figures"])
    tests = len(record["figures"])
    return "\n".join(
        [
            *lines,
            "",
            f"{surely} of {tests} differences are significant at {record['alpha']} (Holm, over "
            f"all {tests}); {paired} by resampling in pairs; \u2191 higher is better, \u2193 lower",
        ]
    )


def _either(one: str, other: str) -> str:
    names = [shortened(name, LABEL) for name in dict.fromkeys((one, other))]
    return names[0] if len(names) == 1 else f"{names[0]} (A) and {names[1]} (B)"


def _line(each: Record) -> tuple[str, ...]:
    figure = next(figure for figure in COMPARED if figure.key == each["figure"])
    digits = 3 if each["kind"] == "ratio" else figure.digits
    low, high = (fixed(x, digits) for x in each["interval"])
    sign = "x" if each["kind"] == "ratio" else "+" if each["value"] > 0 else ""
    p = each["p_holm"]
    return (
        f"{figure.name} {figure.arrow}".rstrip(),
        fixed(each["one"]["value"], figure.digits),
        fixed(each["other"]["value"], figure.digits),
        f"{sign}{fixed(each['value'], digits)} [{low}, {high}]",
        "-" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}",
        "yes" if each["significant"] else "no",
        f"{each['n']:,} pairs" if each["paired"] else "intervals",
    )


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns of equal width, numbers to the right."""
    widths = [max(columns(row[at]) for row in rows) for at in range(len(rows[0]))]
    right = {1, 2, 4}
    return [
        "  "
        + "  ".join(
            text.rjust(width) if at in right else text.ljust(width)
            for at, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
