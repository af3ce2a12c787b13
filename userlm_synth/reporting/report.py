"""The report from its inputs to its files: report.json, index.html and plots/.

    make_report(Inputs("runs/mine", reference="people.jsonl"), Report(), title="...", seed=0)

All records are read once, in several processes, for what is counted of each; the figures are then
measured on an equal-n sample of every side.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from userlm_synth.conversations.reading import Opened, open_records, records_in
from userlm_synth.errors import UserError, explain_disk_full
from userlm_synth.progress import Progress
from userlm_synth.recipe import Report
from userlm_synth.records import Record, make_folder, write_bytes
from userlm_synth.reporting import beside, shape
from userlm_synth.reporting.collect import Factory, Sample, Tallies, collect
from userlm_synth.reporting.diversity import variety
from userlm_synth.reporting.embeddings import Vectors, embed
from userlm_synth.reporting.measuring import compared, definitions, measure_all, plain
from userlm_synth.reporting.naturalness.apart import least_natural
from userlm_synth.reporting.page.shown import shown_dialogue
from userlm_synth.reporting.plan import LEAST, RESAMPLES, SPLITS, Plan, make_plan, user_text
from userlm_synth.reporting.saying import cannot_say, made_by, sampled, warnings
from userlm_synth.reporting.trust import trust
from userlm_synth.reporting.trust.passages import TrainingPassages

VERSION = 2
SHOWN = 20  # dialogues at random
WORST = 10  # dialogues that look least natural


@dataclass(frozen=True)
class Inputs:
    """What a report is made of: datasets in any form that `conversations.reading` opens."""

    dialogues: str | Path
    reference: str | Path | None = None
    training: str | Path | None = None
    intents: Path | None = None
    compare: str | Path | None = None


@dataclass(frozen=True, eq=False)
class Side:
    """One dataset after the pass over all of it."""

    opened: Opened
    tallies: Tallies
    records: list[Record]  # a random sample in a random order

    @property
    def available(self) -> int:
        """Records with a user turn."""
        return int(self.tallies["shape"].dialogues)


def make_report(
    inputs: Inputs, settings: Report, *, title: str, seed: int = 0, kept: Path | None = None
) -> Record:
    """`report.json`, version 2 (`schemas/report.schema.json`); a detector's answers are `kept`.

    Raises `UserError` where an input cannot be read, or holds no dialogue.
    """
    names = [inputs.dialogues, *([inputs.compare] if inputs.compare is not None else [])]
    opened = [open_records(name) for name in names]
    people = open_records(inputs.reference) if inputs.reference is not None else None
    taught = open_records(inputs.training) if inputs.training is not None else None
    given = beside.read_intents(inputs.intents) if inputs.intents else None
    with tempfile.TemporaryDirectory(prefix="userlm-synth-") as folder:
        training, hashes = _training(taught, Path(folder))
        trusted = trust.tallies(hashes)
        factories = {**variety.tallies(), **trusted}
        sets = [_side(one, factories, settings.sample, seed, "dialogues") for one in opened]
        for one in sets:
            _check(one)
        reference = (
            _side(people, trusted, 2 * settings.sample, seed, "reference") if people else None
        )
        found = _report(sets, reference, training, given, settings, seed, kept)
    report: Record = plain({"version": VERSION, "title": title, "made_by": made_by(), **found})
    return report


def _report(
    sets: Sequence[Side],
    reference: Side | None,
    training: Record | None,
    given: Mapping[int, str] | None,
    settings: Report,
    seed: int,
    kept: Path | None,
) -> Record:
    """The report but for its heading."""
    plans = make_plans(sets, reference, settings, seed)
    defined = definitions(settings, kept)
    total = len(defined) * len(plans)
    with Progress("measuring", total, "figures", pace=False) as progress:
        measured = [measure_all(plan, defined, progress) for plan in plans]
    parts = [
        _set(one, plan, figures, reference, training, given, settings)
        for one, plan, figures in zip(sets, plans, measured, strict=True)
    ]
    people = reference.available if reference else None
    return {
        "seed": seed,
        "sampling": _sampling(plans, settings, seed),
        "reference": _reference(reference),
        "training": training and {"name": training["name"], "available": training["available"]},
        "cannot_say": cannot_say(parts, reference is not None, training, settings),
        "warnings": warnings(parts, people, plans[0].n, settings),
        "definitions": [one.said() for one in defined],
        "sets": parts,
        "compare": {"figures": compared(*measured)} if len(measured) == 2 else None,
    }


# ---- the pass over all records -------------------------------------------------------------------


def _side(
    opened: Opened, factories: Mapping[str, Factory], size: int, seed: int, what: str
) -> Side:
    own: dict[str, Factory] = {
        "shape": shape.Shape,
        "sample": partial(Sample, size, f"{what} {seed}"),
    }
    tallies = collect(opened, {**own, **factories})
    return Side(opened, tallies, tallies.pop("sample").records())


def _training(opened: Opened | None, folder: Path) -> tuple[Record | None, Path | None]:
    """What the training conversations are, and a file of their passages' hashes."""
    if opened is None:
        return None, None
    tallies = collect(opened, {"passages": TrainingPassages, "shape": shape.Shape})
    path = folder / "passages.npy"
    said = tallies["passages"].save(path)
    return {"name": opened.name, "available": tallies["shape"].dialogues, **said}, path


