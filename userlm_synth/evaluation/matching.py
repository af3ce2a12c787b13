"""Two evaluations side by side: which rows are of the same thing, and what is not the same.

A figure compares where the same thing was measured in the same way; what differs is not refused,
since that is at times the question (another prompt, another top_p), but said.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from userlm_synth.errors import UserError
from userlm_synth.estimates import Units
from userlm_synth.evaluation.columns import (
    SIX,
    Figure,
    by_file,
    estimate,
    fixed,
    flat,
    is_human,
    shortened,
)
from userlm_synth.records import Record, open_text, parse_json, read_lines, record_problems

#: What has to be the same for a figure to be the same measurement, by its name in a row.
INSTRUMENTS = {
    "termination": ("by",),
    "naturalness": ("by", "texts", "contrast"),
    "role_adherence": ("unsure", "questions"),
    "intent_adherence": ("unsure", "questions", "judge"),
}
QUESTIONS = ("role_adherence", "intent_adherence")  # asked of no conversation
MOST = 6  # settings or figures named in one warning
Pair = tuple[Record, Record]


@dataclass(frozen=True)
class Evaluation:
    """An evaluation, and the units of its figures by label, conversations and figure."""

    path: Path
    record: Record
    units: dict[tuple[str, str, str], Units]

    def units_of(self, row: Record, figure: Figure) -> Units | None:
        """The units of a figure of a row, if they were kept."""
        names = (name for name in (figure.key, figure.units) if name)
        keys = ((row["label"], row["conversations"], name) for name in names)
        return next((self.units[key] for key in keys if key in self.units), None)

    def hash_of(self, row: Record) -> str:
        """The hash of the conversations that a row is about."""
        files = self.record["conversations"]
        return next((one["hash"] for one in files if one["file"] == row["conversations"]), "")


def read_evaluation(path: Path) -> Evaluation:
    """An `evaluation.json` (or the folder, or the run folder, that holds it) and its units."""
    if path.is_dir():
        places = (path / "evaluation.json", path / "evaluation" / "evaluation.json")
        found = next((one for one in places if one.is_file()), None)
        if found is None:
            raise UserError(f"{path}: holds no evaluation.json; name one, or the folder of one")
        path = found
    try:
        with open_text(path) as file:
            record = parse_json(file.read())
    except (ValueError, OSError, EOFError) as error:
        raise UserError(f"{path}: is no evaluation: {error}") from None
    if problems := record_problems(record, "evaluation"):
        raise UserError(
            f"{path}: is no evaluation as this version writes it ({problems[0]}); name an "
            "evaluation.json, or make it again with `userlm-synth evaluate`"
        )
    return Evaluation(path, record, _read_units(path.with_name("units.jsonl")))


def _read_units(path: Path) -> dict[tuple[str, str, str], Units]:
    """The units by row and figure; none where the file is not there."""
    found: dict[tuple[str, str, str], Units] = {}
    for number, line in read_lines(path) if path.is_file() else ():
        try:
            key = (line["label"], line["conversations"], line["figure"])
            found[key] = Units.read(line["units"])
        except (KeyError, TypeError, ValueError, AttributeError):
            raise UserError(
                f"{path}:{number}: is no line of units; make the evaluation again, or remove the "
                "file to compare without pairs"
            ) from None
    return found


# ---- what is the same ------------------------------------------------------------------------


def matched(one: Evaluation, other: Evaluation) -> list[Pair]:
    """Rows of the same model on the same conversations; a lone model with the other's lone one."""
    firsts, seconds = (
        [row for row in each.record["results"] if not is_human(row)] for each in (one, other)
    )
    if len(firsts) == len(seconds) == 1:
        return [(firsts[0], seconds[0])]
    alone = all(len({row["label"] for row in rows}) == 1 for rows in (firsts, seconds))
    return [
        (first, second)
        for first in firsts
        for second in _best(first, seconds, alone)
        if first["conversations"] == second["conversations"]
        or same_texts(one, first, other, second)
    ]


def _best(first: Record, seconds: Sequence[Record], alone: bool) -> list[Record]:
    """The rows of the same label; else those of the same model; else those of a lone model."""
    for key in ("label", "model"):
        if same := [second for second in seconds if second[key] == first[key]]:
            return same
    return list(seconds) if alone else []


