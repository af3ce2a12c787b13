"""What stands in an evaluation, by name: the figures, their order, and why one is missing.

The terminal's table, the Markdown and LaTeX tables, the page and `--compare` all read it here, so
that a figure has one name and one direction everywhere.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from userlm_synth.pages import printable
from userlm_synth.records import Record

DASH = "\u2013"


@dataclass(frozen=True)
class Figure:
    """One figure of a row: `key` is where it stands in it (`termination.f1`)."""

    key: str
    name: str
    about: str
    better: Literal["higher", "lower", ""] = ""
    digits: int = 2
    units: str = ""  # its name in units.jsonl, where that is not `key`
    multiplicative: bool = False  # two of them are compared by their ratio

    @property
    def group(self) -> str:
        """Its name in `not_measured`."""
        return self.key.partition(".")[0]

    @property
    def arrow(self) -> str:
        """Which way is better, as the paper shows it."""
        return {"higher": "\u2191", "lower": "\u2193", "": ""}[self.better]


def _perplexities() -> tuple[tuple[Figure, ...], tuple[Figure, ...]]:
    perplexity, bits = [], []
    for key in ("without_intent", "with_intent"):
        words = key.replace("_", " ")
        perplexity.append(
            Figure(
                f"perplexity.{key}",
                f"Perplexity {words}",
                "how hard the real users' words are to foresee, per token",
                "lower",
                multiplicative=True,
            )
        )
        bits.append(
            Figure(
                f"perplexity.{key}.bits_per_byte",
                f"Bits per byte {words}",
                "the same per byte of text, so that tokenizers compare",
                "lower",
                digits=3,
                units=f"bits_per_byte.{key}",
            )
        )
    return tuple(perplexity), tuple(bits)


#: Table 1, and the same in a unit that does not depend on the tokenizer.
PERPLEXITY, BITS = _perplexities()

#: Tables 2 and 4, in the paper's order; all x 100.
SIX = (
    Figure(
        "first_turn_diversity",
        "First-turn diversity",
        "how differently it opens conversations",
        "higher",
    ),
    Figure(
        "intent_decomposition.of_turn",
        "Intent decomposition",
        "how many of a turn's words are those of the intent",
        "lower",
    ),
    Figure(
        "termination.f1",
        "Dialogue termination",
        "whether it leaves where the real user left (F1)",
        "higher",
    ),
    Figure(
        "naturalness",
        "Naturalness",
        "how likely its first turns are taken for a person's",
        "higher",
    ),
    Figure(
        "role_adherence",
        "Role adherence",
        "how often it stays the user when asked for the answer",
        "higher",
    ),
    Figure(
        "intent_adherence",
        "Intent adherence",
        "how often it keeps its question when offered something else",
        "higher",
    ),
)

#: What stands behind them.
FURTHER = (
    Figure("first_turn_overlap.of_turn", "First turn: share of its words from the intent", ""),
    Figure("first_turn_overlap.of_intent", "First turn: share of the intent's words used", ""),
    Figure("first_turn_overlap.jaccard", "First turn and intent: Jaccard index", ""),
    Figure("intent_decomposition.of_intent", "All turns: share of the intent's words used", ""),
    Figure("intent_decomposition.jaccard", "All turns and intent: Jaccard index", ""),
    Figure("termination.precision", "Termination: precision", "", "higher"),
    Figure("termination.recall", "Termination: recall", "", "higher"),
    Figure("termination.auroc", "Termination: AUROC of the end probability", "", "higher"),
    Figure("termination.average_precision", "Termination: average precision", "", "higher"),
    Figure(
        "naturalness.two_sample.auroc", "Told from people: AUROC, 50 is not at all", "", "lower"
    ),
)

#: Of the instruments, not of the model: shown, never compared.
INSTRUMENTS = (
    Figure("naturalness.auroc", "The classifier itself: AUROC", ""),
    Figure("intent_adherence.judge_accuracy", "The judge itself: accuracy on labelled replies", ""),
)


def estimate(row: Record, figure: Figure) -> Record | None:
    """The figure's `value`, `interval` and `n` in a row of `results`; None where it is not."""
    found: object = row
    for key in figure.key.split("."):
        found = found.get(key) if isinstance(found, dict) else None
    return found if isinstance(found, dict) else None


def fixed(value: float, digits: int) -> str:
    """A number with fixed digits: fewer where it is huge, never `-0.00`."""
    if abs(value) >= 1e9:
        return f"{value:.2e}"
    text = f"{value:,.{digits if abs(value) < 10_000 else 0}f}"
    return text[1:] if text.startswith("-") and not text.strip("-0.,") else text


def is_human(row: Record) -> bool:
    """True for people's row."""
    return bool(row["kind"] == "human")


def by_file(evaluation: Record) -> Iterator[tuple[Record, list[Record]]]:
    """Each conversations file and its rows, people last."""
    for file in evaluation["conversations"]:
        rows = [row for row in evaluation["results"] if row["conversations"] == file["file"]]
        yield file, sorted(rows, key=is_human)


def models(evaluation: Record) -> list[str]:
    """The models' labels, each once, in order."""
    rows = (row for row in evaluation["results"] if not is_human(row))
    return list(dict.fromkeys(row["label"] for row in rows))


def sizes(rows: Iterable[Record], figure: Figure) -> str:
    """How many things a figure was measured on: `200`, or `180 to 200` where rows differ."""
    found = sorted({one["n"] for row in rows if (one := estimate(row, figure))})
    if not found:
        return ""
    return f"{found[0]:,}" if len(found) == 1 else f"{found[0]:,} to {found[-1]:,}"


def measured(rows: Iterable[Record], figure: Figure) -> bool:
    """True if any row has the figure."""
    return any(estimate(row, figure) for row in rows)


def reason(row: Record, figure: Figure) -> str | None:
    """Why a figure that is not there is not there."""
    found: str | None = row["not_measured"].get(figure.group)
    return found if estimate(row, figure) is None else None


def reasons(
    rows: Sequence[Record], figures: Sequence[Figure]
) -> dict[str, list[tuple[list[str], list[str]]]]:
    """Each reason once: reason -> (names of figures, labels of the rows that lack them)."""
    lacking: dict[str, dict[str, list[str]]] = {}
    for figure in figures:
        for row in rows:
            if why := reason(row, figure):
                lacking.setdefault(why, {}).setdefault(figure.name, []).append(row["label"])
    found: dict[str, list[tuple[list[str], list[str]]]] = {}
    for why, names in lacking.items():
        for labels in dict.fromkeys(map(tuple, names.values())):
            same = [name for name, some in names.items() if tuple(some) == labels]
            found.setdefault(why, []).append((same, list(dict.fromkeys(labels))))
    return found


def flat(settings: object, name: str = "") -> Iterator[tuple[str, str]]:
    """Nested settings as dotted names and texts."""
    if isinstance(settings, dict) and settings:
        for key, value in settings.items():
            yield from flat(value, f"{name}.{key}" if name else str(key))
    else:
        yield name, "none" if settings is None else str(settings)


def columns(text: str) -> int:
    """How many columns a terminal gives a text."""
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        for c in text
    )


def shortened(text: str, most: int) -> str:
    """`printable` text of at most `most` columns, its end cut off with an ellipsis."""
    text = printable(text)
    if columns(text) <= most:
        return text
    room, end = most - 1, 0
    for c in text:
        room -= columns(c)
        if room < 0:
            break
        end += 1
    return text[:end].rstrip() + "\u2026"
