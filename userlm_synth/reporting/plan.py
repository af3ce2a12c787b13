"""What is compared, and how a figure of it is measured: equal sizes, intervals, a level of chance.

Every comparison is taken at one size: n dialogues of the set, n reference conversations (people),
and n other ones. The last two, shuffled and split again and again, show how far apart two sets of
n conversations lie although nothing distinguishes them: the human-against-human floor.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from userlm_synth.metrics import ratio_bootstrap
from userlm_synth.records import Record, user_turns

if TYPE_CHECKING:
    from userlm_synth.reporting.embeddings import Vectors

LIMIT = 2000  # conversations a side, as the paper's 2,000 first turns
RESAMPLES = 1000  # of each interval
SPLITS = 200  # of the reference into two halves
DRAWS = 20  # of halves, for a statistic that takes long
LEAST = 4  # conversations a side that can be halved

#: 97.5 % points of Student's t for 1 to 30 degrees of freedom (Student 1908, printed tables).
STUDENT = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
    2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
    2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip

Floats = NDArray[np.float64]
Measured = dict[str, Any]  # a figure as it stands in report.json: `sides` or `between`
Side = dict[str, float]  # {"value", "low", "high"}
Item = TypeVar("Item")
Items = Any  # a list, or an array with a first axis: one item a conversation
Statistic = Callable[[Items], "float | None"]


def turns(record: Record) -> list[str]:
    """The texts of the user's side, in order."""
    return user_turns(record["messages"])


def user_text(record: Record) -> str:
    """The user's turns together, a blank line between them."""
    return "\n\n".join(turns(record))


@dataclass(frozen=True, eq=False)
class Plan:
    """`n` dialogues, `n` reference conversations beside them, `n` others, and how these are split.

    Without a reference `people` and `others` are empty, and `splits` has no columns.
    """

    made: list[Record]
    people: list[Record]
    others: list[Record]
    splits: NDArray[np.bool_]  # (SPLITS, 2n): True = first half; row 0: people | others
    seed: int
    vectors: Vectors | None = None
    beside: Sequence[Record] = ()  # of another set that is compared: what must be equal with it is

    @property
    def n(self) -> int:
        """Conversations a side."""
        return len(self.made)

    @property
    def pool(self) -> list[Record]:
        """All reference conversations of the plan: `people`, then `others`."""
        return [*self.people, *self.others]


@dataclass(frozen=True)
class Definition:
    """A figure: what it is called, what it says, where it is from, and how it is measured.

    `make` gives the figure, or says in one line why it cannot be measured.
    """

    group: str  # diversity, naturalness or trust
    key: str
    unit: str
    name: str
    description: str
    source: str
    make: Callable[[Plan], Measured | str]

    def said(self) -> Record:
        """What `report.json` says of it."""
        names = ("key", "group", "unit", "name", "description", "source")
        return {name: getattr(self, name) for name in names}