def same_texts(one: Evaluation, first: Record, other: Evaluation, second: Record) -> bool:
    """True if two rows are about the very same conversations."""
    return one.hash_of(first) == other.hash_of(second) != ""


def same_instrument(first: Record, second: Record, figure: Figure) -> bool:
    """True if a figure was measured in the same way in both rows."""
    return not list(_instruments(first, second, figure.group))


def _instruments(first: Record, second: Record, group: str) -> Iterator[str]:
    a, b = first.get(group) or {}, second.get(group) or {}
    for key in INSTRUMENTS.get(group, ()):
        if a and b and a[key] != b[key]:
            yield f"{key.replace('_', ' ')} {_shown(a[key])} / {_shown(b[key])}"


def comparable(
    one: Evaluation, first: Record, other: Evaluation, second: Record, figure: Figure
) -> bool:
    """True if the same ids name the same things in both."""
    texts = figure.group in QUESTIONS or same_texts(one, first, other, second)
    return texts and same_instrument(first, second, figure)


# ---- what is not -----------------------------------------------------------------------------


def warnings(one: Evaluation, other: Evaluation, pairs: Sequence[Pair]) -> list[str]:
    """What one has to know before believing a difference, a line each."""
    lines = [*_evaluations(one, other)]
    for first, second in pairs:
        lines += _rows(one, first, other, second)
    return list(dict.fromkeys(lines))


def _evaluations(one: Evaluation, other: Evaluation) -> Iterator[str]:
    settings = [dict(flat(each.record["settings"])) for each in (one, other)]
    names = sorted({*settings[0], *settings[1]})
    differ = [
        f"{name} {_shown(a)} / {_shown(b)}"
        for name in names
        if not name.startswith("models.")  # that is what is compared
        and (a := settings[0].get(name, "not set")) != (b := settings[1].get(name, "not set"))
    ]
    if differ:
        yield f"other settings: {_some(differ)}"
    if one.record["definitions"] != other.record["definitions"]:
        yield "words, stopwords or lemmas are not defined alike (see `definitions`)"
    lacking = [str(each.path.parent) for each in (one, other) if not each.units]
    if lacking:
        yield f"no units.jsonl in {' and '.join(lacking)}: nothing can be compared in pairs"
    people = [_people(each) for each in (one, other)]
    if all(people) and people[0] != people[1]:
        yield (
            f"naturalness: each evaluation has its own classifier; people get {people[0]} / "
            f"{people[1]} from them"
        )


def _people(evaluation: Evaluation) -> str:
    """What people's own first turns get for naturalness, file by file."""
    found = []
    for _, rows in by_file(evaluation.record):
        for row in rows:
            if is_human(row) and (natural := row["naturalness"]):
                found.append(fixed(natural["value"], 2))
    return ", ".join(found)


def _rows(one: Evaluation, first: Record, other: Evaluation, second: Record) -> Iterator[str]:
    who = _shown(first["label"])
    if not same_texts(one, first, other, second):
        yield (
            f"{who}: other conversations, {_shown(first['conversations'])} / "
            f"{_shown(second['conversations'])}, so not in pairs"
        )
    for group in INSTRUMENTS:
        if differ := list(_instruments(first, second, group)):
            yield f"{who}: {group.replace('_', ' ')} not measured alike: {_some(differ)}"
    for key, a in first["perplexity"].items():
        b = second["perplexity"].get(key)
        if b and a["form"] != b["form"]:
            yield f"{who}: shown as {a['form']} / {b['form']}, {key.replace('_', ' ')}"
        same = same_texts(one, first, other, second)
        if b and same and a["n"] == b["n"] and a["tokens"] != b["tokens"]:
            yield (
                f"{who}: counted in other tokens ({a['tokens']:,} / {b['tokens']:,}, "
                f"{key.replace('_', ' ')}): perplexities do not compare, bits per byte do"
            )
    sizes = [
        f"{figure.name.lower()} {a['n']:,} / {b['n']:,}"
        for figure in SIX
        if (a := estimate(first, figure)) and (b := estimate(second, figure)) and a["n"] != b["n"]
    ]
    if sizes:
        yield f"{who}: other n: {_some(sizes)}"


def _some(names: Sequence[str]) -> str:
    more = [f"{len(names) - MOST} more"] if len(names) > MOST else []
    return ", ".join([*names[:MOST], *more])


def _shown(value: object) -> str:
    return shortened(str(value), 48)
