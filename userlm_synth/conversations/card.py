"""The data card of a prepared set: `card.json`, and the same as one HTML page.

What each step dropped and why, what was changed, splits, lengths, languages, templates, licence,
settings and checksums. `schemas/card.schema.json` describes the JSON.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from userlm_synth.errors import Problems, UserError
from userlm_synth.pages import number, render, shares
from userlm_synth.records import Record, check, write_bytes, write_json

TEMPLATE = Path(__file__).with_name("card.html.j2")
MOST = 15  # names that a list of counts shows
LONG = 400  # characters from which a template's text scrolls


def write_card(card: Record, out: Path) -> None:
    """Check a card and write ``out/card.json`` and ``out/index.html``, each all or nothing.

    Raises `Problems` for a card that is not of the schema's form or whose numbers do not add up,
    `UserError` where the files cannot be written.
    """
    # A path may hold bytes that are no UTF-8: they become "?" here, not a failure at the end.
    card = json.loads(json.dumps(card, ensure_ascii=False).encode("utf-8", "replace"))
    check(card, "card", str(out / "card.json"))
    wrong = [f"{out / 'card.json'}: {problem}" for problem in sum_problems(card)]
    if wrong:
        raise Problems(wrong)
    page = render_card(card)
    try:
        write_json(out / "card.json", card)
        write_bytes(out / "index.html", [page.encode()])
    except OSError as error:
        raise UserError(f"{out}: the data card cannot be written: {error.strerror}") from error


def sum_problems(card: Record) -> Iterator[str]:
    """Where the numbers of a card contradict each other: a step, the splits, a histogram."""
    former = None
    for index, step in enumerate(card["steps"]):
        dropped = sum(step["dropped"].values())
        if former is not None and (step["in"] != former or step["in"] - dropped != step["out"]):
            yield (
                f"steps[{index}]: {former} came from the step before; {step['in']} in, "
                f"{dropped} dropped, {step['out']} out"
            )
        former = step["out"]
    kept = sum(split["conversations"] for split in card["splits"].values())
    if kept != former:
        yield f"splits: {kept} conversations, but {former} went on from the last step"
    for name, histogram in card["histograms"].items():
        edges = histogram["edges"]
        if edges != sorted(edges) or any(
            len(counts) != len(edges) for counts in histogram["counts"].values()
        ):
            yield f"histograms.{name}: edges rise, and each has one number in every split"


def render_card(card: Record) -> str:
    """The page of a card that is in the schema's form."""
    import yaml

    total = {
        key: sum(split[key] for split in card["splits"].values()) for key in card["splits"]["train"]
    }
    recipe = {"name": "prepared", "seed": card["seed"], "conversations": card["settings"]}
    return render(
        TEMPLATE,
        card=card,
        total=total,
        funnel=_funnel(card["steps"]),
        splits={**card["splits"], "all": total},
        histograms={name: _bins(one) for name, one in card["histograms"].items()},
        tallies={
            name: _tally(card[name], total["conversations"])
            for name in ("languages", "countries", "models", "sources")
        },
        recipe=yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True),
        percent=_percent,
        ratio=lambda part, whole: number(part / whole if whole else None),
        long=LONG,
    )


def _funnel(steps: list[Record]) -> list[Record]:
    """The steps with the widths of their bars, in percent of the most that any step saw."""
    most = max(max(step["in"], step["out"]) for step in steps) or 1
    return [
        {
            **step,
            "name": step["step"][:1].upper() + step["step"][1:],
            "lost": sum(step["dropped"].values()),
            "kept_width": round(100 * step["out"] / most, 3),
            "lost_width": round(100 * sum(step["dropped"].values()) / most, 3),
        }
        for step in steps
    ]


def _bins(histogram: Record) -> Record:
    """A histogram as rows: label, share and bar of all splits together, share in each split."""
    edges, counts = histogram["edges"], histogram["counts"]
    every = shares([sum(column) for column in zip(*counts.values(), strict=True)])
    by_split = [shares(one) for one in counts.values()]
    rows = [
        {
            "label": _label(low, high),
            "share": every[at],
            "width": _width(every[at], max(every)),
            "splits": [split[at] for split in by_split],
        }
        for at, (low, high) in enumerate(zip(edges, [*edges[1:], None], strict=True))
    ]
    return {"names": list(counts), "rows": rows}


def _label(low: int, following: int | None) -> str:
    """A bin by its lowest and highest value: 4, 5-9, 50+."""
    if following is None:
        return f"{low:,}+"
    return f"{low:,}" if following == low + 1 else f"{low:,}\u2013{following - 1:,}"


def _tally(counts: dict[str, int], total: int) -> Record:
    """The most frequent names with their shares of all conversations, and what they leave out."""
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    rows = [(name, count, False) for name, count in ranked[:MOST]]
    others = [count for _, count in ranked[MOST:]]
    if others:
        rows.append((f"and {len(others):,} more", sum(others), True))
    if (missing := total - sum(counts.values())) > 0:
        rows.append(("not stated", missing, True))
    most = max(counts.values(), default=0)
    return {
        "names": len(counts.keys() - {"unknown"}),
        "rows": [
            {"name": name, "count": count, "rest": rest, "width": _width(count, most)}
            for name, count, rest in rows
        ],
    }


def _percent(part: int, whole: int) -> str:
    """A share for readers; what is not nothing does not read 0.00."""
    if not whole:
        return "\u2013"
    value = 100 * part / whole
    return f"{'<0.01' if 0 < value < 0.005 else number(value)}\u00a0%"


def _width(part: float, most: float) -> float:
    """Width of a bar in percent of the longest."""
    return round(100 * part / most, 3) if most else 0.0
