"""The shape of the dialogues as charts and lines: lengths, stop reasons, models, tokens, money."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from userlm_synth.pages import number
from userlm_synth.records import Record
from userlm_synth.reporting.page import charts
from userlm_synth.reporting.page.details import Row, counts, keys, lines, spoken
from userlm_synth.reporting.page.tables import STYLES

Find = Callable[[Record], Any]
Say = Callable[[Record], "str | None"]
#: title, what is shared, the axis, and where the histogram lies in a shape.
LENGTHS: tuple[tuple[str, str, str, Find], ...] = (
    ("User turns per dialogue", "Share of the dialogues", "turns", lambda one: one["turns"]),
    ("Words per user turn", "Share of the user turns", "words", lambda one: one["words"]["user"]),
    (
        "Words per assistant turn",
        "Share of the assistant turns",
        "words",
        lambda one: one["words"]["assistant"],
    ),
)
#: The same for what only dialogues of a user LM have.
ENDS: tuple[tuple[str, str, str, str], ...] = (
    ("last", "Chance of leaving, last turn", "Share of the last user turns", "probability"),
    ("earlier", "Chance of leaving, earlier", "Share of the earlier user turns", "probability"),
)

REASONS: tuple[tuple[str, str, Find], ...] = (
    ("Why the dialogues stopped", "Share of the dialogues", lambda one: one["stop_reasons"]),
    (
        "Why dialogues were rejected",
        "Share of the rejected",
        lambda one: one["rejected"]["by_reason"],
    ),
)


def shape(report: Record) -> dict[str, Any]:
    """The charts of what was made, and how it was made."""
    return {
        "columns": list(_columns(report)),
        "bars": list(_bars(report)),
        "rows": [row for row in _made(report) if row[1]],
    }


def series(report: Record, find: Find) -> dict[str, Any]:
    """What is found in each set's shape, and in the people's, by style; what is empty left out."""
    found = {style: find(one["shape"]) for style, one in zip(STYLES, report["sets"], strict=False)}
    if report["reference"]:
        found["people"] = find(report["reference"]["shape"])
    return {style: one for style, one in found.items() if one and any(one["counts"])}


def _columns(report: Record) -> Iterator[dict[str, Any]]:
    ends = [(title, about, axis, _ends_find(place)) for place, title, about, axis in ENDS]
    for title, about, axis, find in (*LENGTHS, *ends):
        if found := series(report, find):
            bins = next(iter(found.values()))["bins"]
            drawn = charts.columns(bins, {style: one["counts"] for style, one in found.items()})
            marks = [key for key in keys(report) if key["style"] in found]
            yield {"title": title, "about": about, "axis": axis, "marks": marks, **drawn}


def _ends_find(place: str) -> Find:
    def find(one: Record) -> Any:
        ends = one["end_probabilities"]
        return {"bins": ends["bins"], "counts": ends[place]["counts"]} if ends else None

    return find


def _bars(report: Record) -> Iterator[dict[str, Any]]:
    for title, about, find in REASONS:
        found = {
            style: find(one["shape"]) for style, one in zip(STYLES, report["sets"], strict=False)
        }
        if any(found.values()):
            yield {"title": title, "about": about, **charts.bars(found)}


def _made(report: Record) -> Iterator[Row]:
    """How the dialogues were made, a line for each set."""
    for title, say in MADE:
        yield title, lines(report, _of_shape(say))


def _of_shape(say: Say) -> Say:
    return lambda one: say(one["shape"])


def _lengths(part: Record, noun: str) -> str | None:
    """Mean, median and 90th percentile in a line."""
    if part["mean"] is None:
        return None
    mean, median, p90 = (number(float(part[name])) for name in ("mean", "median", "p90"))
    return f"mean {mean} {noun}, median {median}, 90th percentile {p90}"


def _tokens(tokens: Record) -> str | None:
    if not any(count for side in tokens.values() for count in side.values()):
        return None
    return "; ".join(f"{side} {_read(kinds)}" for side, kinds in tokens.items())


def _read(kinds: Record) -> str:
    cached = kinds.get("cached_tokens")
    of_them = f" ({number(cached)} of them cached)" if cached else ""
    read, written = number(kinds["prompt_tokens"]), number(kinds["completion_tokens"])
    return f"{read} read{of_them}, {written} written"


def _rejected_tokens(one: Record) -> str | None:
    return _tokens(one["rejected"]["tokens"])


def _cost(one: Record) -> str | None:
    """Dollars by side, and of a thousand dialogues."""
    cost = one["cost"]
    if not cost:
        return None
    text = f"${cost['total']:,.2f} (user ${cost['user']:,.2f}, assistant ${cost['assistant']:,.2f})"
    if not one["dialogues"]:
        return text
    return f"{text}; ${1000 * cost['total'] / one['dialogues']:,.2f} a thousand dialogues"


def _intents(one: Record) -> str | None:
    intents = one["intents"]
    if not intents["distinct"]:
        return None
    text = f"{number(intents['distinct'])} distinct"
    if per := intents["per_intent"]:
        text += (
            f"; dialogues of each: {number(per['min'])} to {number(per['max'])}, "
            f"median {number(float(per['median']))}"
        )
    if intents["given"] is not None:
        text += f"; {number(intents['unused'])} of {number(intents['given'])} given not used"
        if intents["unused_first"]:
            text += f" ({', '.join(map(str, intents['unused_first'][:3]))}\u2026)"
    return text


def _ends(one: Record) -> str | None:
    last, earlier = (one["end_probabilities"][place] for place in ("last", "earlier"))
    if last["mean"] is None:
        return "not given by the user model"
    text = f"{last['mean']:.3f} at the last user turn"
    return text if earlier["mean"] is None else f"{text}, {earlier['mean']:.3f} at earlier ones"


def _named(key: str) -> Say:
    return lambda one: counts(one[key]) if one[key] else None


MADE: tuple[tuple[str, Say], ...] = (
    ("User played by", lambda one: counts(one["models"]["user"])),
    ("Assistant", lambda one: counts(one["models"]["assistant"])),
    ("Intents", _intents),
    ("User turns per dialogue", lambda one: _lengths(one["turns"], "turns")),
    ("Words per user turn", lambda one: _lengths(one["words"]["user"], "words")),
    ("Words per assistant turn", lambda one: _lengths(one["words"]["assistant"], "words")),
    ("Mean end probability", _ends),
    ("Guardrails: turns written again", lambda one: spoken(one["guardrails"])),
    ("Tokens of the dialogues", lambda one: _tokens(one["tokens"])),
    ("Tokens of the rejected", _rejected_tokens),
    ("Cost", _cost),
    ("Languages", _named("languages")),
    ("Sources", _named("sources")),
    ("Recipes", _named("recipes")),
)