def make_plan(
    made: Sequence[Record],
    reference: Sequence[Record],
    seed: int,
    *,
    vectors: Vectors | None = None,
    n: int | None = None,
    beside: Sequence[Record] = (),
) -> Plan:
    """A plan of the first `n` dialogues and the first `2n` reference conversations given.

    `n` None: as many as both sides allow, `LIMIT` at most. The caller has drawn them at random.
    """
    most = min(len(made), LIMIT) if n is None else n
    if reference and n is None:
        most = min(most, len(reference) // 2)
    people, others = ([*reference[:most]], [*reference[most : 2 * most]])
    wide = 2 * most if reference else 0
    splits = np.tile(np.arange(wide) < most, (SPLITS, 1))
    splits[1:] = np.random.default_rng(seed).permuted(splits[1:], axis=1)
    return Plan([*made[:most]], people, others, splits, seed, vectors, beside)


def drawn(records: Sequence[Item], n: int, seed: int, what: str) -> list[Item]:
    """`n` of the records at random, in a random order; `what` keeps two draws apart."""
    return random.Random(f"report {what} {seed}").sample(records, n)


# ---- the two forms of a figure -------------------------------------------------------------------


def side(value: float, low: float, high: float) -> Side:
    """A value and its interval, which holds it also where the resamples hardly vary."""
    value = float(value)
    return {"value": value, "low": min(float(low), value), "high": max(float(high), value)}


def sides(
    made: Side, people: Side | None, differences: Floats | None, n: int, **extra: Any
) -> Measured:
    """A figure that both sides have. `differences`: those of random halves of the reference."""
    if people is None or differences is None:
        none = dict.fromkeys(("people", "difference", "chance", "beyond_chance"))
        return {"kind": "sides", "made": made, **none, "n": n, **extra}
    gap = made["value"] - people["value"]
    chance = _chance(differences)
    return {
        "kind": "sides",
        "made": made,
        "people": people,
        "difference": gap,
        "chance": chance,
        "beyond_chance": bool(abs(gap) > chance["p95"] + 1e-9),  # past rounding alone
        "n": n,
        **extra,
    }


def between(made: Side, floor: Side, n: int, *, beyond: bool, **extra: Any) -> Measured:
    """A figure of the set against people, beside people against other people (`floor`)."""
    return {
        "kind": "between",
        "made": made,
        "floor": floor,
        "beyond_chance": bool(beyond),
        "n": n,
        **extra,
    }


def _chance(differences: Floats) -> dict[str, float]:
    """Median and 95 % point of the size of a difference that means nothing.

    Few differences have no 95 % point of their own: theirs is Student's t x root mean square, as
    which half is first is a coin's throw and the mean is 0 therefore; the median is 0.6745 x that.
    """
    sizes = np.abs(differences)
    if len(sizes) > len(STUDENT):
        median, p95 = np.percentile(sizes, [50, 95])
    else:
        spread = float(np.sqrt((sizes**2).mean()))
        median, p95 = 0.6745 * spread, STUDENT[len(sizes) - 1] * spread
    return {"median": float(median), "p95": float(p95)}


# ---- figures from sums ---------------------------------------------------------------------------


def ratio_figure(
    plan: Plan, count: Callable[[Record], tuple[float, float]], scale: float = 100
) -> Measured | str:
    """scale x sum of parts / sum of wholes; `count` gives (part, whole) of a conversation.

    Conversations are resampled for the intervals (percentile bootstrap, Efron 1979).
    """
    made = _pairs(plan.made, count)
    if not made[:, 1].sum() > 0:
        return "the dialogues hold nothing to count"
    one = _ratio_side(made, scale, plan.seed)
    if not plan.people:
        return sides(one, None, None, plan.n)
    pool = _pairs(plan.pool, count)
    halves = [half.astype(np.float64) @ pool for half in (plan.splits, ~plan.splits)]
    if not min(half[:, 1].min() for half in halves) > 0:
        return "the reference holds too little to count"
    values = [scale * half[:, 0] / half[:, 1] for half in halves]
    other = _ratio_side(pool[: plan.n], scale, plan.seed)
    return sides(one, other, values[0] - values[1], plan.n)


def _pairs(records: Sequence[Record], count: Callable[[Record], tuple[float, float]]) -> Floats:
    return np.array([count(record) for record in records], dtype=np.float64).reshape(-1, 2)


def _ratio_side(pairs: Floats, scale: float, seed: int) -> Side:
    part, whole = pairs.T
    low, high = ratio_bootstrap(scale * part, whole, samples=RESAMPLES, seed=seed)
    return side(scale * part.sum() / whole.sum(), low, high)


# ---- figures of sets -----------------------------------------------------------------------------


def halved_figure(
    plan: Plan,
    statistic: Statistic,
    draws: int = DRAWS,
    *,
    items: tuple[Items, Items, Items] | None = None,
) -> Measured | str:
    """A statistic of a set that repeats or its size bias: taken on random disjoint halves.

    `items` are what `statistic` gets some of, one a conversation, for made, people and others:
    lists or arrays with a first axis; None: the records. `statistic` gives None or NaN where it has
    too little to measure, and the figure then says so.

    Value: the mean over `draws` pairs of halves (n/2 conversations each); interval: percentiles
    over them, for halves without replacement vary as the whole would between samples (delete-half
    jackknife, Shao & Wu 1989), while a bootstrap would repeat conversations. Chance: differences of
    the mean of two halves between the two parts of `draws` splits of people + others.
    """
    if plan.n < LEAST:
        return f"needs {LEAST} conversations a side"
    made, people, others = items or (plan.made, plan.people, plan.others)
    rng = np.random.default_rng(plan.seed)
    everyone = np.arange(plan.n)
    mine = _half_values(made, everyone, statistic, draws, rng)
    if mine is None:
        return "the dialogues are too short to measure"
    if not plan.people:
        return sides(_half_side(mine), None, None, plan.n)
    theirs = _half_values(people, everyone, statistic, draws, rng)
    pool = _joined(people, others)
    gaps = []
    for split in plan.splits[1 : draws + 1]:
        parts = [
            _half_values(pool, np.flatnonzero(part), statistic, 1, rng) for part in (split, ~split)
        ]
        if any(part is None for part in parts):
            return "the reference is too short to measure"
        gaps.append(float(np.mean(parts[0]) - np.mean(parts[1])))  # type: ignore[arg-type]
    if theirs is None:
        return "the reference is too short to measure"
    return sides(_half_side(mine), _half_side(theirs), np.array(gaps), plan.n)


def _half_values(
    items: Items, places: NDArray[Any], statistic: Statistic, draws: int, rng: Any
) -> Floats | None:
    """The statistic of two disjoint halves of the items at `places`, `draws` times: (2 draws,)."""
    size = len(places) // 2
    values = []
    for _ in range(draws):
        order = rng.permutation(places)
        for half in (order[:size], order[size : 2 * size]):
            value = statistic(some(items, np.sort(half)))
            if value is None or not np.isfinite(value):
                return None
            values.append(value)
    return np.array(values, dtype=np.float64)


def some(items: Items, places: NDArray[Any]) -> Any:
    """The items at these places: rows of an array, or a list."""
    if isinstance(items, np.ndarray):
        return items[places]
    return [items[at] for at in places.tolist()]


def _joined(one: Items, other: Items) -> Items:
    if isinstance(one, np.ndarray):
        return np.concatenate([one, other])
    return [*one, *other]


def _half_side(values: Floats) -> Side:
    low, high = np.percentile(values, [2.5, 97.5])
    return side(float(values.mean()), low, high)