def _check(one: Side) -> None:
    if one.available:
        return
    faults = one.tallies["faults"].result()
    why = "".join(f"; row {fault['row']}: {fault['why']}" for fault in faults["first"][:1])
    rejected = beside.rejections(one.opened.rejected)["total"]
    more = f"; {rejected} were rejected (rejected.jsonl says why)" if rejected else ""
    raise UserError(f"{one.opened.name}: no dialogue to report on{why}{more}")


# ---- the sample ----------------------------------------------------------------------------------


def make_plans(
    sets: Sequence[Side], reference: Side | None, settings: Report, seed: int
) -> list[Plan]:
    """A plan for each set: n is what every set and half of the reference allow.

    A reference of fewer than `LEAST` conversations has no two halves to compare; then the sets are
    measured without one.
    """
    people = reference.records if reference and reference.available >= LEAST else []
    n = min(settings.sample, *(len(one.records) for one in sets))
    if people:
        n = min(n, len(people) // 2)
    groups = [one.records[:n] for one in sets] + [people[:n], people[n : 2 * n]]
    texts = [[user_text(record) for record in group] for group in groups]
    tables, name = embed(texts, settings.embedding, seed)
    *made, near, others = tables
    return [
        make_plan(
            group,
            people,
            seed,
            n=n,
            vectors=Vectors(table, near, others, name),
            beside=[record for one in groups[: len(sets)] if one is not group for record in one],
        )
        for group, table in zip(groups, made, strict=False)
    ]


def _sampling(plans: Sequence[Plan], settings: Report, seed: int) -> Record:
    plan = plans[0]
    vectors = plan.vectors
    assert vectors
    count = sum(len(one.made) for one in plans) + len(plan.pool)
    return {
        "seed": seed,
        "n": plan.n,
        "limit": settings.sample,
        "splits": SPLITS,
        "resamples": RESAMPLES,
        "embedding": {"name": vectors.name, "n": count, "dimensions": vectors.dimensions},
        "text": sampled(plan, len(plans)),
    }


# ---- parts of the report -------------------------------------------------------------------------


def _set(
    one: Side,
    plan: Plan,
    figures: Record,
    reference: Side | None,
    training: Record | None,
    given: Mapping[int, str] | None,
    settings: Report,
) -> Record:
    found: Record = {
        "name": one.opened.name,
        "available": one.available,
        "shape": _shape(one, given),
        "figures": figures,
        **variety.details(plan, one.tallies),
        "trust": trust.details(
            plan, one.tallies, reference.tallies if reference else None, training, settings
        ),
    }
    worst, why = least_natural(plan, WORST)
    pairs = found["near_duplicates"]["pairs"]
    found["examples"] = {
        "random": [shown_dialogue(record) for record in one.records[:SHOWN]],
        "least_natural": [{**shown_dialogue(plan.made[at]), "score": score} for at, score in worst],
        "least_natural_why": why or None,
        "nearest": _nearest(one.opened, [pair["places"] for pair in pairs]),
    }
    return found


def _shape(one: Side, given: Mapping[int, str] | None = None) -> Record:
    """`shape` of a set: of its records, and of what lies beside them."""
    tally = one.tallies["shape"]
    return {
        **tally.result(),
        "unreadable": one.tallies["faults"].result(),
        "intents": tally.intents_used(given),
        "rejected": beside.rejections(one.opened.rejected),
        "cost": beside.cost(one.opened.bill),
    }


def _reference(reference: Side | None) -> Record | None:
    if reference is None:
        return None
    found = _shape(reference)
    return {
        "name": reference.opened.name,
        "available": reference.available,
        "sources": found["sources"],
        "shape": found,
    }


def _nearest(opened: Opened, pairs: Sequence[Sequence[int]]) -> list[list[Record]]:
    """The dialogues of each pair of places."""
    found = records_at(opened, {place for pair in pairs for place in pair})
    return [[shown_dialogue(found[place]) for place in pair] for pair in pairs]


def records_at(opened: Opened, places: set[int]) -> dict[int, Record]:
    """The records at some places; only blocks that hold one are unpacked."""
    found: dict[int, Record] = {}
    before = None
    for block in opened.blocks() if places else ():
        if before is not None and any(before.place <= place < block.place for place in places):
            found |= _some(before, places)
        before = block
        if len(found) == len(places):
            return found
    return found | (_some(before, places) if before is not None else {})


def _some(block: Any, places: set[int]) -> dict[int, Record]:
    return {
        place: record
        for place, record in records_in(block)
        if place in places and not isinstance(record, str)
    }


# ---- files ---------------------------------------------------------------------------------------


def write_report(
    inputs: Inputs,
    settings: Report,
    out: Path,
    *,
    title: str,
    seed: int = 0,
    page: Callable[[Record], str] | None = None,
    plots: Callable[[Record, Path], Any] | None = None,
) -> Record:
    """Make a report and write `plots/`, `index.html` and, last, `report.json` in `out`.

    Each file is whole or not there, and what was there before stays until all is computed.
    """
    import orjson

    from userlm_synth.reporting.page.page import render_page
    from userlm_synth.reporting.page.plots import write_plots

    if settings.detector:
        make_folder(out)
    report = make_report(inputs, settings, title=title, seed=seed, kept=out)
    html = (page or render_page)(report)
    text = orjson.dumps(report, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    make_folder(out)
    try:
        with explain_disk_full(out):
            (plots or write_plots)(report, out / "plots")
        write_bytes(out / "index.html", [html.encode()])
        write_bytes(out / "report.json", [text])
    except OSError as error:
        raise UserError(f"{out}: the report cannot be written: {error.strerror}") from error
    return report
