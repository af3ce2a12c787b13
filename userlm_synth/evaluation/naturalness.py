"""How human first turns look: the mean likelihood "written by a person" over texts, x 100.

The paper (metric 4) asks Pangram, a detector of generated text, about 2,000 first turns. Here a
classifier trained on the spot is the default, since it needs no network: people against a contrast
(the turns of prompted assistants, or a file). Its figures can be compared within one table only.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from userlm_synth.estimates import Floats, Units
from userlm_synth.naturalness import classifier
from userlm_synth.naturalness.classifier import Corpus, Ints
from userlm_synth.naturalness.detectors import judge_texts
from userlm_synth.naturalness.texts import (
    FEWEST,
    HUMAN,
    WHAT,
    Choice,
    Texts,
    choose,
    equal,
    fits,
    read_contrast,
)
from userlm_synth.progress import Progress
from userlm_synth.records import Record

if TYPE_CHECKING:
    from userlm_synth.recipe.sections import Naturalness

NO_CONTRAST = (
    "needs a contrast: a prompted: model in the table, or evaluate.naturalness.contrast=FILE"
)
ALL_ALIKE = "so many texts are the same that without them there is nothing to learn from"

Figure = tuple[Record | str, dict[str, Units]]


def naturalness_of(
    rows: Mapping[str, Texts],
    kinds: Mapping[str, str],
    settings: Naturalness,
    *,
    limit: int,
    samples: int,
    seed: int,
    kept: Path,
) -> dict[str, Figure]:
    """For each row (label -> {conversation's id: first turn}; people's is `human`) its figure, or
    why there is none; and its units, named `naturalness`.

    `kinds`: what each row is (`prompted` rows are the contrast); `kept`: the folder where the
    answers of a detector stay.
    """
    choice = choose(rows, settings.texts, limit=limit, seed=seed)
    missing: dict[str, Figure] = {label: (why, {}) for label, why in choice.missing.items()}
    if not choice.rows:
        return {label: missing[label] for label in rows}
    prompted = [label for label in rows if kinds.get(label) == "prompted"]
    options = {"samples": samples, "seed": seed}
    if settings.by == "classifier":
        found = _by_classifier(choice, prompted, settings, limit, options)
    else:
        found = _by_detector(choice, prompted, settings, limit, options, kept)
    figures = missing | found
    return {label: figures[label] for label in rows}


def _by_classifier(
    choice: Choice,
    prompted: Sequence[str],
    settings: Naturalness,
    limit: int,
    options: dict[str, int],
) -> dict[str, Figure]:
    file = Path(settings.contrast) if settings.contrast else None
    more = _from_file(file, choice, limit, options["seed"]) if file else []
    table = _make_table(choice, prompted, file, more, settings.folds, options["seed"])
    reason = _lack(table, choice, prompted)
    if not reason:
        everyone = np.arange(len(table.corpus.fold))
        people = table.places[HUMAN]
        scores = classifier.held_out(table.corpus, people, table.others, everyone)
        if np.isfinite(scores).all():
            return _figures(table, choice, scores, "classifier", options)
    return {label: (reason or ALL_ALIKE, {}) for label in choice.rows}


def _by_detector(
    choice: Choice,
    prompted: Sequence[str],
    settings: Naturalness,
    limit: int,
    options: dict[str, int],
    kept: Path,
) -> dict[str, Figure]:
    judged = judge_texts(settings.by, _texts(choice), settings.human_label, kept)
    left = _answered(choice, judged.scores, limit, options["seed"])
    found: dict[str, Figure] = {
        label: (why, {}) for label, why in left.missing.items() if label in choice.rows
    }
    if left.rows:
        table = _make_table(left, prompted, None, [], settings.folds, options["seed"])
        scores = np.array([judged.scores[text] for text in _texts(left)])
        found |= _figures(table, left, scores, judged.name, options)
    return found


def _figures(
    table: _Table, choice: Choice, scores: Floats, by: str, options: dict[str, int]
) -> dict[str, Figure]:
    """One figure a row, from P(human) of each text."""
    figures: dict[str, Figure] = {}
    told = {"by": by, "texts": choice.kind, "auroc": _auroc(table, scores, options)}
    with Progress("naturalness", len(table.places), "rows", pace=False) as progress:
        for label, place in table.places.items():
            own = dict(zip(choice.rows[label], scores[place].tolist(), strict=True))
            units = Units.means(own, scale=100)
            figure = {
                **units.estimate(**options),
                **told,
                "contrast": table.contrast,
                "two_sample": _two_sample(table, label, options),
            }
            figures[label] = (figure, {"naturalness": units})
            progress.step()
    return figures


def _texts(choice: Choice) -> list[str]:
    """All texts, in the order of the rows."""
    return [text for row in choice.rows.values() for text in row.values()]


def _answered(choice: Choice, scores: Mapping[str, float], limit: int, seed: int) -> Choice:
    """Without the texts that a detector did not judge, and with equal numbers again."""
    rows = {
        label: {name: text for name, text in row.items() if text in scores}
        for label, row in choice.rows.items()
    }
    lost = {
        label: f"needs {FEWEST} first turns that the detector judges; there are {len(row)}"
        for label, row in rows.items()
        if len(row) < FEWEST
    }
    left = {label: row for label, row in rows.items() if label not in lost}
    return Choice(choice.kind, equal(left, limit, seed), choice.missing | lost)


@dataclass(frozen=True, eq=False)
class _Table:
    """The chosen rows as one corpus, where each stands in it, and what people are told from."""

    corpus: Corpus
    places: dict[str, Ints]
    others: Ints
    contrast: str | None


def _make_table(
    choice: Choice,
    prompted: Sequence[str],
    file: Path | None,
    more: Sequence[tuple[str, str]],
    folds: int,
    seed: int,
) -> _Table:
    sources = [list(row.items()) for row in choice.rows.values()]
    corpus, places = classifier.make_corpus([*sources, more], folds=folds, seed=seed)
    where = dict(zip(choice.rows, places, strict=False))
    if file:
        return _Table(corpus, where, places[-1], file.name)
    there = [label for label in prompted if label in where]
    others = np.concatenate([places[-1], *(where[label] for label in there)])
    return _Table(corpus, where, others, ", ".join(there) or None)


def _from_file(file: Path, choice: Choice, limit: int, seed: int) -> list[tuple[str, str]]:
    """Texts of the same length, `limit` at most, first those to what people spoke about."""
    texts = [one for one in read_contrast(file) if fits(one[1], choice.kind)]
    people = choice.rows.get(HUMAN, {})
    random.Random(seed).shuffle(texts)
    return sorted(texts, key=lambda one: one[0] not in people)[:limit]


def _lack(table: _Table, choice: Choice, prompted: Sequence[str]) -> str | None:
    """Why no classifier can be trained."""
    if HUMAN not in table.places:
        return f"people's first turns: {choice.missing.get(HUMAN, 'there are none')}"
    if table.contrast is None:
        small = [f"{label}: {choice.missing[label]}" for label in prompted]
        return f"the contrast is too small ({'; '.join(small)})" if small else NO_CONTRAST
    if len(table.others) < FEWEST:
        what = f"{FEWEST} texts {WHAT[choice.kind]}"
        return f"the contrast {table.contrast} needs {what}; there are {len(table.others)}"
    return None


def _auroc(table: _Table, scores: Floats, options: dict[str, int]) -> Record | None:
    """How well the scores tell people from the contrast."""
    if HUMAN not in table.places or not len(table.others):
        return None
    people = table.places[HUMAN]
    return classifier.auroc(table.corpus, scores, people, table.others, **options)


def _two_sample(table: _Table, label: str, options: dict[str, int]) -> Record | None:
    """A row against people; of people, one half against the other, where both are large enough."""
    people = table.places.get(HUMAN)
    if people is None or (label == HUMAN and len(people) < 2 * FEWEST):
        return None
    if label == HUMAN:
        return classifier.human_floor(table.corpus, people, **options)
    return classifier.two_sample(table.corpus, people, table.places[label], **options)
