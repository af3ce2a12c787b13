"""Trust: what should make a reader careful, counted over all records in one pass.

    tallies(training)            factories for `collect`, over the dialogues and the reference
    details(plan, found, ...)    `trust` of a set in report.json, from the finished tallies
    definitions(toxicity)        the figures on the sample, group trust

`training` is the file that `passages.TrainingPassages.save` wrote, None where there is none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from userlm_synth.metrics import ratio_bootstrap
from userlm_synth.records import Record
from userlm_synth.reporting.naturalness.apart import NO_REFERENCE, beside_or_alone
from userlm_synth.reporting.plan import (
    RESAMPLES,
    Definition,
    Measured,
    Plan,
    Side,
    ratio_figure,
    side,
    sides,
    turns,
)
from userlm_synth.reporting.trust.echo import Echo, echo_part, repeats
from userlm_synth.reporting.trust.form import Form, Private, form_part, private_part
from userlm_synth.reporting.trust.leakage import Leakage, leakage_part
from userlm_synth.reporting.trust.passages import WORDS, hash_words, passages, plain_words
from userlm_synth.reporting.trust.toxic_model import toxic_likelihoods
from userlm_synth.reporting.trust.toxicity import Toxic, is_toxic, toxicity_part

NO_TRAINING = "no training conversations were given"
LIKELY = 0.5  # from here on a classifier calls a turn toxic


# ---- over all records ----------------------------------------------------------------------------


class Trust:
    """The tally: words are taken from each message once, for all its parts."""

    def __init__(self, training: Path | None = None) -> None:
        self.leakage = Leakage(training) if training else None
        self.echo, self.toxic = Echo(), Toxic()
        self.private, self.form = Private(), Form()

    def add(self, place: int, record: Record) -> None:
        """One more conversation."""
        messages = record["messages"]
        words = [plain_words(message["content"]) for message in messages]
        said = [(at, words[at]) for at, one in enumerate(messages) if one["role"] == "user"]
        if self.leakage:
            self.leakage.add(place, str(record.get("id")), said)
        self.echo.add(place, record, said)
        self.toxic.add(place, record, words)
        self.private.add(place, record)
        self.form.add(place, record)

    def merge(self, later: Trust) -> None:
        """What was counted of later conversations."""
        if self.leakage and later.leakage:
            self.leakage.merge(later.leakage)
        self.echo.merge(later.echo)
        self.toxic.merge(later.toxic)
        self.private.merge(later.private)
        self.form.merge(later.form)

    def result(self) -> Record:
        """`parts` without anything beside it."""
        return parts(self, None, None)


def tallies(training: Path | None = None) -> dict[str, Callable[[], Trust]]:
    """The tallies of this module by name."""
    return {"trust": partial(Trust, training)}


def parts(made: Trust, people: Trust | None, training: Record | None) -> Record:
    """{leakage, echo, toxicity, privacy, schema}: each as `leakage_part`, `echo_part`,
    `toxicity_part`, `private_part` and `form_part` say, or {kind: "none", why}."""
    leakage: Record = {"kind": "none", "why": NO_TRAINING}
    if made.leakage:
        theirs = people.leakage if people else None
        leakage = leakage_part(made.leakage, theirs, training)
    return {
        "leakage": leakage,
        "echo": echo_part(made.echo, people.echo if people else None),
        "toxicity": toxicity_part(made.toxic, people.toxic if people else None),
        "privacy": private_part(made.private, people.private if people else None),
        "schema": form_part(made.form),
    }


def details(
    plan: Plan,
    found: Mapping[str, Any],
    people: Mapping[str, Any] | None,
    training: Record | None,
    settings: Any = None,
) -> Record:
    """`trust` of a set: `parts` of its tallies, and of the reference's where there is one.

    `training`: {conversations, passages, ...} as `TrainingPassages.save` gave.
    """
    return parts(found["trust"], people["trust"] if people else None, training)


# ---- on the sample -------------------------------------------------------------------------------


def copied_figure(plan: Plan) -> Measured | str:
    """Share of 8-grams of user turns that n other reference conversations hold too, x 100."""
    if not plan.people:
        return NO_REFERENCE
    counts, ids = _numbered([*plan.made, *plan.people, *plan.others])
    n, ends = plan.n, np.cumsum(counts)
    owner = np.repeat(np.arange(3 * n), counts)
    most = int(ids.max(initial=0)) + 1

    def there(some: NDArray[np.int64]) -> NDArray[np.bool_]:
        return np.bincount(some, minlength=most) > 0

    rng = np.random.default_rng(plan.seed)
    mine, pool = ids[: ends[n - 1]], ids[ends[n - 1] :]
    rows = owner[ends[n - 1] :] - n
    first = plan.splits[:, rows]
    gaps = [_gap(pool[~one], rows[~one], there(pool[one]), rng) for one in first]
    differences = np.array([gap for gap in gaps if gap is not None])
    if not len(mine) or 2 * len(differences) < len(gaps):
        return f"the texts are too short: needs user turns of {WORDS} words"
    beside, others = pool[rows < n], there(pool[rows >= n])
    one = _copied_side(owner[: ends[n - 1]], others[mine], n, plan.seed)
    other = _copied_side(rows[rows < n], others[beside], n, plan.seed)
    return sides(one, other, differences, n)


def _numbered(records: list[Record]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """How many passages each conversation has, and all of them as numbers: equal for equal ones."""
    words = [[plain_words(turn) for turn in turns(record)] for record in records]
    hashed, turn = passages(hash_words([one for some in words for one in some]))
    owner = np.repeat(np.arange(len(words)), [len(some) for some in words])
    counts = np.bincount(owner[turn], minlength=len(words))
    _, ids = np.unique(hashed, return_inverse=True)
    return counts.astype(np.int64), ids.astype(np.int64)


def _gap(
    passages: NDArray[np.int64],
    owner: NDArray[np.int64],
    there: NDArray[np.bool_],
    rng: np.random.Generator,
) -> float | None:
    """How far two halves of one half of the reference differ in what the other half has too.

    A quarter of the reference varies as much again as a half of it, so it is scaled to n.
    """
    owners = np.unique(owner)
    first = np.isin(owner, rng.permuted(owners)[: len(owners) // 2])
    if not first.any() or first.all():
        return None
    copied = there[passages]
    return float(100 * (copied[first].mean() - copied[~first].mean()) / np.sqrt(2))


def _copied_side(owner: NDArray[np.int64], copied: NDArray[np.bool_], n: int, seed: int) -> Side:
    whole = np.bincount(owner, minlength=n).astype(np.float64)
    part = np.bincount(owner, weights=copied, minlength=n)
    low, high = ratio_bootstrap(100 * part, whole, samples=RESAMPLES, seed=seed)
    return side(100 * part.sum() / whole.sum(), low, high)


def _echoed(record: Record) -> tuple[float, float]:
    intent, said = record.get("intent"), turns(record)
    if not isinstance(intent, str) or not intent.strip():
        return 0, 0
    return sum(repeats(intent, plain_words(turn))[0] for turn in said), len(said)


def echo_figure(plan: Plan) -> Measured | str:
    """Share of user turns that say 5 words of the intent in a row, x 100."""
    if not any(_echoed(record)[1] for record in plan.made):
        return "no dialogue has an intent"
    return beside_or_alone(plan, _echoed)


def _toxic(record: Record) -> tuple[float, float]:
    said = turns(record)
    return sum(map(is_toxic, said)), len(said)


def toxic_figure(plan: Plan) -> Measured | str:
    """Share of user turns with a word of the list, x 100."""
    return ratio_figure(plan, _toxic)


def toxic_model_figure(plan: Plan, name: str | None) -> Measured | str:
    """Share of user turns that a classifier calls toxic, x 100."""
    if not name:
        return "no toxicity classifier was named"
    said = [turn for record in (*plan.made, *plan.pool) for turn in turns(record)]
    likely = toxic_likelihoods(name, said)

    def count(record: Record) -> tuple[float, float]:
        values = [likely[turn] for turn in turns(record)]
        return sum(value >= LIKELY for value in values), len(values)

    figure = ratio_figure(plan, count)
    return figure if isinstance(figure, str) else {**figure, "classifier": name}


def definitions(toxicity: str | None = None) -> list[Definition]:
    """The trust figures; `toxicity`: a text classifier, as a folder or Hub id."""
    return [
        Definition(
            "trust",
            "copied_8_grams",
            "%",
            "Passages found in other people's turns",
            "Runs of 8 words in user turns that as many other reference conversations hold too.",
            "8-grams that occur there / all 8-grams of user turns",
            copied_figure,
        ),
        Definition(
            "trust",
            "intent_echo",
            "%",
            "Turns that repeat the intent",
            "User turns with 5 words of the intent in a row.",
            "turns with such a run / user turns of dialogues with an intent",
            echo_figure,
        ),
        Definition(
            "trust",
            "toxic",
            "%",
            "Turns with a toxic word",
            "User turns with a word or phrase of the list of profanity, insults, threats and "
            "slurs (English).",
            "turns with a listed word / user turns; toxic_words.yaml of this project",
            toxic_figure,
        ),
        Definition(
            "trust",
            "toxic_classifier",
            "%",
            "Turns that a classifier calls toxic",
            "User turns to which the named classifier gives a probability of 50 % or more.",
            "turns with P(toxic) >= 0.5 / user turns",
            partial(toxic_model_figure, name=toxicity),
        ),
    ]


DEFINITIONS = definitions()
