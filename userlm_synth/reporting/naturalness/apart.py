"""Whether a classifier tells the dialogues from people's conversations, and which ones it does.

A text is all that a user says in one conversation. One pass over a plan gives three things, kept
for as long as the plan lives: the two-sample test, the same of people against other people, and
how human each dialogue looks to a model that never saw it.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from userlm_synth.naturalness.classifier import Corpus, Ints, held_out, make_corpus, two_sample
from userlm_synth.records import Record
from userlm_synth.reporting.plan import (
    RESAMPLES,
    Measured,
    Plan,
    Side,
    between,
    ratio_figure,
    side,
    user_text,
)

FOLDS = 5
CHARACTERS = 800  # read of a text, which bounds the time that long ones take
FEWEST = 20  # conversations a side
LEVEL = 0.05  # of the test

NO_REFERENCE = "needs a reference: conversations of people"
ALL_ALIKE = "so many texts are the same that without them there is nothing to learn from"

Options = dict[str, int]


@dataclass(frozen=True, eq=False)
class Apart:
    """What the classifier found. `human` [n]: 100 x P(human) of each dialogue, NaN where none."""

    test: Record | str
    floor: Record | str
    human: npt.NDArray[np.float64]


_LAST: list[tuple[weakref.ref[Plan], Apart]] = []  # of the plan that was asked about last


def lack(plan: Plan, fewest: int = FEWEST) -> str | None:
    """Why two sides cannot be compared, if so."""
    if not plan.people:
        return NO_REFERENCE
    if plan.n < fewest:
        return f"needs {fewest} conversations a side; there are {plan.n}"
    return None


def beside_or_alone(plan: Plan, count: Callable[[Record], tuple[float, float]]) -> Measured | str:
    """`ratio_figure`, of the dialogues alone where the reference has nothing to count: its
    conversations have no intents."""
    counts = {id(record): count(record) for record in (*plan.made, *plan.pool)}
    parts = [any(counts[id(one)][1] for one in part) for part in (plan.people, plan.others)]
    if plan.people and not all(parts):
        plan = replace(plan, people=[], others=[], splits=plan.splits[:, :0])
    return ratio_figure(plan, lambda record: counts[id(record)])


def told_apart(plan: Plan) -> Apart:
    """The classifier's findings; computed once for a plan that `lack` has nothing against."""
    if not _LAST or _LAST[0][0]() is not plan:
        _LAST[:] = [(weakref.ref(plan), _tell(plan))]
    return _LAST[0][1]


def _tell(plan: Plan) -> Apart:
    sources = [_texts(records) for records in (plan.made, plan.people, plan.others)]
    corpus, (made, people, others) = make_corpus(sources, folds=FOLDS, seed=plan.seed)
    if not corpus.counts.shape[1]:
        return Apart("the texts are empty", "the texts are empty", np.full(plan.n, np.nan))
    options = {"samples": RESAMPLES, "seed": plan.seed}
    return Apart(
        test=_test(corpus, people, made, options),
        floor=_test(corpus, people, others, options),
        human=100 * held_out(corpus, people, made, made)[made],
    )


def _texts(records: Sequence[Record]) -> list[tuple[str, str]]:
    """(group, text): what was said to one intent is not learnt from when it is judged."""
    return [
        (str(record.get("intent_id") or record.get("id") or at), user_text(record)[:CHARACTERS])
        for at, record in enumerate(records)
    ]


def _test(corpus: Corpus, people: Ints, others: Ints, options: Options) -> Record | str:
    return two_sample(corpus, people, others, **options) or ALL_ALIKE


def classifier_figure(plan: Plan) -> Measured | str:
    """AUROC x 100 of the two-sample test with its interval, the floor, and p of both."""
    if why := lack(plan):
        return why
    found = told_apart(plan)
    if isinstance(found.test, str):
        return found.test
    if isinstance(found.floor, str):
        return f"people against people: {found.floor}"
    made, floor = (_side(one["auroc"]) for one in (found.test, found.floor))
    p = float(found.test["p"])
    beyond = p <= LEVEL and made["value"] > floor["value"]
    return between(made, floor, plan.n, beyond=beyond, p=p, floor_p=float(found.floor["p"]))


def _side(auroc: Record) -> Side:
    return side(auroc["value"], *auroc["interval"])


def least_natural(plan: Plan, k: int = 10) -> tuple[list[tuple[int, float]], str]:
    """The `k` dialogues that look least human: (place in `plan.made`, 100 x P(human)), the least
    first; or none, and why."""
    if why := lack(plan):
        return [], why
    human = told_apart(plan).human
    known = np.flatnonzero(np.isfinite(human))
    if not len(known):
        return [], ALL_ALIKE
    order = known[np.argsort(human[known], kind="stable")][:k]
    return [(int(at), float(human[at])) for at in order], ""
